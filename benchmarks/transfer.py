"""How long a file takes to a guest and back, over what scp takes for it.

    python benchmarks/transfer.py            # 500 MB, against a server of its own
    python benchmarks/transfer.py 2000 7     # so many MB, so many times

Needs Debian's openssh-server and openssh-client; the server listens on loopback with its own keys.
Each transfer logs in for itself, and they alternate, so that what else the machine does falls
on all; the median counts. Ends with status 1 when a target is missed.
"""

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests/support"))

import openssh

from gpuvm import guest

TARGET = 1.3


def main(megabytes: int = 500, times: int = 7) -> int:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["GPUVM_CACHE_DIR"] = str(folder / "cache")
        os.environ["GPUVM_STATE_DIR"] = str(folder / "state")
        (folder / "server").mkdir()
        with (folder / "big").open("wb") as big:
            for _ in range(megabytes):
                big.write(os.urandom(1_000_000))
        with openssh.running(folder / "server") as server:
            seconds = _measure(_transfers(folder, server), times)
    missed = False
    for name, own, base in (
        ("push", "push", "scp to"),
        ("push by content", "push by content", "scp to"),
        ("push by content, unchanged", "unchanged", "scp to"),
        ("fetch", "fetch", "scp from"),
        ("push by paramiko alone", "push, paramiko", "scp to"),
        ("fetch by paramiko alone", "fetch, paramiko", "scp from"),
    ):
        ratio = seconds[own] / seconds[base]
        aimed_at = not name.endswith("alone")
        missed |= aimed_at and ratio > TARGET
        target = f"target {TARGET}" if aimed_at else ""
        print(f"{name:28} {seconds[own]:6.2f} s  {ratio:5.2f} x scp  {target}")
    return int(missed)


class Transfer:
    """``leftovers`` are removed before each time, so that everything is read and sent again."""

    def __init__(self, work: Callable[[], object], *leftovers: Path) -> None:
        self.work, self._leftovers = work, leftovers

    def forget(self) -> None:
        for path in self._leftovers:
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)


def _transfers(folder: Path, server: openssh.Server) -> dict[str, Transfer]:
    big, back, there = folder / "big", folder / "back", server.home
    options = {
        "IdentityFile": server.key_file,
        "IdentitiesOnly": "yes",
        "UserKnownHostsFile": server.known_hosts,
    }
    words = [word for key, value in options.items() for word in ("-o", f"{key}={value}")]
    scp = ["scp", "-q", "-F", "none", "-P", str(server.port), *words]
    remote = f"{server.endpoint.user}@{server.endpoint.address}:{there}/scp"

    def by_content() -> None:
        with guest.connect(server.endpoint) as machine:
            guest.push_by_content(machine, {"big": big}, f"{there}/run", f"{there}/store")

    def push() -> None:
        with guest.connect(server.endpoint) as machine:
            guest.push(machine, {"big": big}, f"{there}/push")

    def fetch() -> None:
        with guest.connect(server.endpoint) as machine:
            guest.fetch(machine, f"{there}/push", back)

    cache, store, run = folder / "cache", there / "store", there / "run"
    scp_to = [*scp, str(big), remote]
    scp_from = [*scp, remote, str(folder / "copy")]
    return {
        "scp to": Transfer(lambda: subprocess.run(scp_to, check=True), there / "scp"),
        "push": Transfer(push, cache, there / "push"),
        "push by content": Transfer(by_content, cache, store, run),
        "unchanged": Transfer(by_content, run),
        "push, paramiko": Transfer(lambda: _without_ssh(push), cache, there / "push"),
        "scp from": Transfer(lambda: subprocess.run(scp_from, check=True), folder / "copy"),
        "fetch": Transfer(fetch, back),
        "fetch, paramiko": Transfer(lambda: _without_ssh(fetch), back),
    }


def _without_ssh(work: Callable[[], object]) -> None:
    path, os.environ["PATH"] = os.environ["PATH"], "/nowhere"
    try:
        work()
    finally:
        os.environ["PATH"] = path


def _measure(transfers: dict[str, Transfer], times: int) -> dict[str, float]:
    seconds: dict[str, list[float]] = {name: [] for name in transfers}
    for _ in range(times):
        for name, transfer in transfers.items():
            transfer.forget()
            begun = time.perf_counter()
            transfer.work()
            seconds[name].append(time.perf_counter() - begun)
    return {name: statistics.median(taken) for name, taken in seconds.items()}


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
