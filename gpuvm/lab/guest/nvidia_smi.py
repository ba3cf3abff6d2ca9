"""The lab's nvidia-smi: lists the GPUs of this VM's virtual hardware, marked ``simulated``.

A copy of this file runs in the guest, with the standard library only. ``gpus.json`` beside it has
the GPUs that the VM was given at power-on.
"""

import argparse
import json
import sys
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
    "memory.used": "0 MiB",
    "memory.free": "{memory_mib} MiB",
    "driver_version": "simulated",
    "compute_cap": "{compute_cap}",
    "utilization.gpu": "0 %",
    "utilization.memory": "0 %",
}
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
_UNITS = {"memory": "MiB", "utilization": "%"}


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
        return _query(gpus, options.query_gpu.split(","), set(options.format.split(",")))
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
    return parser


def _select(ids: str | None) -> list[GPU]:
    listed = json.loads(Path(__file__).with_name("gpus.json").read_text(encoding="utf-8"))
    gpus = [{**gpu, "index": i, "count": len(listed)} for i, gpu in enumerate(listed)]
    if ids is None:
        return gpus
    wanted = ids.split(",")
    return [g for g in gpus if {str(g["index"]), g["uuid"], g["bus_id"]} & set(wanted)]


def _query(gpus: list[GPU], fields: list[str], formats: set[str]) -> int:
    for field in fields:
        if field not in _FIELDS:
            return _print(f'Field "{field}" is not a valid field to query.', status=_BAD_USAGE)
    if "csv" not in formats:
        return _print('"--format" must contain csv', status=_BAD_USAGE)
    bare = "nounits" in formats
    if "noheader" not in formats:
        _print(", ".join(_title(field) for field in fields))
    rows = ([_FIELDS[field].format(**gpu) for field in fields] for gpu in gpus)
    return _print(*(", ".join(_without_unit(v) if bare else v for v in row) for row in rows))


def _xml(gpu: GPU) -> str:
    """What ``-q -x`` says of a GPU that nothing is wrong with, as far as anybody here reads it."""
    name = f"<product_name>{_name(gpu)}</product_name><uuid>{gpu['uuid']}</uuid>"
    return f'<gpu id="{gpu["bus_id"]}">{name}</gpu>'


def _title(field: str) -> str:
    unit = _UNITS.get(field.partition(".")[0])
    return f"{field} [{unit}]" if unit else field


def _without_unit(value: str) -> str:
    return value.removesuffix(" MiB").removesuffix(" %")


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
    sys.exit(main(sys.argv[1:]))
