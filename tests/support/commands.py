"""The command line as a user runs it: a separate process with its own home directory."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpuvm.lab.description import Description, Timings, describe

FAST = {
    "clone_s": 0.2,
    "power_on_s": 0.1,
    "power_off_s": 0,
    "destroy_s": 0,
    "boot_s": 0.1,
}


@dataclass(frozen=True)
class Done:
    exit_code: int
    stdout: str
    stderr: str

    @property
    def json(self) -> dict[str, Any]:
        envelope = json.loads(self.stdout)
        assert envelope["exit_code"] == self.exit_code
        return dict(envelope)


class CommandLine:
    """``gpuvm(...)`` runs the command to its end; ``gpuvm.start(...)`` leaves it running."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "GPUVM_CACHE_DIR": os.environ["GPUVM_CACHE_DIR"],
            "PYTHON_KEYRING_BACKEND": os.environ["PYTHON_KEYRING_BACKEND"],
            "TF_CPP_MIN_LOG_LEVEL": "2",
            **{name: os.environ[name] for name in ("PYTHONPATH",) if name in os.environ},
        }

    def __call__(
        self, *arguments: str, timeout_s: float = 300, stdin: str = "", **environment: str
    ) -> Done:
        done = subprocess.run(
            [sys.executable, "-m", "gpuvm", *arguments],
            cwd=self.home,
            env=self.environment | environment,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        return Done(done.returncode, done.stdout, done.stderr)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "gpuvm", *arguments],
            cwd=self.home,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )


def interrupt(process: subprocess.Popen[str]) -> None:
    """What Ctrl-C in a terminal does to the command."""
    os.killpg(process.pid, signal.SIGINT)


def fast_lab(shape: Description | None = None) -> str:
    """The description of a lab with quick operations, as JSON."""
    return (shape or describe()).model_copy(update={"timings": Timings(**FAST)}).to_json()
