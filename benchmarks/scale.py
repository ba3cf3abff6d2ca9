"""What a large vCenter costs: seconds and memory of the commands that look at all of it.

    python benchmarks/scale.py                            # 1,000 hosts, 10,000 VMs
    python benchmarks/scale.py --hosts 64 --vms 0         # smaller
    python benchmarks/scale.py --gpu-hosts 100            # the other hosts have none

A lab of that size, in which each VM has its disks and cards, and then gpus, plan and status, each
as a process of its own: its whole time, from its start to its end, the CPU seconds of the client
and of the simulated vCenter, and the most memory that the client had. The targets are 10 s and
200 MB. Client and server mostly wait for each other: on an idle machine a command takes no longer
than their CPU seconds, which are what the target is compared with, because they depend less on
what else runs.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from gpuvm import lab
from gpuvm.lab import daemons
from gpuvm.lab.description import VMDescription, cluster_services, describe

SECONDS, MIB = 10.0, 200
COMMANDS = (
    ("gpus",),
    ("plan", "--hosts", "4"),
    ("plan", "--hosts", "4", "--accelerator", "dynamic"),
    ("status",),
)
TELLS_ITS_MEMORY = (
    "import atexit, sys; "
    "status = lambda: open('/proc/self/status').read(); "
    "atexit.register(lambda: print(status().partition('VmHWM:')[2].split()[0], file=sys.stderr)); "
    "sys.argv[0] = 'gpuvm'; "
    "from gpuvm.cli.main import main; main()"
)


def main() -> None:
    options = _parse()
    with tempfile.TemporaryDirectory(prefix="gpuvm-bench-") as folder:
        os.environ["GPUVM_CONFIG_DIR"] = f"{folder}/config"
        os.environ["GPUVM_STATE_DIR"] = f"{folder}/state"
        with _site(options, Path(folder)):
            measured = [_measure(command, Path(folder)) for command in COMMANDS]
    missed = [one for one in measured if one[0] > SECONDS or one[1] > MIB]
    sys.exit(1 if missed else 0)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--hosts", type=int, default=1000, metavar="N")
    parser.add_argument("--gpu-hosts", type=int, metavar="N", help="all of them if left out")
    parser.add_argument("--gpus-per-host", type=int, default=1, metavar="N")
    parser.add_argument("--vms", type=int, default=10_000, metavar="N")
    return parser.parse_args()


@contextmanager
def _site(options: argparse.Namespace, folder: Path) -> Iterator[None]:
    shape = describe(hosts=options.hosts, gpus_per_host=options.gpus_per_host)
    equipped = options.hosts if options.gpu_hosts is None else options.gpu_hosts
    hosts = tuple(
        host if number < equipped else host.model_copy(update={"gpus": ()})
        for number, host in enumerate(shape.hosts)
    )
    vms = (VMDescription(count=options.vms, memory_gib=1, cpus=1), cluster_services(options.hosts))
    file = folder / "site.json"
    file.write_text(shape.model_copy(update={"hosts": hosts, "vms": vms}).to_json())
    reading, writing = os.pipe()
    begun = time.monotonic()
    daemons._START_TIMEOUT_S = 1800.0  # ten thousand VMs take minutes to be made
    lab.up(lab.LabOptions(name="scale", description=file), lifeline=reading)
    os.close(reading)
    print(
        f"{options.hosts} hosts, {equipped} of them with {options.gpus_per_host} GPU each, "
        f"{options.vms} VMs; the lab was up after {time.monotonic() - begun:.0f} s and "
        f"{_server_seconds():.0f} CPU seconds of its vCenter; "
        f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} CPUs",
        flush=True,
    )
    try:
        yield
    finally:
        lab.down("scale")
        os.close(writing)


def _measure(command: tuple[str, ...], folder: Path) -> tuple[float, float]:
    begun, before, served = time.monotonic(), os.times(), _server_seconds()
    done = subprocess.run(
        [sys.executable, "-c", TELLS_ITS_MEMORY, *command],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    seconds, after = time.monotonic() - begun, os.times()
    client, server = sum(after[2:4]) - sum(before[2:4]), _server_seconds() - served
    if done.returncode not in (0, 10):
        sys.exit(f"gpuvm {' '.join(command)} ended with {done.returncode}: {done.stderr[-2000:]}")
    mib = int(done.stderr.split()[-1]) / 1024
    print(
        f"gpuvm {' '.join(command):40s} {seconds:6.1f} s, CPU seconds: client {client:.1f}, "
        f"server {server:.1f}; {mib:.0f} MB; load {os.getloadavg()[0]:.1f}",
        flush=True,
    )
    return client + server, mib


def _server_seconds() -> float:
    """CPU seconds of the simulated vCenter until now."""
    ready = json.loads((lab.status("scale").state_dir / "ready.json").read_text())
    times = psutil.Process(ready["pid"]).cpu_times()
    return float(times.user + times.system)


if __name__ == "__main__":
    main()
