"""The runs that 'gpuvm runs' lists, from the guests and from this machine, as a table."""

import contextlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from gpuvm import report as reports
from gpuvm import results
from gpuvm.cli.tables import Number, Prose, unbroken
from gpuvm.errors import BadInput
from gpuvm.report.format import duration, figure
from gpuvm.runs import RunState
from gpuvm.text import ago, one_line

RECENT = 20
Row = dict[str, Any]


@dataclass(frozen=True)
class Wanted:
    """What a run must be to be listed; each that is empty or None lets all pass."""

    workloads: frozenset[str] = frozenset()
    vms: frozenset[str] = frozenset()
    accelerators: frozenset[str] = frozenset()
    states: frozenset[str] = frozenset()
    since: datetime | None = None

    def has(self, row: Row) -> bool:
        return (
            (not self.workloads or row["workload"] in self.workloads)
            and (not self.vms or bool(self.vms & set(row["vms"])))
            and (not self.accelerators or bool(self.accelerators & set(row["accelerators"])))
            and (not self.states or row["state"] in self.states)
            and (self.since is None or row["started"] is None or row["started"] >= self.since)
        )


@dataclass(frozen=True)
class Listing:
    """``more`` are left out of ``rows``."""

    rows: list[Row]
    more: int


def rows(
    in_guests: Sequence[RunState], wanted: Wanted, *, limit: int | None, every: bool
) -> tuple[Listing, list[str]]:
    """The wanted runs, the oldest first, and what could not be read.

    ``limit`` keeps the latest. Without it and without ``every``, the latest RECENT of those are
    kept that no guest has, and all that a guest has.
    """
    found, problems = {run.run_id: _guest_row(run) for run in in_guests}, []
    for run_id in results.list_runs():
        try:
            record = results.load(run_id)
        except BadInput as error:
            problems.append(str(error))
            continue
        row = found.setdefault(run_id, _row(run_id, "unknown"))
        if record.manifest.status != "running":
            row["state"] = record.manifest.status
        row |= _of_manifest(record.manifest) | {"dir": str(record.dir)}
    chosen = [
        found[run_id] for run_id in sorted(found, key=results.when) if wanted.has(found[run_id])
    ]
    kept = chosen if every else chosen[-limit:] if limit else _recent(chosen)
    for row in kept:
        row["score"] = _score(row)
    return Listing(kept, len(chosen) - len(kept)), problems


def _recent(chosen: Sequence[Row]) -> list[Row]:
    only_here = [row["run_id"] for row in chosen if not row["in_guests"]]
    left = set(only_here[:-RECENT])
    return [row for row in chosen if row["run_id"] not in left]


def _row(run_id: str, state: str) -> Row:
    return {
        "run_id": run_id,
        "state": state,
        "workload": None,
        "strategy": None,
        "vms": [],
        "accelerators": [],
        "started": None,
        "ended": None,
        "seconds": None,
        "score": None,
        "operator": None,
        "in_guests": False,
        "line": "",
    }


def _guest_row(run: RunState) -> Row:
    seen = {
        "in_guests": True,
        "vms": list(run.vms),
        "ahead": run.ahead,
        "rebooted": run.rebooted,
        "line": run.line,
        "problem": run.problem,
        "started": run.started,
    }
    return _row(run.run_id, run.state) | seen | (_of_manifest(run.manifest) if run.manifest else {})


def _of_manifest(manifest: results.Manifest) -> Row:
    """``seconds`` is None for a run whose end this machine does not know."""
    ended = manifest.ended
    kinds = {"none" if manifest.gpus_hidden else vm.accelerator for vm in manifest.vms}
    return {
        "workload": manifest.workload,
        "strategy": manifest.strategy,
        "operator": manifest.operator or None,
        "started": manifest.started,
        "ended": ended,
        "seconds": (ended - manifest.started).total_seconds() if ended else None,
        "vms": [vm.name for vm in manifest.vms],
        "accelerators": sorted(kinds),
        "manifest": manifest,
    }


def _score(row: Row) -> Mapping[str, Any] | None:
    manifest = row.pop("manifest", None)
    found = reports.first_score(Path(row["dir"]), manifest) if manifest and "dir" in row else None
    if found is None:
        return None
    return {"name": found.name, "title": found.title, "value": found.value}


def table(shown: Sequence[Row]) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
    """Titles and cells, without columns that would be empty."""
    columns = {title: [cell(row) for row in shown] for title, cell in _COLUMNS}
    known = {title: cells for title, cells in columns.items() if set(cells) != {"-"}}
    return list(known), list(zip(*known.values(), strict=True))


def _state(row: Row) -> str:
    if row.get("rebooted"):
        return "lost (rebooted)"
    return f"{row['state']} ({row['ahead']})" if row.get("ahead") else str(row["state"])


def _since(when: datetime | None) -> str:
    return "-" if when is None else ago((datetime.now(UTC) - when).total_seconds())


def _shown_score(score: Mapping[str, Any] | None) -> str:
    return (
        "-" if score is None else f"{one_line(score['title'], longest=30)} {figure(score['value'])}"
    )


_COLUMNS: tuple[tuple[str, Callable[[Row], str]], ...] = (
    ("RUN", lambda row: one_line(row["run_id"])),
    (Prose("STATE"), _state),
    ("WORKLOAD", lambda row: one_line(row["workload"] or "-", longest=30)),
    (Prose("VMS"), lambda row: ", ".join(unbroken(one_line(vm)) for vm in row["vms"])),
    (Prose("ACCELERATOR"), lambda row: one_line(", ".join(row["accelerators"]) or "-")),
    ("STARTED", lambda row: _since(row["started"])),
    (Number("TOOK"), lambda row: "-" if row["seconds"] is None else duration(row["seconds"])),
    (Prose("SCORE"), lambda row: _shown_score(row["score"])),
    (Prose("BY"), lambda row: one_line(row["operator"] or "-", longest=40)),
    (
        Prose("LAST LINE"),
        lambda row: one_line(row.get("problem") or row["line"] or "-", longest=60),
    ),
)


def one_of(option: str, given: Sequence[str] | None, known: Sequence[str]) -> frozenset[str]:
    """Raises BadInput naming the values that there are."""
    unknown = [value for value in given or () if value not in known]
    if unknown:
        raise BadInput(f"{option}: '{unknown[0]}' is none of {', '.join(known)}")
    return frozenset(given or ())


def moment(text: str) -> datetime:
    """The time of ``--since``: an age such as 2h, or a date or time, local unless it says.

    Raises BadInput.
    """
    with contextlib.suppress(BadInput, OverflowError):
        return datetime.now(UTC) - age_of("--since", text)
    with contextlib.suppress(ValueError, OverflowError):
        return datetime.fromisoformat(text).astimezone(UTC)
    raise BadInput(f"--since: '{text}' is no time", hint="such as 2h, 7d or 2026-11-24T18:00")


def age_of(option: str, text: str) -> timedelta:
    match = re.fullmatch(r"(\d{1,6})([mhd])", text)
    if match is None:
        raise BadInput(f"{option}: '{text}' is not an age", hint="such as 30m, 12h or 7d")
    unit = {"m": "minutes", "h": "hours", "d": "days"}[match[2]]
    return timedelta(**{unit: int(match[1])})
