"""gpuvm exec: one command on one VM, several or all of them at once."""

import shlex
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Annotated, Any

import typer

from gpuvm import guest
from gpuvm.cli import completion, guest_output, output, targets
from gpuvm.cli.options import DeploymentOptions, grouped
from gpuvm.cli.output import State
from gpuvm.cli.session import open_session
from gpuvm.errors import BadInput, CommandFailed, ExitCode, GuestError
from gpuvm.guest import Endpoint, Guest

AT_ONCE = 32
MOST_BYTES = 1 << 20
"""--json has at most the last MiB of each stream of each VM."""


@dataclass
class Done:
    """The result of the command on one VM; ``error`` is None if it exited with status 0.

    ``left_out`` is the number of bytes that are missing at the beginning of each stream.
    """

    vm: str
    stdout: str = ""
    stderr: str = ""
    left_out: tuple[int, int] = (0, 0)
    exit_status: int | None = None
    error: GuestError | None = None


@grouped
def execute(
    ctx: typer.Context,
    command: Annotated[
        list[str], typer.Argument(help="The command, after --.", metavar="-- COMMAND...")
    ],
    vms: Annotated[
        list[str] | None,
        typer.Option(
            "--vm",
            help="Run on this VM; can be repeated.",
            metavar="NAME",
            autocompletion=completion.vms,
        ),
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Run on every running VM.")] = False,
    *,
    options: DeploymentOptions,
) -> None:
    """Run a command on one VM, several or all of them at once.

    [bold]Examples[/]

        gpuvm exec --all -- nvidia-smi -L

        gpuvm exec --vm gpuvm-01 --vm gpuvm-02 -- 'df -h / | tail -1'

        gpuvm exec --all --json -- uname -r

    With several VMs, each line is prefixed with its VM; control characters are shown, not executed.
    Of long output, --json has the last MiB.
    A single argument is run by the guest's shell; several are passed to the program unchanged.
    The exit code is 4 if the command fails on some VMs, and 1 if it fails on all.
    """
    if every and vms:
        raise BadInput("--all and --vm exclude each other", hint="use one of them")
    wanted = options.spec()
    with open_session(ctx, options.context, wanted.context, announced=False) as session:
        places = targets.endpoints(session, wanted.name, vms, every=every)
    state = ctx.ensure_object(State)
    results = _on_each(places, command[0] if len(command) == 1 else command, shown=not state.json)
    errors = tuple(done.error for done in results if done.error is not None)
    code = ExitCode.DONE
    if errors:
        code = ExitCode.FAILED if len(errors) == len(results) else ExitCode.PARTLY_DONE
    output.finish(ctx, output.Result("exec", {"vms": list(map(_json, results))}, code, errors))


def _on_each(
    places: Sequence[Endpoint], command: str | Sequence[str], *, shown: bool
) -> list[Done]:
    """Run the command on every VM, even if it fails on others."""
    running = _Running(command, shown=shown, prefixed=len(places) > 1)
    with ThreadPoolExecutor(min(len(places), AT_ONCE)) as threads:
        futures = [threads.submit(running.on, place) for place in places]
        try:
            wait(futures)
        except BaseException:
            running.interrupted = True
            threads.shutdown(wait=False, cancel_futures=True)
            for connected in list(running.connected):  # else Ctrl-C would wait for the command
                connected.close()
            raise
    return [future.result() for future in futures]


@dataclass
class _Running:
    command: str | Sequence[str]
    shown: bool
    prefixed: bool
    connected: set[Guest] = field(default_factory=set)
    interrupted: bool = False

    def on(self, place: Endpoint) -> Done:
        done = Done(place.name)
        try:
            with guest.connect(place) as machine:
                self.connected.add(machine)
                if self.interrupted:
                    return done
                done.exit_status = (
                    self._shown(machine) if self.shown else self._gathered(machine, done)
                )
        except GuestError as error:
            done.error = error
            return done
        if done.exit_status != 0:
            name = self.command if isinstance(self.command, str) else shlex.join(self.command)
            done.error = CommandFailed(place.name, name, done.exit_status, done.stderr)
        return done

    def _shown(self, machine: Guest) -> int:
        prefix = f"{machine.name}: " if self.prefixed else ""
        out = guest_output.Lines(lambda line: guest_output.show_line(prefix, line))
        errors = guest_output.Lines(lambda line: guest_output.show_line(prefix, line, stderr=True))
        try:
            return machine.execute(self.command, out.feed, errors.feed)
        finally:
            out.close()
            errors.close()

    def _gathered(self, machine: Guest, done: Done) -> int:
        out, errors = _End(), _End()
        try:
            return machine.execute(self.command, out.feed, errors.feed)
        finally:
            done.stdout, done.stderr = out.text, errors.text
            done.left_out = (out.left_out, errors.left_out)


class _End:
    """The last bytes of a stream, however long it is."""

    def __init__(self) -> None:
        self._data, self.left_out = bytearray(), 0

    def feed(self, data: bytes) -> None:
        self._data += data
        more = len(self._data) - MOST_BYTES
        if more > 0:
            del self._data[:more]
            self.left_out += more

    @property
    def text(self) -> str:
        return self._data.decode(errors="replace")


def _json(done: Done) -> dict[str, Any]:
    return {
        "vm": done.vm,
        "exit_status": done.exit_status,
        "stdout": done.stdout,
        "stderr": done.stderr,
        "stdout_left_out": done.left_out[0],
        "stderr_left_out": done.left_out[1],
        "error": str(done.error) if done.error else None,
    }
