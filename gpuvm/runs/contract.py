"""Checks that a program wrote the records of a workload's contract (workloads/README.md)."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

RESULTS = "results.json"
BAD_INPUT = 2
"""The exit status of a program whose arguments or data cannot be used."""
LOST_A_PEER = 3
"""That of one that lost another worker."""


def missing_records(
    program: str, folders: Mapping[str, Path], *, chief: str | None, resumed: bool
) -> str | None:
    """Returns a warning of one line, or None. ``folders`` are the fetched output, by VM.

    Only ``chief`` must write results; without a chief, each VM must. A resumed run may have had no
    steps left, and so may one of several VMs.
    """
    events = {vm: _events(folder / "timings.jsonl") for vm, folder in folders.items()}
    has_steps = resumed or any("step" in seen for seen in events.values())
    missing = {vm: _missing(seen, has_steps=has_steps) for vm, seen in events.items()}
    for vm, folder in folders.items():
        if chief in (None, vm) and not (folder / RESULTS).is_file():
            missing[vm].append(f"no {RESULTS}")
    if not any(missing.values()):
        return None
    return (
        f"{program} did not write all records for the report: {_missing_text(missing)} "
        "(see the contract in workloads/README.md)"
    )


def _missing(seen: set[str], *, has_steps: bool) -> list[str]:
    found = {"start record": "start" in seen, "step": has_steps, "end record": "end" in seen}
    return [f"no {what}" for what, is_found in found.items() if not is_found]


def _events(timings: Path) -> set[str]:
    if not timings.is_file():
        return set()
    return {_event(line) for line in timings.read_bytes().splitlines()}


def _event(line: bytes) -> str:
    try:
        return str(json.loads(line)["event"])
    except (ValueError, KeyError, TypeError):
        return ""  # the report reports the line


def _missing_text(missing: Mapping[str, Sequence[str]]) -> str:
    """Names the VMs only if they differ."""
    vms_by_missing: dict[tuple[str, ...], list[str]] = {}
    for vm, records in missing.items():
        vms_by_missing.setdefault(tuple(records), []).append(vm)
    if len(vms_by_missing) == 1:
        return ", ".join(next(iter(vms_by_missing)))
    return "; ".join(
        f"{', '.join(vms)}: {', '.join(records)}"
        for records, vms in vms_by_missing.items()
        if records
    )
