"""How long a file takes to a guest and back, over what scp takes for it.

    python benchmarks/transfer.py            # 500 MB, against a server of its own
    python benchmarks/transfer.py 2000 7     # so many MB, so many times

Needs Debian's openssh-server and openssh-client; the server listens on loopback with its own keys.
The transfers alternate, so that what else the machine does falls on all; the median counts. Ours
begin with the connection that gpuvm has to a guest anyway; scp and the ssh below ours log in.
Ends with status 1 when a target is missed.
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
PYTHON = "/usr/bin/python3"  # not a version manager's script, which takes a while to start


def main(megabytes: int = 500, times: int = 7) -> int:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["GPUVM_CACHE_DIR"] = str(folder / "cache")
        os.environ["GPUVM_STATE_DIR"] = str(folder / "state")
        (folder / "server").mkdir()
        with (folder / "big").open("wb") as big:
            for _ in range(megabytes):
                big.write(os.urandom(1_000_000))
        with (
            openssh.running(folder / "server") as server,
            guest.connect(server.endpoint) as machine,
        ):
            seconds = _measure(_transfers(folder, server, machine), times)
    missed = False
    for own, base, target in (
        ("push", "scp to", TARGET),
        ("push data", "scp to", TARGET),
        ("push unchanged data", "scp to", TARGET),
        ("push, paramiko alone", "scp to", None),
        ("fetch", "scp from", TARGET),
        ("fetch, paramiko alone", "scp from", None),
    ):
        ratio = seconds[own] / seconds[base]
        missed |= target is not None and ratio > target
        print(f"{own:24} {seconds[own]:6.2f} s  {ratio:5.2f} x {base} ({seconds[base]:.2f} s)")
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


def _transfers(folder: Path, server: openssh.Server, machine: guest.Guest) -> dict[str, Transfer]:
    big, back, there = folder / "big", folder / "back", server.home
    cache, store, data = folder / "cache", there / "store", there / "data"
    options = {
        "IdentityFile": server.key_file,
        "IdentitiesOnly": "yes",
        "UserKnownHostsFile": server.known_hosts,
    }
    words = [word for key, value in options.items() for word in ("-o", f"{key}={value}")]
    scp = ["scp", "-q", "-F", "none", "-P", str(server.port), *words]
    remote = f"{server.endpoint.user}@{server.endpoint.address}:{there}/scp"
    scp_to, scp_from = [*scp, str(big), remote], [*scp, remote, str(folder / "copy")]

    def push() -> None:
        guest.push(machine, {"big": big}, f"{there}/push", python=PYTHON)

    def push_data() -> None:
        """As the data of a run: its digest is known, since its name in the guest is made of it."""
        guest.push_by_content(
            machine, {"big": big}, str(data), str(store), fill="link", python=PYTHON
        )

    def fetch() -> None:
        guest.fetch(machine, f"{there}/push", back, python=PYTHON)

    return {
        "scp to": Transfer(lambda: subprocess.run(scp_to, check=True), there / "scp"),
        "push": Transfer(push, cache, there / "push"),
        "push data": Transfer(push_data, store, data),
        "push unchanged data": Transfer(push_data),
        "push, paramiko alone": Transfer(lambda: _without_ssh(push), cache, there / "push"),
        "scp from": Transfer(lambda: subprocess.run(scp_from, check=True), folder / "copy"),
        "fetch": Transfer(fetch, back),
        "fetch, paramiko alone": Transfer(lambda: _without_ssh(fetch), back),
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
