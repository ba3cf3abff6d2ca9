"""Event files of runs under names that people read, and those of a run that goes on."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from events import Scalars, scalars
from ssh_servers import new_mark

from gpuvm import guest
from gpuvm.events import Events
from gpuvm.guest import Process
from gpuvm.report import tensorboard
from gpuvm.results import Manifest, Run
from gpuvm.runs.event_files import EventFiles, LiveRun, title
from gpuvm.settings import GuestSettings

Machine = Any  # tests/support/ssh_servers.py
RUN_ID = "mine.py-20261124-013000-ab12"
WAITS = "import pathlib, time\nwhile not pathlib.Path('go').exists(): time.sleep(0.02)"


@pytest.fixture
def record(tmp_path: Path) -> Run:
    manifest = Manifest.model_validate(
        {
            "run_id": RUN_ID,
            "workload": "../mine.py",
            "vcenter": {"name": "vc"},
            "started": datetime(2026, 11, 24, 1, 30, tzinfo=UTC),
            "project": {"mine.py": "ab"},
            "vms": [{"name": "one"}],
        }
    )
    (tmp_path / "runs" / RUN_ID).mkdir(parents=True)
    return Run(tmp_path / "runs" / RUN_ID, manifest)


def board(tmp_path: Path) -> EventFiles:
    (tmp_path / "board").mkdir()
    return EventFiles(tmp_path / "board")


def shown(tmp_path: Path) -> dict[str, list[float]]:
    """The values by what TensorBoard calls their run, without the title of gpuvm's."""
    (run,) = (tmp_path / "board").iterdir()
    return {
        file.parent.relative_to(run).as_posix(): [
            value for curve in curves for _, value in curve.points
        ]
        for file in sorted(run.rglob("*.tfevents.*"))
        for curves in [tensorboard.curves("", file.resolve().parent)[0]]
    }


def test_a_title_says_what_and_when(record: Run) -> None:
    local = record.manifest.started.astimezone()
    assert title(record) == f"-mine.py {local:%Y-%m-%d %H:%M:%S} ab12"


def test_series_of_a_record(tmp_path: Path, record: Run) -> None:
    files = board(tmp_path)
    assert not files.add(record)
    scalars(record.dir / "one/project/logs/train", 3.0, 2.0)
    assert files.add(record)
    scalars(record.dir / "one/project/logs/validation", 5.0)
    files.add(record)
    assert shown(tmp_path) == {"one/train": [3.0, 2.0], "one/validation": [5.0]}


def test_what_is_fetched_takes_the_place_of_the_record_and_leaves_it_alone(
    tmp_path: Path, record: Run
) -> None:
    files = board(tmp_path)
    scalars(record.dir / "one/logs", 3.0)
    files.add(record)
    scalars(tmp_path / "cache/one/logs", 3.0, 2.0)
    files.add(record, tmp_path / "cache")
    assert shown(tmp_path) == {"one": [3.0, 2.0]}
    (file,) = record.dir.rglob("*.tfevents.*")
    assert tensorboard.curves("", file.parent)[0][0].points == ((1, 3.0),)


def test_links_out_of_the_run_are_not_followed(tmp_path: Path, record: Run) -> None:
    scalars(tmp_path / "secret", 1.0)
    (record.dir / "one").mkdir()
    (record.dir / "one/logs").symlink_to(tmp_path / "secret")
    assert not board(tmp_path).add(record)


def test_a_run_that_goes_on_is_fetched_as_it_grows(
    tmp_path: Path, record: Run, machine: Machine, events: Events, wait_for: Callable[..., None]
) -> None:
    settings = GuestSettings()
    folder = Path(machine.home) / settings.work_dir / RUN_ID
    files, live = board(tmp_path), LiveRun(record, [machine.member()], settings, tmp_path / "cache")
    with guest.connect(machine.endpoint) as one:
        where = f"{settings.work_dir}/{RUN_ID}"
        guest.launch(one, "python3", Process(where, ["python3", "-c", WAITS], new_mark(), {}))
    own = Scalars(folder / "project/logs")
    own.add(3.0)
    assert live.fetch(events)
    assert files.add(record, live.cache)
    assert shown(tmp_path) == {"one": [3.0]}
    (file,) = (tmp_path / "board").rglob("*.tfevents.*")
    with file.open("rb") as held:  # as TensorBoard does
        held.read()
        own.add(2.0, 1.0, first=2)
        (folder / "go").touch()
        wait_for(lambda: not live.fetch(events), "the run has ended")
        files.add(record, live.cache)
        assert held.read(), "it grows in place"
    assert shown(tmp_path) == {"one": [3.0, 2.0, 1.0]}
    assert not list(record.dir.rglob("*.tfevents.*")), "the record is whose it was"
