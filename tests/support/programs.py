"""Runs a workload as a user does, alone or as several workers on this machine."""

import json
import os
import socket
import subprocess
import sys
import zipfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from forked import Forked

WORKLOADS = Path(__file__).parents[2] / "workloads"
TIMEOUT_S = 240

Records = list[dict[str, Any]]


@dataclass(frozen=True)
class Program:
    """A package of workloads/, by its name."""

    name: str

    def start(self, out: Path, *arguments: str, **environment: str) -> Forked:
        clean = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
        return Forked(self.name, ["--out", str(out), *arguments], WORKLOADS, clean | environment)

    def by_hand(self, out: Path, *arguments: str) -> Records:
        """Run it as in workloads/README.md; it must succeed."""
        command = [sys.executable, "-m", self.name, "--out", str(out), *arguments]
        done = subprocess.run(
            command, cwd=WORKLOADS, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
        assert done.returncode == 0, done.stderr
        return records(out)

    def __call__(self, out: Path, *arguments: str) -> Records:
        """Run it to its end; it must succeed."""
        process = self.start(out, *arguments)
        _, errors = process.communicate(timeout=TIMEOUT_S)
        assert process.returncode == 0, errors
        return records(out)

    def refused(self, out: Path, *arguments: str) -> str:
        """Run to exit status 2 and return the output, one line of which is the reason."""
        process = self.start(out, *arguments)
        _, errors = process.communicate(timeout=TIMEOUT_S)
        assert process.returncode == 2, errors
        return errors

    def together(
        self, out: Path, *arguments: str, workers: int = 2, absent: int = 0
    ) -> list[Forked]:
        """Starts the workers but for the last ``absent``; their ports are chosen all at once."""
        with ExitStack() as held:
            sockets = [held.enter_context(socket.create_server(("", 0))) for _ in range(workers)]
            ports = [one.getsockname()[1] for one in sockets]
        cluster = {"worker": [f"127.0.0.1:{port}" for port in ports]}
        started = []
        for index in range(workers - absent):
            task = {"type": "worker", "index": index}
            config = json.dumps({"cluster": cluster, "task": task})
            started.append(self.start(out / str(index), *arguments, TF_CONFIG=config))
        return started


def all_succeed(processes: list[Forked]) -> None:
    for process in processes:
        _, errors = process.communicate(timeout=TIMEOUT_S)
        assert process.returncode == 0, errors


def records(out: Path) -> Records:
    return [json.loads(line) for line in (out / "timings.jsonl").read_text().splitlines()]


def of(found: Records, event: str) -> Records:
    return [record for record in found if record["event"] == event]


def score(found: Records, name: str) -> float:
    return float(next(r["value"] for r in of(found, "score") if r["name"] == name))


def wheel(folder: Path, name: str, version: str, requires: str = "") -> None:
    """A wheel with one module that knows its version."""
    folder.mkdir(parents=True, exist_ok=True)
    info = f"{name}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    files = {
        f"{name}.py": f"version = {version!r}\n",
        f"{info}/METADATA": metadata + (f"Requires-Dist: {requires}\n" if requires else ""),
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as archive:
        for file, text in files.items():
            archive.writestr(file, text)
        record = "".join(f"{file},,\n" for file in (*files, f"{info}/RECORD"))
        archive.writestr(f"{info}/RECORD", record)
