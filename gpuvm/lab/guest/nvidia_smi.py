"""The lab's nvidia-smi: lists the GPUs of this VM's virtual hardware, marked ``simulated``.

A copy of this file runs in the guest, with the standard library only. ``gpus.json`` beside it has
the GPUs that the VM was given at power-on. They show a load while a program in the guest has
TensorFlow or PyTorch loaded and no GPU hidden from it: what it takes of a CPU is shown as their
utilisation, and its memory as theirs.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

GPU = dict[str, Any]
_NO_DEVICES = 6  # the real program's exit status when the driver finds no GPU
_BAD_USAGE = 2

_FIELDS = {
    "index": "{index}",
    "count": "{count}",
    "name": "{name} (simulated)",
    "gpu_name": "{name} (simulated)",
    "uuid": "{uuid}",
    "gpu_uuid": "{uuid}",
    "pci.bus_id": "{bus_id}",
    "gpu_bus_id": "{bus_id}",
    "pci.device_id": "0x{device_id:04X}{vendor_id:04X}",
    "memory.total": "{memory_mib} MiB",
    "memory.used": "{memory_used} MiB",
    "memory.free": "{memory_free} MiB",
    "driver_version": "simulated",
    "compute_cap": "{compute_cap}",
    "utilization.gpu": "{utilization} %",
    "utilization.memory": "{utilization} %",
    "power.draw": "{power}",
}
_LOAD = {"memory.used", "memory.free", "utilization.gpu", "utilization.memory", "power.draw"}
_COMPUTE = (b"libtensorflow", b"libtorch")
_IDLE_W, _BUSY_W = 30.0, 250.0
_LOOK_S = 0.1
"""How long the first answer watches the programs; a later one has the time since the one before."""
# The real program's exit statuses are NVML's error codes.
_FAILURES = {
    "nvml-mismatch": (
        18,
        (
            "Failed to initialize NVML: Driver/library version mismatch",
            "NVML library version: 580.82",
        ),
    ),
    "nouveau": (
        9,
        (
            (
                "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. "
                "Make sure that the latest NVIDIA driver is installed and running."
            ),
        ),
    ),
    "gpu-lost": (
        15,
        (
            (
                "Unable to determine the device handle for GPU0000:0B:00.0: GPU is lost.  Reboot "
                "the system to recover this GPU"
            ),
        ),
    ),
}
_UNITS = {"memory": "MiB", "utilization": "%", "power": "W"}


def main(arguments: list[str]) -> int:
    for trouble in json.loads(Path(__file__).with_name("troubles.json").read_text("utf-8")):
        if trouble in _FAILURES:
            status, lines = _FAILURES[trouble]
            return _print(*lines, status=status)
    options = _options().parse_args(arguments)
    gpus = _select(options.id)
    if not gpus:
        return _print("No devices were found", status=_NO_DEVICES)
    if options.query_gpu is not None:
        return _query(gpus, options)
    return _print(*_listing(gpus, options))


def _listing(gpus: list[GPU], options: argparse.Namespace) -> list[str]:
    if options.list_gpus:
        return [f"GPU {g['index']}: {_name(g)} (UUID: {g['uuid']})" for g in gpus]
    if options.xml:
        return ["<nvidia_smi_log>", *map(_xml, gpus), "</nvidia_smi_log>"]
    if options.query_compute_apps is not None:
        return []  # no process ever runs on these GPUs
    return _table(gpus)


def _options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="nvidia-smi", description="NVIDIA-SMI (simulated)")
    parser.add_argument("-L", "--list-gpus", action="store_true")
    parser.add_argument("-q", "--query", action="store_true")
    parser.add_argument("-x", "--xml-format", dest="xml", action="store_true")
    parser.add_argument("-i", "--id", metavar="INDEX,UUID,BUS_ID")
    parser.add_argument("--query-gpu", metavar="FIELD,...", help=", ".join(_FIELDS))
    parser.add_argument("--query-compute-apps", metavar="FIELD,...")
    parser.add_argument("--format", default="csv", metavar="csv[,noheader][,nounits]")
    parser.add_argument("-l", "--loop", type=float, metavar="SECONDS")
    parser.add_argument("-lms", "--loop-ms", type=float, metavar="MILLISECONDS")
    return parser


def _select(ids: str | None) -> list[GPU]:
    listed = json.loads(Path(__file__).with_name("gpus.json").read_text(encoding="utf-8"))
    gpus = [{**gpu, "index": i, "count": len(listed)} for i, gpu in enumerate(listed)]
    if ids is None:
        return gpus
    wanted = ids.split(",")
    return [g for g in gpus if {str(g["index"]), g["uuid"], g["bus_id"]} & set(wanted)]


def _query(gpus: list[GPU], options: argparse.Namespace) -> int:
    fields, formats = options.query_gpu.split(","), set(options.format.split(","))
    for field in fields:
        if field not in _FIELDS:
            return _print(f'Field "{field}" is not a valid field to query.', status=_BAD_USAGE)
    if "csv" not in formats:
        return _print('"--format" must contain csv', status=_BAD_USAGE)
    pause_s = options.loop or (options.loop_ms or 0) / 1000
    load = _Load()
    if "noheader" not in formats:
        _print(", ".join(_title(field) for field in fields))
    while True:
        now = load.now() if _LOAD & set(fields) else (0, 0)
        for gpu in gpus:
            shown = {**gpu, **_loaded(gpu, *now)}
            row = [_FIELDS[field].format(**shown) for field in fields]
            _print(", ".join(_without_unit(v) if "nounits" in formats else v for v in row))
        sys.stdout.flush()
        if not pause_s:
            return 0
        time.sleep(pause_s)


def _loaded(gpu: GPU, utilization: int, used_mib: int) -> GPU:
    used = min(used_mib, gpu["memory_mib"])
    power = f"{_IDLE_W + utilization / 100 * (_BUSY_W - _IDLE_W):.2f} W"
    return {
        "utilization": utilization,
        "memory_used": used,
        "memory_free": gpu["memory_mib"] - used,
        "power": "[N/A]" if gpu["name"].startswith("GRID ") else power,
    }


class _Load:
    """What the programs take that would compute on the GPU."""

    def __init__(self) -> None:
        self._seen: dict[str, float] = {}
        self._at = 0.0

    def now(self) -> tuple[int, int]:
        """The percentage of one CPU since the last call, and MiB of memory."""
        processes = list(_compute_processes())
        if processes and not self._at:
            self._look(processes)
            time.sleep(_LOOK_S)
        began, before = self._at, self._seen
        memory = self._look(processes)
        used_s = sum(cpu_s - before[name] for name, cpu_s in self._seen.items() if name in before)
        took_s = max(self._at - began, 0.001)
        return min(100, round(100 * max(0.0, used_s) / took_s)), memory

    def _look(self, processes: list[Path]) -> int:
        self._seen, self._at, memory = {}, time.monotonic(), 0
        for process in processes:
            try:
                times = (process / "stat").read_text().rpartition(")")[2].split()[11:13]
                pages = int((process / "statm").read_text().split()[1])
            except (OSError, IndexError):
                continue  # it has ended
            self._seen[process.name] = sum(map(int, times)) / os.sysconf("SC_CLK_TCK")
            memory += pages * os.sysconf("SC_PAGE_SIZE") >> 20
        return memory


def _compute_processes() -> Iterator[Path]:
    """Of this guest: where guests are not in namespaces, theirs are told apart by their homes."""
    home = f"HOME={os.environ.get('HOME', '')}".encode()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            environment = (process / "environ").read_bytes().split(b"\0")
            loaded = (process / "maps").read_bytes()
        except OSError:
            continue  # it has ended, or is another user's
        hidden = {b"CUDA_VISIBLE_DEVICES=-1", b"CUDA_VISIBLE_DEVICES="} & set(environment)
        if home in environment and not hidden and any(name in loaded for name in _COMPUTE):
            yield process


def _xml(gpu: GPU) -> str:
    """What ``-q -x`` says of a GPU that nothing is wrong with, as far as anybody here reads it."""
    name = f"<product_name>{_name(gpu)}</product_name><uuid>{gpu['uuid']}</uuid>"
    return f'<gpu id="{gpu["bus_id"]}">{name}</gpu>'


def _title(field: str) -> str:
    unit = _UNITS.get(field.partition(".")[0])
    return f"{field} [{unit}]" if unit else field


def _without_unit(value: str) -> str:
    return value.removesuffix(" MiB").removesuffix(" %").removesuffix(" W")


def _name(gpu: GPU) -> str:
    return f"{gpu['name']} (simulated)"


def _table(gpus: list[GPU]) -> list[str]:
    rule = "+" + "-" * 78 + "+"
    lines = [
        rule,
        _line("NVIDIA-SMI (simulated by the gpuvm lab: no work runs on these GPUs)"),
        rule,
    ]
    lines.append(_line(f"{'GPU':>3}  {'Name':<42} {'Bus-Id':<17} {'Memory':>10}"))
    lines.append(rule)
    for gpu in gpus:
        memory = f"{gpu['memory_mib']} MiB"
        lines.append(_line(f"{gpu['index']:>3}  {_name(gpu):<42} {gpu['bus_id']:<17} {memory:>10}"))
    return [*lines, rule]


def _line(text: str) -> str:
    return f"| {text:<76} |"


def _print(*lines: str, status: int = 0) -> int:
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    return status


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except (BrokenPipeError, KeyboardInterrupt):
        os._exit(1)
