"""Programs forked from a process that has TensorFlow loaded: each starts three seconds sooner.

What a program does is the same, and so are its exit status and its output; only that ``python -m``
starts it is left to the tests that run one by hand.
"""

import functools
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from multiprocessing import forkserver
from pathlib import Path

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["preloaded"])


class Forked:
    """What tests use of Popen, for ``python -m module arguments`` in ``folder``."""

    def __init__(
        self, module: str, arguments: Sequence[str], folder: Path, environment: Mapping[str, str]
    ) -> None:
        self._outputs = [tempfile.NamedTemporaryFile("w+") for _ in range(2)]  # noqa: SIM115
        names = [output.name for output in self._outputs]
        self._process = _context.Process(
            target=_run, args=(module, list(arguments), str(folder), dict(environment), names)
        )
        _start_server()
        self._process.start()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def kill(self) -> None:
        self._process.kill()

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Waits for its end; raises TimeoutExpired, and the program still runs then."""
        self._process.join(timeout)
        if self.poll() is None:
            raise subprocess.TimeoutExpired("program", timeout or 0)
        out, errors = (output.read() for output in self._outputs)
        return out, errors


@functools.cache
def _start_server() -> None:
    """Tells the server where ``preloaded`` is; multiprocessing does not (python/cpython 117378)."""
    path = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(Path(__file__).parent), path)))
    try:
        forkserver.ensure_running()
    finally:
        del os.environ["PYTHONPATH"]
        if path is not None:
            os.environ["PYTHONPATH"] = path


def _run(
    module: str, arguments: list[str], folder: str, environment: dict[str, str], names: list[str]
) -> None:
    for target, name in zip((1, 2), names, strict=True):
        os.dup2(os.open(name, os.O_WRONLY | os.O_APPEND), target)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.path.insert(0, folder)
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
