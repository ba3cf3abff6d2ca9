"""gpuvm tensorboard: TensorBoard on the event files of runs, live for those that go on."""

import contextlib
import importlib.util
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import webbrowser
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Annotated, cast

import typer

from gpuvm import paths, results
from gpuvm.cli import completion, output
from gpuvm.cli.options import DeploymentOptions, grouped
from gpuvm.cli.output import State
from gpuvm.cli.run_targets import Guests, open_guests
from gpuvm.errors import BadInput, GpuvmError, NotFound, PreflightRefused
from gpuvm.events import Event, Events
from gpuvm.results import Run
from gpuvm.runs.event_files import EventFiles, LiveRun
from gpuvm.text import one_line

LOOPBACK = "127.0.0.1"
REFRESH_S = 5.0
START_S = 120.0
END_S = 10.0
# Ends with its standard input, and so with this process, however that ends. The module is what
# TensorBoard looks for to do without TensorFlow (tensorboard/compat/__init__.py): it starts in
# seconds, and needs no GPU.
PROGRAM = """
import os, sys, threading, types
sys.modules["tensorboard.compat.notf"] = types.ModuleType("notf")
def watch():
    while os.read(0, 4096):
        pass
    os._exit(0)
threading.Thread(target=watch, daemon=True).start()
from tensorboard.main import run_main
run_main()
"""


@grouped
def tensorboard(
    ctx: typer.Context,
    run_ids: Annotated[
        list[str] | None,
        typer.Argument(
            help="Ids or prefixes; default: all runs.",
            metavar="[RUN]...",
            autocompletion=completion.runs,
        ),
    ] = None,
    port: Annotated[
        int, typer.Option("--port", "-p", min=0, max=65535, help="Default: one that is free.")
    ] = 0,
    host: Annotated[
        str, typer.Option("--host", help="The address to listen on; others can then read it.")
    ] = LOOPBACK,
    opened: Annotated[bool, typer.Option("--open", help="Open it in a browser.")] = False,
    here: Annotated[
        bool, typer.Option("--here", help="Only the records on this machine; needs no vCenter.")
    ] = False,
    *,
    options: DeploymentOptions,
) -> None:
    """Open TensorBoard on the event files of runs, live for runs that go on.

    [bold]Examples[/]

        gpuvm tensorboard

        gpuvm tensorboard train-20261127-091500 --open

    It needs TensorBoard (pip install '.[lab]' in gpuvm's source folder), and stops with Ctrl-C.
    """
    if importlib.util.find_spec("tensorboard") is None:
        raise PreflightRefused(
            "TensorBoard is not installed",
            hint="pip install '.[lab]' in gpuvm's source folder, or pip install tensorboard",
        )
    address = (host, _free_port(host, port))
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with (
        contextlib.suppress(KeyboardInterrupt),
        tempfile.TemporaryDirectory(prefix="gpuvm-tensorboard-") as folder,
    ):
        board = _Board(Path(folder), tuple(run_ids or ()))
        board.find(ctx, options, here=here)
        if not board.refresh():
            raise BadInput(
                f"no event files of TensorBoard in {board.what}",
                hint="keras.callbacks.TensorBoard and torch's SummaryWriter write them",
            )
        with _running(board.logdir, *address) as process:
            _announce(ctx, address, opened=opened)
            while process.poll() is None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(REFRESH_S)
                board.refresh()
        raise GpuvmError("TensorBoard ended unexpectedly")


@dataclass
class _Board:
    """What TensorBoard shows: the ``wanted`` runs, or all that are or will be on this machine."""

    folder: Path
    wanted: tuple[str, ...]
    _records: dict[str, Run] = field(default_factory=dict)
    _live: list[LiveRun] = field(default_factory=list)
    _followed: set[str] = field(default_factory=set)
    _complete: set[str] = field(default_factory=set)
    _any: bool = False
    _warned: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.logdir = self.folder / "runs"
        self.logdir.mkdir()
        self._files = EventFiles(self.logdir)
        self._events = Events(self._on_event)

    @property
    def what(self) -> str:
        return ", ".join(self._records) if self.wanted else paths.shown(paths.runs_dir())

    def find(self, ctx: typer.Context, options: DeploymentOptions, *, here: bool) -> None:
        """The records, and the guests of runs that go on. Raises NotFound, Ambiguous, BadInput."""
        elsewhere = []
        for wanted in self.wanted:
            try:
                record = results.load(wanted)
                self._records[record.run_id] = record
            except NotFound:
                if here:
                    raise
                elsewhere.append(wanted)
        if not self.wanted:
            self._find_all()
        going_on = [r.run_id for r in self._records.values() if r.manifest.status == "running"]
        if here or not (going_on or elsewhere):
            return
        try:
            with open_guests(ctx, options) as guests:
                for wanted in (*elsewhere, *going_on):
                    self._follow(guests, wanted)
        except GpuvmError as error:
            if elsewhere:
                raise
            self._warn(f"runs are shown as far as they were fetched: {error}")

    def refresh(self) -> bool:
        """Whether there is, or may soon be, anything to show."""
        for one in tuple(self._live):
            if not one.fetch(self._events):
                self._live.remove(one)
            fetched = self._files.add(one.record, one.cache)
            self._any |= fetched or self._files.add(one.record)  # as far as it is here
        if not self.wanted:
            self._find_all()
        for run_id, record in self._records.items():
            if run_id in self._followed | self._complete:
                continue
            self._any |= self._files.add(record)
            if record.manifest.status != "running":
                self._complete.add(run_id)
        return self._any or bool(self._live)

    def _find_all(self) -> None:
        for run_id in results.list_runs():
            if run_id not in self._complete:
                try:
                    self._records[run_id] = results.load(run_id)
                except BadInput as error:
                    self._warn(str(error))

    def _follow(self, guests: Guests, wanted: str) -> None:
        try:
            record, members = guests.run(wanted)
        except PreflightRefused as error:  # its VMs are off
            self._warn(str(error))
            return
        cache = self.folder / "fetched" / record.run_id
        settings = guests.session.context.guest
        self._records[record.run_id] = record
        self._followed.add(record.run_id)
        self._live.append(LiveRun(record, members, settings, cache))

    def _on_event(self, event: Event) -> None:
        if event.kind == "warning":
            self._warn(f"{event.vm}: {event.text}" if event.vm else str(event.text))

    def _warn(self, text: str) -> None:
        """Once, since what goes wrong is tried again and again."""
        if text not in self._warned:
            self._warned.add(text)
            output.warn(one_line(text))


def _free_port(host: str, wanted: int) -> int:
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, wanted, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            return int(probe.getsockname()[1])
    except OSError as error:
        where = f"port {wanted} of {host}" if wanted else f"a port of {host}"
        raise BadInput(f"cannot open {where}: {error.strerror or error}") from None


@contextlib.contextmanager
def _running(logdir: Path, host: str, port: int) -> "Iterator[subprocess.Popen[bytes]]":
    """TensorBoard, once it listens. Raises GpuvmError with its last line if it ends before."""
    options = ["--logdir", str(logdir), "--host", host, "--port", str(port)]
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", PROGRAM, *options, "--reload_interval", f"{REFRESH_S:g}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    last: deque[str] = deque(maxlen=1)
    reader = threading.Thread(target=_read, args=(cast("IO[bytes]", process.stderr), last))
    reader.start()
    try:
        _wait_until_open(process, host, port, last)
        yield process
    finally:
        cast("IO[bytes]", process.stdin).close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(END_S)
        process.kill()
        process.wait()
        reader.join()


def _read(stream: IO[bytes], last: deque[str]) -> None:
    with stream:
        last.extend(line.decode(errors="replace").strip() for line in stream if line.strip())


def _wait_until_open(
    process: "subprocess.Popen[bytes]", host: str, port: int, last: deque[str]
) -> None:
    deadline = time.monotonic() + START_S
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=1):
            return
        time.sleep(0.1)
    raise GpuvmError(f"TensorBoard did not start: {last[0] if last else 'it does not answer'}")


def _announce(ctx: typer.Context, address: tuple[str, int], *, opened: bool) -> None:
    host, port = address
    shown = f"[{host}]" if ":" in host else host
    url = f"http://{shown}:{port}/"
    if not ctx.ensure_object(State).json:
        output.line(f"TensorBoard: {url}")
        output.line("press Ctrl-C to stop")
    if host != LOOPBACK:
        output.warn("it asks for no password: everybody who reaches this address can read the runs")
    if opened and not webbrowser.open(url):
        output.warn(f"found no browser; open {url} yourself")
    output.finish(ctx, output.Result("tensorboard", {"url": url}))
