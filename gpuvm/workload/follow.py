"""Follows one guest's program live; a broken connection is taken up again where it broke."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from gpuvm.errors import GuestUnreachable
from gpuvm.guest import Endpoint, Guest, connect
from gpuvm.workload import scripts

TIMINGS = "out/timings.jsonl"
FILES = (TIMINGS, "out/stdout.log", "out/stderr.log")
TAIL_LINES = 12
RECONNECT_S = 60.0


@dataclass(frozen=True)
class Progress:
    """``loss`` and ``examples_per_second`` are those of the last logged step."""

    vm: str
    phase: str
    step: int | None = None
    steps: int | None = None
    loss: float | None = None
    examples_per_second: float | None = None
    text: str | None = None


@dataclass
class Followed:
    """What has been seen of one program so far."""

    offsets: dict[str, int] = field(default_factory=lambda: dict.fromkeys(FILES, 0))
    partial: dict[str, str] = field(default_factory=dict)
    tail: list[str] = field(default_factory=list)
    phase: str = "starting"
    started: bool = False
    stepped: bool = False


def follow(
    endpoint: Endpoint,
    python: str,
    directory: str,
    seen: Followed,
    on_step: Callable[[Progress], None],
) -> int:
    """Until the program ends; returns its exit status. Raises GuestUnreachable for a lost guest."""
    while True:
        with connect(endpoint, timeout_s=RECONNECT_S) as guest:
            try:
                status = _stream(guest, python, directory, seen, on_step)
            except GuestUnreachable:
                continue
        if status is not None:
            return status


def _stream(
    guest: Guest,
    python: str,
    directory: str,
    seen: Followed,
    on_step: Callable[[Progress], None],
) -> int | None:
    command = [python, "-c", scripts.FOLLOW, directory, json.dumps(seen.offsets)]
    for line in guest.stream(command, timeout_s=30):
        said = json.loads(line)
        if "exit" in said:
            return int(said["exit"])
        if "file" in said:
            seen.offsets[said["file"]] = said["offset"]
            _take(guest.name, said["file"], said["data"], seen, on_step)
    return None


def _take(
    vm: str, file: str, data: str, seen: Followed, on_step: Callable[[Progress], None]
) -> None:
    lines = (seen.partial.get(file, "") + data).split("\n")
    seen.partial[file] = lines.pop()
    if file == TIMINGS:
        for line in lines:
            _record(vm, line, seen, on_step)
    else:
        seen.tail[:] = [*seen.tail, *(line for line in lines if line.strip())][-TAIL_LINES:]


def _record(vm: str, line: str, seen: Followed, on_step: Callable[[Progress], None]) -> None:
    try:
        record: dict[str, Any] = json.loads(line)
    except ValueError:
        return  # the report names the line; following goes on
    event = record.get("event")
    if event == "start":
        seen.started = True
    elif event == "phase" and record.get("state") == "start":
        seen.phase = str(record.get("name"))
        on_step(Progress(vm, seen.phase))
    elif event == "step":
        seen.stepped = True
        on_step(_progress(vm, record, seen.phase))
    elif event == "score":
        text = f"{record.get('name')} {record.get('value', 0):.3f}"
        on_step(Progress(vm, seen.phase, text=text))


def _progress(vm: str, record: dict[str, Any], phase: str) -> Progress:
    return Progress(
        vm=vm,
        phase=str(record.get("phase", phase)),
        step=record.get("step"),
        steps=record.get("steps"),
        loss=record.get("loss"),
        examples_per_second=record.get("examples_per_second"),
    )


def tail_of(seen: Followed) -> Sequence[str]:
    return [*seen.tail, *(rest for rest in seen.partial.values() if rest.strip())][-TAIL_LINES:]
