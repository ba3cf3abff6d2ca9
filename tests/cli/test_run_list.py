"""What 'gpuvm runs' lists: filters, limits, scores and times, of records and of guests."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from commands import CommandLine

from gpuvm import paths
from gpuvm.cli import run_list
from gpuvm.cli.run_list import RECENT, Wanted
from gpuvm.errors import BadInput
from gpuvm.results import Manifest
from gpuvm.runs import RunState

START = datetime(2026, 11, 24, 1, 30, tzinfo=UTC)


def record(run_id: str, **changes: Any) -> Manifest:
    """Leaves it on this machine; ``after`` are seconds from START, ``took`` is how long it ran."""
    manifest = made(run_id, **changes)
    folder = paths.runs_dir() / run_id
    (folder / "gpuvm-01").mkdir(parents=True)
    (folder / "manifest.json").write_text(manifest.model_dump_json(by_alias=True))
    return manifest


def made(run_id: str, **changes: Any) -> Manifest:
    vm = {"name": "gpuvm-01", "accelerator": changes.pop("accelerator", "passthrough")}
    started = START + timedelta(seconds=changes.pop("after", 0))
    ended = started + timedelta(seconds=changes.pop("took", 60))
    known = {
        "run_id": run_id,
        "workload": run_id.split("-", maxsplit=1)[0],
        "vcenter": {"name": "vc"},
        "started": started,
        "ended": ended,
        "status": "succeeded",
        "vms": [vm],
    }
    return Manifest.model_validate(known | changes)


def listed(wanted: Wanted = Wanted(), **how: Any) -> list[str]:  # noqa: B008 - frozen
    found, problems = run_list.rows(
        how.pop("guests", []), wanted, **{"limit": None, "every": False} | how
    )
    assert problems == []
    return [row["run_id"] for row in found.rows]


@pytest.fixture
def three() -> list[str]:
    record("mnist-20261124-013000-aaaa", gpus_hidden=True)
    record("stock-20261124-020000-bbbb", after=1800, status="failed", accelerator="vgpu")
    record("mnist-20261124-030000-cccc", after=5400, vms=[{"name": "gpuvm-02"}])
    return sorted(file.parent.name for file in paths.runs_dir().glob("*/manifest.json"))


@pytest.mark.parametrize(
    ("wanted", "ends"),
    [
        (Wanted(), "abc"),
        (Wanted(workloads=frozenset({"mnist"})), "ac"),
        (Wanted(vms=frozenset({"gpuvm-01"})), "ab"),
        (Wanted(accelerators=frozenset({"vgpu"})), "b"),
        (Wanted(accelerators=frozenset({"none"})), "ac"),
        (Wanted(states=frozenset({"failed", "lost"})), "b"),
        (Wanted(since=START + timedelta(seconds=1800)), "bc"),
        (Wanted(workloads=frozenset({"mnist"}), vms=frozenset({"gpuvm-02"})), "c"),
        (Wanted(workloads=frozenset({"style"})), ""),
    ],
)
def test_filters(three: list[str], wanted: Wanted, ends: str) -> None:
    assert "".join(run_id[-1] for run_id in listed(wanted)) == ends


def test_the_latest_are_kept(three: list[str]) -> None:
    found, _ = run_list.rows([], Wanted(), limit=1, every=False)
    assert [row["run_id"][-1] for row in found.rows] == ["c"]
    assert found.more == 2
    for number in range(RECENT):
        record(f"stock-20261125-0000{number:02}-dddd")
    assert listed()[0] == "stock-20261125-000000-dddd"
    assert len(listed(every=True)) == RECENT + 3


def test_a_run_of_a_guest_is_listed_however_old(three: list[str]) -> None:
    for number in range(RECENT):
        record(f"stock-20261125-0000{number:02}-dddd")
    manifest = made("mnist-20261124-013000-aaaa", gpus_hidden=True)
    guest = RunState(
        manifest.run_id, "running", ("gpuvm-01",), START, manifest, None, False, "", None
    )
    assert listed(guests=[guest])[0] == manifest.run_id
    other = RunState(
        "mine-20261124-000000-ffff", "queued", ("gpuvm-03",), None, None, 1, False, "", None
    )
    assert listed(Wanted(states=frozenset({"queued"})), guests=[other]) == [other.run_id]


def test_scores_and_times_are_those_of_the_report(three: list[str]) -> None:
    score = {"t": 1.0, "event": "score", "name": "exact_match", "value": 0.5}
    file = paths.runs_dir() / three[0] / "gpuvm-01/timings.jsonl"
    lines = [score | {"name": "loss", "value": 0.1}, score, {"t": 1.0, "event": "step", "step": 1}]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    (paths.runs_dir() / three[1] / "gpuvm-01/timings.jsonl").write_text('{"event": "score"}\n')
    found, _ = run_list.rows([], Wanted(), limit=None, every=False)
    scored, other, corrupt = found.rows[0], found.rows[2], found.rows[1]
    assert scored["score"] == {"name": "exact_match", "title": "Exact match", "value": 0.5}
    assert (other["score"], corrupt["score"]) == (None, None)
    titles, cells = run_list.table(found.rows)
    shown = dict(zip(titles, cells[0], strict=True))
    assert shown["SCORE"] == "Exact match 0.500"
    assert (shown["TOOK"], shown["ACCELERATOR"], shown["WORKLOAD"]) == (
        "1 min 00 s",
        "none",
        "mnist",
    )
    assert "LAST LINE" not in titles, "no guest was asked"


def test_a_corrupt_record_does_not_hide_the_others(three: list[str]) -> None:
    (paths.runs_dir() / three[0] / "manifest.json").write_text("{")
    found, problems = run_list.rows([], Wanted(), limit=None, every=False)
    assert len(found.rows) == 2
    assert len(problems) == 1
    assert three[0] in problems[0]


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-11-24T01:30:00+00:00", START),
        ("2026-11-24T02:30:00+01:00", START),
    ],
)
def test_a_time(text: str, moment: datetime) -> None:
    assert run_list.moment(text) == moment


@pytest.mark.parametrize("text", ["yesterday", "7", "-7d", "999999d", "2026-13-01", ""])
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(BadInput, match="is no time"):
        run_list.moment(text)


def test_on_the_command_line_from_a_folder_of_the_project(gpuvm: CommandLine) -> None:
    folder = gpuvm.home / "runs/mnist-20261124-013000-aaaa"
    folder.mkdir(parents=True)
    text = made(folder.name, accelerator="vgpu").model_dump_json(by_alias=True)
    (folder / "manifest.json").write_text(text)
    (gpuvm.home / "src").mkdir()
    away = CommandLine(gpuvm.home / "src")
    away.environment["HOME"] = str(gpuvm.home)
    shown = away("runs", "--here", "--accelerator", "vgpu", "--since", "2026-01-01")
    assert shown.exit_code == 0, shown.stderr
    assert "vgpu" in shown.stdout
    reported = away("report", "mnist-2026")
    assert reported.stdout.splitlines()[-1] == f"report: ../runs/{folder.name}/report.html"
    assert away("runs", "--here", "--failed").stdout == "no such runs\n"
    refused = away("runs", "--here", "--accelerator", "gpu")
    assert refused.exit_code == 2
    assert "'gpu' is none of passthrough, dynamic, vgpu, device-group, none" in refused.stderr
    assert "stand after it" in away("runs", "--failed", "prune").stderr
