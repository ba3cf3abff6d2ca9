"""Data of a run: sent once, continued where it broke off, and only what is new."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from ssh_servers import EventLog, Machine

from gpuvm import data, guest
from gpuvm.errors import GuestUnreachable
from gpuvm.events import Event, Events
from gpuvm.runs.inputs import Inputs, push_inputs

MIB = 1 << 20


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    folder = tmp_path / "coco"
    (folder / "train").mkdir(parents=True)
    (folder / "captions.json").write_text("{}")
    for i in range(24):
        (folder / f"train/{i:02}.jpg").write_bytes(os.urandom(MIB))
    return folder


def named(folder: Path) -> Inputs:
    found = data.resolve(f"@{folder}/")
    assert found is not None
    return {found.place: found.source}


def tree(folder: Path) -> dict[str, bytes]:
    files = (file for file in folder.rglob("*") if file.is_file())
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


def sent(event_log: EventLog) -> float:
    """The share of the last push that went over the network."""
    fractions = [
        e.fraction for e in event_log.events if e.kind == "progress" and e.fraction is not None
    ]
    assert fractions[-1] == 1
    return 1 - fractions[0]


def test_folder_transfer_continues_where_it_broke_off(
    machine: Machine,
    coco: Path,
    events: Events,
    event_log: EventLog,
    wait_for: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("gpuvm.guest.progress.REPORT_EVERY_S", 0)
    inputs = named(coco)
    (place,) = inputs

    def cut(event: Event) -> None:
        if event.kind == "progress" and (event.fraction or 0) > 0.5 and machine.connections:
            machine.cut()
            wait_for(lambda: not machine.connections, "every connection is cut")

    with guest.connect(machine.endpoint) as one, pytest.raises(GuestUnreachable):
        push_inputs(one, "work", inputs, Events(cut))
    assert not (machine.home / "work/data").exists(), "a folder comes as a whole"
    with guest.connect(machine.endpoint) as one:
        push_inputs(one, "work", inputs, events)
        assert tree(machine.home / "work/data" / place) == tree(coco)
        assert sent(event_log) < 0.95
        (note,) = event_log.texts("note")
        assert note.startswith("coco: ")
        assert note.endswith("MiB of 24.0 MiB already there")
        shown = [event.text or "" for event in event_log.events if event.kind == "progress"]
        assert shown[-1].startswith("coco: 24.0 MiB of 24.0 MiB, ")
        before = len(machine.children), len(event_log.events)
        push_inputs(one, "work", inputs, events)
        assert (len(machine.children), len(event_log.events)) == (before[0] + 1, before[1])


def test_only_new_contents_of_a_changed_folder_are_sent(
    machine: Machine, coco: Path, events: Events, event_log: EventLog
) -> None:
    with guest.connect(machine.endpoint) as one:
        push_inputs(one, "work", named(coco), events)
        assert sent(event_log) == 1
        event_log.events.clear()
        (coco / "train/new.jpg").write_bytes(os.urandom(MIB))
        inputs = named(coco)
        push_inputs(one, "work", inputs, events)
    (place,) = inputs
    assert tree(machine.home / "work/data" / place) == tree(coco)
    assert sent(event_log) == pytest.approx(1 / 25, abs=0.001)
    picture = machine.home / "work/data" / place / "train/00.jpg"
    assert picture.stat().st_nlink == 3, "the store, and both folders"
    assert not picture.stat().st_mode & 0o222
