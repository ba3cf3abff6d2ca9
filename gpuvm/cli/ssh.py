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
"""Printed by ssh's LocalCommand, which runs once the ports are forwarded."""
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
        typer.Argument(help="The command, after --.", metavar="[-- COMMAND]..."),
    ] = None,
    tty: Annotated[
        bool, typer.Option("--tty", "-t", help="Allocate a terminal for COMMAND, such as htop.")
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

    The host key is pinned through the vCenter. A single argument is run by the guest's shell;
    several are passed to the program unchanged. The exit status is the command's, or 255 if ssh
    itself failed. With --json, the ssh command line is printed and not run.
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
            help="Files or folders, then the target; one side is VM:PATH.",
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

    Folders are copied recursively. A relative path in the VM starts in its user's home folder.
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
    errors = printable(done.stderr.decode(errors="replace")).strip()
    if done.returncode != 0:
        *before, _ = errors.splitlines() or [""]
        for line in before:
            output.warn(line)
        raise CommandFailed(copy.vm, "scp", done.returncode, errors)
    data = {"vm": copy.vm, "sources": copy.sources, "target": copy.target}
    output.finish(ctx, output.Result("cp", data))


@grouped
def forward(
    ctx: typer.Context,
    vm: VMOfCommand,
    ports: Annotated[
        list[str], typer.Argument(help="The VM's port, or LOCAL:REMOTE.", metavar="PORT...")
    ],
    *,
    options: DeploymentOptions,
) -> None:
    """Forward ports of a VM, such as Jupyter's or TensorBoard's, to this machine.

    [bold]Examples[/]

        gpuvm forward gpuvm-01 8888

        gpuvm forward gpuvm-01 8888 16006:6006

    The ports are open only on 127.0.0.1, until Ctrl-C.
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
    """Check address, host key and login first, so that later ssh errors come from the command.

    Nothing is printed, because standard output belongs to the command.
    """
    wanted = options.spec()
    with open_session(ctx, options.context, wanted.context, announced=False) as session:
        place = targets.endpoints(session, wanted.name, [name], every=False)[0]
    yield guest.locate(place), session.context


def _program(name: str, package: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise PreflightRefused(
            f"{name} is not installed here", hint=f"install the OpenSSH client ({package})"
        )
    return found


def _as_typed(command: Sequence[str]) -> list[str]:
    return list(command) if len(command) < 2 else [shlex.join(command)]


def _become(arguments: Sequence[str]) -> NoReturn:
    """Replace this process by ssh, so that signals, terminal and exit status are ssh's."""
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
    """Raises BadInput unless exactly one side is in a VM, and all of it in the same one."""
    *sources, target = paths
    if not sources:
        raise BadInput("cp needs a source and a target", hint="'gpuvm cp FILE gpuvm-01:'")
    there, to = {_vm_of(path) for path in sources}, _vm_of(target)
    vms = (there | {to}) - {None}
    if not vms:
        raise BadInput(
            "neither side is in a VM", hint=f"write VM:PATH, such as gpuvm-01:{Path(target).name}"
        )
    if len(vms) > 1 or (to is not None and there != {None}) or (to is None and None in there):
        raise BadInput(
            "one side must be on this machine, and the other in one VM",
            hint="copy to this machine first, then to the other VM",
        )
    if to is not None:
        for path in sources:
            if not Path(path).exists():
                raise BadInput(f"no such file on this machine: {path}")
    return _Copy(str(vms.pop()), sources, target)


def _vm_of(path: str) -> str | None:
    """Parse a path as scp does: a colon before any slash ends a host name."""
    name, colon, _ = path.partition(":")
    return name if colon and name and "/" not in name else None


def _read_ports(texts: Sequence[str]) -> list[tuple[int, int]]:
    pairs = []
    for text in texts:
        here, _, there = text.rpartition(":")
        numbers = [int(p) if p.isascii() and p.isdigit() else 0 for p in (here or there, there)]
        if not all(0 < number <= 65535 for number in numbers):
            raise BadInput(
                f"'{text}' is not a port", hint="use PORT or LOCAL:REMOTE, from 1 to 65535"
            )
        pairs.append((numbers[0], numbers[1]))
    twice = [here for n, (here, _) in enumerate(pairs) if here in [p for p, _ in pairs[:n]]]
    if twice:
        raise BadInput(f"local port {twice[0]} is given twice")
    return pairs


def _check_free(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError as error:
            raise BadInput(
                f"cannot open local port {port}: {error.strerror or error}",
                hint=f"use another one: LOCAL:{port}",
            ) from None


def _forward(
    ctx: typer.Context, place: Endpoint, arguments: Sequence[str], pairs: Sequence[tuple[int, int]]
) -> None:
    """Forward until Ctrl-C or SIGTERM, which also end ssh. Raises GuestUnreachable if ssh ends."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    last: list[str] = []
    pipes: dict[str, Any] = {
        "stdin": subprocess.DEVNULL,
        "stdout": subprocess.PIPE,
        "stderr": subprocess.PIPE,
    }
    with subprocess.Popen(arguments, start_new_session=True, **pipes) as process:
        lines, errors = cast("IO[bytes]", process.stdout), cast("IO[bytes]", process.stderr)
        reader = threading.Thread(target=_show_errors, args=(place.name, errors, last))
        reader.start()
        try:
            if any(OPEN.encode() in line for line in iter(lines.readline, b"")):
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
        output.line("press Ctrl-C to stop")
    ports = [{"url": f"http://{LOOPBACK}:{here}", "vm_port": there} for here, there in pairs]
    output.finish(ctx, output.Result("forward", {"vm": vm, "ports": ports}))


def _show_errors(vm: str, stream: IO[bytes], last: list[str]) -> None:
    """Print ssh's errors, for example that the VM's port is closed."""
    for raw in stream:
        last[:] = [raw.decode(errors="replace").strip()]
        guest_output.show_line(f"{vm}: ", last[0], stderr=True)
