"""The progress display of transfers during a run."""

import io
from typing import Any

import pytest

from gpuvm.cli import output
from gpuvm.cli.console import PlainConsole
from gpuvm.cli.progress import RunWatch
from gpuvm.events import Event, Events


def shown(monkeypatch: pytest.MonkeyPatch, *, terminal: bool) -> str:
    """After a transfer to two VMs in steps of 1/20."""
    out = io.StringIO()
    console = PlainConsole(file=out, force_terminal=terminal, width=80)
    monkeypatch.setattr(output, "stderr", console)
    events = Events()
    with RunWatch(events, output.State(), []) as follower:
        events.note("coco: 1.0 GiB of 4.0 GiB are there already", "vm-02")
        for step in range(21):
            for vm in ("vm-01", "vm-02"):
                events.progress(vm, "push_inputs", step / 20, f"[coco] at {step}/20")
            if step == 10 and follower._live is not None:
                follower._live.refresh()
    return out.getvalue()


def test_without_a_terminal_progress_is_a_line_per_tenth(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = shown(monkeypatch, terminal=False).splitlines()
    assert lines[0] == "  vm-02: coco: 1.0 GiB of 4.0 GiB are there already"
    assert [line for line in lines if "vm-01" in line] == [
        f"  vm-01: [coco] at {step}/20" for step in range(2, 21, 2)
    ]
    assert len(lines) == 1 + 2 * 10


def test_a_moving_line_for_each_vm_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    text = shown(monkeypatch, terminal=True)
    assert "vm-01: [coco] at 10/20" in text
    assert "vm-02: [coco] at 9/20" in text or "vm-02: [coco] at 10/20" in text


def test_a_distributed_run_that_does_not_pay_is_said_and_recorded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out, recorded = io.StringIO(), list[Event]()
    monkeypatch.setattr(output, "stderr", PlainConsole(file=out, width=80))
    members: Any = [object(), object()]
    events = Events(recorded.append)
    with RunWatch(events, output.State(), members) as watch:
        for step in range(10, 201, 10):
            for vm in ("vm-01", "vm-02"):
                times = {"step_seconds": 0.1, "communication_seconds": 0.08}
                record = {"event": "step", "t": 1.0, "phase": "train", "step": step, **times}
                watch.record(vm, record)
    (warning,) = [event for event in recorded if event.kind == "warning"]
    assert warning.text is not None
    assert warning.text.startswith("train: distribution does not pay: after 100 steps 2 VMs")
    assert " ".join(out.getvalue().split()) == warning.text
