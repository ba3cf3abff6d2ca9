"""gpu_health: print the health of this guest's GPUs, from nvidia-smi and the kernel's log, as JSON.

    {"gpus": [{"name": …, "bus_id": …, "uuid": …, "problems": ["…"]}],
     "processes": [{"pid": 1, "name": "python3", "memory": "300 MiB", "run": "stock-…"}],
     "simulated": false}

``problems`` are those that affect training; ``run`` is the gpuvm run that a process belongs to, or
null. Both lists are empty when nvidia-smi fails.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

MARK = b"GPUVM_RUN="
XIDS = {
    48: "an uncorrectable memory error",
    62: "an internal micro-controller halt",
    63: "a page retirement or row remapping",
    64: "a failed page retirement or row remapping",
    74: "an NVLink error",
    79: "the GPU has fallen off the bus",
    92: "a high rate of corrected memory errors",
    94: "a contained memory error",
    95: "an uncontained memory error",
    119: "the GPU system processor does not answer",
    120: "an error of the GPU system processor",
}
"""Errors of hardware and driver; others, such as 13, 31 and 43, are caused by programs
(NVIDIA, "Xid Errors")."""


PENDING = ("pending_retirement", "pending_blacklist")
"""The tag in newer and in older drivers."""


def main() -> None:
    said = query()
    log = parsed(said)
    xids = kernel_errors()
    gpus = [] if log is None else [describe(gpu, xids) for gpu in log.iter("gpu")]
    users = [] if log is None else [process(one) for one in log.iter("process_info")]
    simulated = b"simulated" in said.lower()
    sys.stdout.write(json.dumps({"gpus": gpus, "processes": users, "simulated": simulated}) + "\n")


def query() -> bytes:
    try:
        done = subprocess.run(["nvidia-smi", "-q", "-x"], capture_output=True, check=False)
    except OSError:
        return b""
    return done.stdout if done.returncode == 0 else b""


def parsed(said: bytes) -> ET.Element | None:
    try:
        return ET.fromstring(said)  # noqa: S314 - ours
    except ET.ParseError:
        return None


def describe(gpu: ET.Element, xids: dict[str, list[int]]) -> dict[str, Any]:
    bus_id = gpu.get("id", "")
    errors = xids.get(pci_address(bus_id), [])
    found = [
        *memory_problems(gpu),
        *slowdowns(gpu),
        *(f"Xid {number}: {XIDS[number]}" for number in errors),
    ]
    return {
        "name": text(gpu, "product_name"),
        "bus_id": bus_id,
        "uuid": text(gpu, "uuid"),
        "problems": found,
    }


def memory_problems(gpu: ET.Element) -> list[str]:
    found = []
    volatile = gpu.find("ecc_errors/volatile")
    uncorrected = 0
    for counter in [] if volatile is None else volatile.iter():
        # Before Ampere: double_bit/total; since: sram_uncorrectable…, dram_uncorrectable.
        parent_total = counter.tag == "double_bit"
        value = text(counter, "total") if parent_total else counter.text or ""
        if parent_total or "uncorrectable" in counter.tag:
            uncorrected += int(value) if value.strip().isdigit() else 0
    if uncorrected:
        found.append(f"{uncorrected} uncorrectable memory errors since the driver was loaded")
    pending = (text(gpu, f"retired_pages/{tag}") for tag in PENDING)
    if "Yes" in pending:
        found.append("page retirement is pending: reboot the VM")
    if text(gpu, "remapped_rows/remapped_row_pending") == "Yes":
        found.append("row remapping is pending: reboot the VM")
    if text(gpu, "remapped_rows/remapped_row_failure") == "Yes":
        found.append("row remapping failed: replace the GPU")
    return found


def slowdowns(gpu: ET.Element) -> list[str]:
    """Hardware slowdowns; a software power cap is a configuration."""
    found = []
    for kind in ("throttle", "event"):
        for name, why in (
            ("hw_thermal_slowdown", "too hot"),
            ("hw_power_brake_slowdown", "power brake"),
        ):
            if text(gpu, f"clocks_{kind}_reasons/clocks_{kind}_reason_{name}") == "Active":
                found.append(f"hardware slowdown: {why}")
    return found


def kernel_errors() -> dict[str, list[int]]:
    """Xids since boot, by PCI address; empty if the log cannot be read."""
    for command in (["journalctl", "-k", "-b", "-o", "cat", "--no-pager"], ["dmesg"]):
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, errors="replace", check=False
            )
        except OSError:
            continue
        if done.returncode == 0 and done.stdout:
            return xids(done.stdout)
    return {}


def xids(log: str) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for match in re.finditer(r"NVRM: Xid \(PCI:([0-9A-Fa-f:.]+)\): (\d+)", log):
        number = int(match[2])
        numbers = found.setdefault(pci_address(match[1]), [])
        if number in XIDS and number not in numbers:
            numbers.append(number)
    return found


def pci_address(text: str) -> str:
    """Normalizes ``00000000:0B:00.0`` and ``0000:0b:00`` to ``0000:0b:00``."""
    domain, bus, device = text.lower().split(".")[0].split(":")
    return f"{domain[-4:]}:{bus}:{device}"


def process(one: ET.Element) -> dict[str, Any]:
    pid = text(one, "pid")
    return {
        "pid": int(pid) if pid.isdigit() else 0,
        "name": text(one, "process_name"),
        "memory": text(one, "used_memory"),
        "run": run_of(pid),
    }


def run_of(pid: str) -> str | None:
    try:
        environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return None
    for entry in environment:
        if entry.startswith(MARK):
            return os.fsdecode(entry[len(MARK) :])
    return None


def text(element: ET.Element, path: str) -> str:
    return (element.findtext(path) or "").strip()


if __name__ == "__main__":
    main()
