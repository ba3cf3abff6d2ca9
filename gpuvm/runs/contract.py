"""What a program that ended well left out of a workload's contract (workloads/README.md)."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

RESULTS = "results.json"


def complaint(
    program: str, folders: Mapping[str, Path], *, chief: str | None, resumed: bool
) -> str | None:
    """One line; None when all is there. ``folders`` are what was fetched, by VM.

    ``chief`` is the only one that must leave results; without one, each must. One that went on
    from a run before may have had no step left to do, and so may one of several.
    """
    events = {vm: _events(folder / "timings.jsonl") for vm, folder in folders.items()}
    stepped = resumed or any("step" in seen for seen in events.values())
    missing = {vm: _missing(seen, stepped=stepped) for vm, seen in events.items()}
    for vm, folder in folders.items():
        if chief in (None, vm) and not (folder / RESULTS).is_file():
            missing[vm].append(f"no {RESULTS}")
    if not any(missing.values()):
        return None
    return (
        f"{program} left out what reports are made of: {_missing_text(missing)} "
        "(workloads/README.md has the contract)"
    )


def _missing(seen: set[str], *, stepped: bool) -> list[str]:
    there = {"start record": "start" in seen, "step": stepped, "end record": "end" in seen}
    return [f"no {what}" for what, is_there in there.items() if not is_there]


def _events(timings: Path) -> set[str]:
    if not timings.is_file():
        return set()
    return {_event(line) for line in timings.read_bytes().splitlines()}


def _event(line: bytes) -> str:
    try:
        return str(json.loads(line)["event"])
    except (ValueError, KeyError, TypeError):
        return ""  # the report names the line


def _missing_text(missing: Mapping[str, Sequence[str]]) -> str:
    """The VMs are named where they differ."""
    alike: dict[tuple[str, ...], list[str]] = {}
    for vm, told in missing.items():
        alike.setdefault(tuple(told), []).append(vm)
    if len(alike) == 1:
        return ", ".join(next(iter(alike)))
    return "; ".join(f"{', '.join(vms)}: {', '.join(told)}" for told, vms in alike.items() if told)
