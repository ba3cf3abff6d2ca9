"""The command line at a terminal, as a person sits at it."""

import contextlib
import os
import select
import subprocess
import sys

from commands import CommandLine

PATIENCE_S = 60


class Terminal:
    """``with Terminal(gpuvm, "run", "stock") as terminal:`` - it is hung up afterwards."""

    def __init__(self, gpuvm: CommandLine, *arguments: str) -> None:
        self._ours, theirs = os.openpty()
        self.shown = ""
        self._process = subprocess.Popen(
            # In a session of its own whose terminal this is: so Ctrl-C reaches it.
            ["setsid", "--ctty", "--wait", sys.executable, "-m", "gpuvm", *arguments],
            cwd=gpuvm.home,
            env=gpuvm.environment | {"TERM": "xterm", "COLUMNS": "200"},
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
        )
        os.close(theirs)

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._ours)

    def press(self, keys: bytes) -> None:
        os.write(self._ours, keys)

    def read_until(self, text: str) -> str:
        """What has been shown since the last call, up to the text."""
        while text not in self.shown:
            ready = select.select([self._ours], [], [], PATIENCE_S)[0]
            assert ready, f"{text!r} was not shown: {self.shown}"
            with contextlib.suppress(OSError):  # its end, when the program has ended
                data = os.read(self._ours, 1 << 16)
                self.shown += data.decode(errors="replace")
                continue
            raise AssertionError(f"{text!r} was not shown: {self.shown}")
        before, _, self.shown = self.shown.partition(text)
        return before + text

    def exit_code(self) -> int:
        with contextlib.suppress(OSError):
            while os.read(self._ours, 1 << 16):
                pass
        return self._process.wait(PATIENCE_S)
