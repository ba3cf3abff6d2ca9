"""gpuvm ssh, cp and forward: the system's own ssh and scp, with gpuvm's keys and addresses."""

import os
import shlex
import shutil
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Annotated, Any, NoReturn, cast

import typer

from gpuvm import guest
from gpuvm.cli import completion, guest_output, output, targets
from gpuvm.cli.options import DeploymentOptions, grouped
from gpuvm.cli.output import State
from gpuvm.cli.session import open_session
from gpuvm.errors import BadInput, CommandFailed, GuestUnreachable, PreflightRefused
from gpuvm.guest import Endpoint, ssh_config
from gpuvm.settings import Context
from gpuvm.text import printable

LOOPBACK = "127.0.0.1"
OPEN = "gpuvm-forward-open"
"""What ssh's LocalCommand prints, which it runs once the ports are forwarded."""
ALIVE = ("-oServerAliveInterval=15", "-oServerAliveCountMax=3")

VMOfCommand = Annotated[
    str, typer.Argument(help="The VM's name.", metavar="VM", autocompletion=completion.vms)
]


@grouped
def ssh(
    ctx: typer.Context,
    vm: VMOfCommand,
    command: Annotated[
        list[str] | None,
        typer.Argument(help="After --: what to run there.", metavar="[-- COMMAND]..."),
    ] = None,
    tty: Annotated[
        bool, typer.Option("--tty", "-t", help="A terminal for COMMAND, as htop needs one.")
    ] = False,
    *,
    options: DeploymentOptions,
) -> None:
    """Open a shell on a VM, or run a command there, with the system's ssh.

    [bold]Examples[/]

        gpuvm ssh gpuvm-02

        gpuvm ssh gpuvm-02 -- nvidia-smi -L

        gpuvm ssh gpuvm-02 -- 'du -sh * | sort -h'

        gpuvm ssh gpuvm-02 -t -- htop

    The host key is pinned through the vCenter. One argument is read by the guest's shell, several
    reach the program as they are. The exit status is the command's, 255 where ssh itself failed.
    With --json it connects to nothing, and shows how ssh would be called.
    """
    program = _program("ssh", "openssh-client")
    with _one_guest(ctx, vm, options) as (place, known):
        arguments = [program, *ssh_config.arguments(place, known)]
    arguments += ["-t"] if tty else []
    arguments += ["--", place.name, *_as_typed(command or [])]
    if ctx.ensure_object(State).json:
        output.finish(ctx, output.Result("ssh", {"vm": vm, "command": arguments}))
        return
    _become(arguments)


@grouped
def cp(
    ctx: typer.Context,
    paths: Annotated[
        list[str],
        typer.Argument(
            help="What to copy, and last where to; one side is VM:PATH.",
            metavar="SOURCE... TARGET",
        ),
    ],
    *,
    options: DeploymentOptions,
) -> None:
    """Copy files and folders to a VM, or from one, as scp does.

    [bold]Examples[/]

        gpuvm cp train.csv gpuvm-01:

        gpuvm cp ./project gpuvm-01:work/

        gpuvm cp gpuvm-01:work/model.keras 'gpuvm-01:logs/*.txt' .

    Folders are copied with all that is in them. A path in the VM begins in the home of its user.
    """
    copy = _read_copy(paths)
    program = _program("scp", "openssh-client")
    with _one_guest(ctx, copy.vm, options) as (place, known):
        arguments = [program, "-r", *ssh_config.arguments(place, known), "--", *copy.arguments]
    state = ctx.ensure_object(State)
    done = subprocess.run(
        arguments,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL if state.json else None,  # the progress meter, at a terminal
        stderr=subprocess.PIPE,
        check=False,
    )
    said = printable(done.stderr.decode(errors="replace")).strip()
    if done.returncode != 0:
        *before, _ = said.splitlines() or [""]
        for line in before:
            output.warn(line)
        raise CommandFailed(copy.vm, "scp", done.returncode, said)
    data = {"vm": copy.vm, "sources": copy.sources, "target": copy.target}
    output.finish(ctx, output.Result("cp", data))


@grouped
def forward(
    ctx: typer.Context,
    vm: VMOfCommand,
    ports: Annotated[
        list[str], typer.Argument(help="The VM's port, or here:there.", metavar="PORT...")
    ],
    *,
    options: DeploymentOptions,
) -> None:
    """Reach ports of a VM, such as Jupyter's or TensorBoard's, from this machine alone.

    [bold]Examples[/]

        gpuvm forward gpuvm-01 8888

        gpuvm forward gpuvm-01 8888 16006:6006

    The ports are open on 127.0.0.1 only, until Ctrl-C.
    """
    pairs = _read_ports(ports)
    program = _program("ssh", "openssh-client")
    for here, _ in pairs:
        _check_free(here)
    with _one_guest(ctx, vm, options) as (place, known):
        how = ssh_config.arguments(place, known)
    arguments = [program, "-N", "-S", "none", *how, *ALIVE]
    arguments += ["-oExitOnForwardFailure=yes", "-oBatchMode=yes"]
    arguments += ["-oPermitLocalCommand=yes", f"-oLocalCommand=echo {OPEN}"]
    arguments += [f"-L{LOOPBACK}:{here}:localhost:{there}" for here, there in pairs]
    _forward(ctx, place, [*arguments, "--", place.name], pairs)


@contextmanager
def _one_guest(
    ctx: typer.Context,
    name: str,
    options: DeploymentOptions,
) -> Iterator[tuple[Endpoint, Context]]:
    """It answers, shows the right host key and accepts ours: what ssh says then is the command's.

    Nothing is printed: standard output is the command's.
    """
    wanted = options.spec()
    with open_session(ctx, options.context, wanted.context, announced=False) as session:
        place = targets.endpoints(session, wanted.name, [name], every=False)[0]
    yield guest.locate(place), session.context


def _program(name: str, package: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise PreflightRefused(
            f"there is no {name} on this machine", hint=f"install OpenSSH's client ({package})"
        )
    return found


def _as_typed(command: Sequence[str]) -> list[str]:
    return list(command) if len(command) < 2 else [shlex.join(command)]


def _become(arguments: Sequence[str]) -> NoReturn:
    """Become ssh: signals, the terminal and the exit status are its own."""
    os.execv(arguments[0], list(arguments))  # noqa: S606 - no shell is wanted


@dataclass(frozen=True)
class _Copy:
    vm: str
    sources: list[str]
    target: str

    @property
    def arguments(self) -> list[str]:
        return [*self.sources, self.target]


def _read_copy(paths: Sequence[str]) -> _Copy:
    """Raises BadInput unless exactly one side is one VM's."""
    *sources, target = paths
    if not sources:
        raise BadInput("cp needs a source and a target", hint="'gpuvm cp FILE gpuvm-01:'")
    there, to = {_vm_of(path) for path in sources}, _vm_of(target)
    vms = (there | {to}) - {None}
    if not vms:
        raise BadInput(
            "neither side is in a VM", hint=f"VM:PATH is, such as gpuvm-01:{Path(target).name}"
        )
    if len(vms) > 1 or (to is not None and there != {None}) or (to is None and None in there):
        raise BadInput(
            "one side must be on this machine, and the other in one VM",
            hint="copy here first, then there",
        )
    if to is not None:
        for path in sources:
            if not Path(path).exists():
                raise BadInput(f"there is no {path} on this machine")
    return _Copy(str(vms.pop()), sources, target)


def _vm_of(path: str) -> str | None:
    """As scp reads it: a colon before any slash is a machine's."""
    name, colon, _ = path.partition(":")
    return name if colon and name and "/" not in name else None


def _read_ports(texts: Sequence[str]) -> list[tuple[int, int]]:
    pairs = []
    for text in texts:
        here, _, there = text.rpartition(":")
        numbers = [int(p) if p.isascii() and p.isdigit() else 0 for p in (here or there, there)]
        if not all(0 < number <= 65535 for number in numbers):
            raise BadInput(
                f"'{text}' is not a port", hint="PORT, or HERE:THERE, each from 1 to 65535"
            )
        pairs.append((numbers[0], numbers[1]))
    twice = [here for n, (here, _) in enumerate(pairs) if here in [p for p, _ in pairs[:n]]]
    if twice:
        raise BadInput(f"port {twice[0]} of this machine is named twice")
    return pairs


def _check_free(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError as error:
            raise BadInput(
                f"port {port} cannot be opened on this machine: {error.strerror or error}",
                hint=f"take another one: OTHER:{port}",
            ) from None


def _forward(
    ctx: typer.Context, place: Endpoint, arguments: Sequence[str], pairs: Sequence[tuple[int, int]]
) -> None:
    """Until Ctrl-C or SIGTERM, which end ssh with us. Raises GuestUnreachable when ssh ends."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    last: list[str] = []
    pipes: dict[str, Any] = {
        "stdin": subprocess.DEVNULL,
        "stdout": subprocess.PIPE,
        "stderr": subprocess.PIPE,
    }
    with subprocess.Popen(arguments, start_new_session=True, **pipes) as process:
        said, errors = cast("IO[bytes]", process.stdout), cast("IO[bytes]", process.stderr)
        reader = threading.Thread(target=_show_errors, args=(place.name, errors, last))
        reader.start()
        try:
            if any(OPEN.encode() in line for line in iter(said.readline, b"")):
                _show_open(ctx, place.name, pairs)
            process.wait()
        except KeyboardInterrupt:
            return
        finally:
            process.terminate()
            process.wait()
            reader.join()
    why = f": {last[-1]}" if last else ""
    raise GuestUnreachable(f"{place.name}: the connection ended{why}")


def _show_open(ctx: typer.Context, vm: str, pairs: Sequence[tuple[int, int]]) -> None:
    state = ctx.ensure_object(State)
    if not state.json:
        for here, there in pairs:
            output.line(f"http://{LOOPBACK}:{here} is port {there} of {vm}")
        output.line("Ctrl-C ends it")
    ports = [{"url": f"http://{LOOPBACK}:{here}", "vm_port": there} for here, there in pairs]
    output.finish(ctx, output.Result("forward", {"vm": vm, "ports": ports}))


def _show_errors(vm: str, stream: IO[bytes], last: list[str]) -> None:
    """What ssh says, such as that nothing listens at the VM's port."""
    for raw in stream:
        last[:] = [raw.decode(errors="replace").strip()]
        guest_output.show_line(f"{vm}: ", last[0], stderr=True)
