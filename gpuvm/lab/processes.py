"""Processes as /proc shows them.

A pid may be reused by another process; together with the start time it identifies a process.
"""

import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class ProcessId:
    """``started`` is in clock ticks since the machine's boot."""

    pid: int
    started: int

    @property
    def alive(self) -> bool:
        """False for a process that has ended, also while it is a zombie."""
        stat = _stat(self.pid)
        return stat is not None and stat.started == self.started and stat.state not in "ZX"

    def send(self, number: signal.Signals) -> None:
        """Does nothing when the process has ended."""
        if self.alive:
            try:
                os.kill(self.pid, number)
            except ProcessLookupError:
                return


def identify(pid: int) -> ProcessId | None:
    """The process that has this pid now."""
    stat = _stat(pid)
    return None if stat is None else ProcessId(pid, stat.started)


def children(pid: int) -> list[int]:
    """Direct children, zombies included."""
    return [stat.pid for stat in _all() if stat.parent == pid]


def descendants(pid: int) -> list[int]:
    """Children, their children and so on, without zombies."""
    by_parent: dict[int, list[_Stat]] = {}
    for stat in _all():
        by_parent.setdefault(stat.parent, []).append(stat)
    found, todo = [], [pid]
    while todo:
        for stat in by_parent.get(todo.pop(), []):
            todo.append(stat.pid)
            if stat.state not in "ZX":
                found.append(stat.pid)
    return found


def is_stopped(pid: int) -> bool:
    """Whether it has been stopped by a signal, such as SIGSTOP."""
    stat = _stat(pid)
    return stat is not None and stat.state == "T"


@dataclass(frozen=True)
class _Stat:
    pid: int
    state: str
    parent: int
    started: int


def _all() -> Iterator[_Stat]:
    for entry in Path("/proc").iterdir():
        stat = _stat(int(entry.name)) if entry.name.isdigit() else None
        if stat is not None:
            yield stat


def _stat(pid: int) -> _Stat | None:
    """See proc_pid_stat(5); the name in parentheses may itself hold spaces and parentheses."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()
    return _Stat(pid, fields[0], int(fields[1]), int(fields[19]))
