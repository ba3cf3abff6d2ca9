"""The TensorBoard event files of runs in one folder, under names that people read.

    board = EventFiles(folder)
    board.add(record)                      # stock 2026-11-24 01:30:00 ab12/gpuvm-01/train/…
    live = LiveRun(record, members, settings, cache)
    live.fetch(events); board.add(record, live.cache)

A run that goes on is fetched into a folder of its own: its record belongs to the command that
watches it, if one does.
"""

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from gpuvm.events import Events
from gpuvm.guest import Guest, fetch
from gpuvm.report.tensorboard import event_files, log_dir
from gpuvm.results import Run
from gpuvm.runs.fan_out import QUICK_S, FanOut, Member
from gpuvm.runs.guest_runs import list_runs
from gpuvm.settings import GuestSettings

PATTERN = "*.tfevents.*"
LIMIT_BYTES = 256 << 20
"""Of the event files of a run in one guest; the smaller ones come first."""


@dataclass
class EventFiles:
    """TensorBoard reads ``folder``: a name stays the same for as long as it runs."""

    folder: Path
    _targets: dict[Path, Path] = field(default_factory=dict)

    def add(self, run: Run, source: Path | None = None) -> bool:
        """Shows the event files below ``source``, else of the record; whether there are any.

        A file of a record is a link. One that still grows is a copy, since TensorBoard goes on
        reading the file that it has open, and what is fetched is a new one every time.
        """
        found = False
        for vm in run.manifest.vms:
            files = sorted(event_files((source or run.dir) / vm.name))
            base = log_dir([file.parent for file in files]) if files else Path()
            for file in files:
                found = True
                known = self._targets.get(file)
                series = file.parent.relative_to(base)
                target = known or self.folder / title(run) / vm.name / series / file.name
                self._targets[file] = target
                target.parent.mkdir(parents=True, exist_ok=True)
                if source is not None:
                    if target.is_symlink():  # else the record would grow
                        target.unlink()
                    _grow(file, target)
                elif not target.exists():
                    target.symlink_to(file)
        return found


def title(run: Run) -> str:
    """``stock 2026-11-24 01:30:00 ab12``: what, when by this machine's clock, the end of its id."""
    started = run.manifest.started.astimezone()
    words = (run.manifest.workload, f"{started:%Y-%m-%d %H:%M:%S}", run.run_id.rpartition("-")[2])
    return " ".join(words).replace("/", "-").lstrip(".")


def _grow(source: Path, target: Path) -> None:
    """Appends what the target does not have; one that was begun anew replaces it."""
    have = target.stat().st_size if target.exists() else 0
    with source.open("rb") as new:
        anew = have > source.stat().st_size
        new.seek(0 if anew else have)
        with target.open("wb" if anew else "ab") as copy:
            shutil.copyfileobj(new, copy)


@dataclass(frozen=True)
class LiveRun:
    """A run that goes on in its guests; its event files are fetched into ``cache``."""

    record: Run
    members: Sequence[Member]
    settings: GuestSettings
    cache: Path

    def fetch(self, events: Events) -> bool:
        """Whether there may be more later. What cannot be reached is a warning, and tried again."""
        listed = list_runs(self.members, self.settings, events, timeout_s=QUICK_S)
        FanOut(self.members, events).best_effort(self._fetch_from, timeout_s=QUICK_S)
        states = {run.state for run in listed if run.run_id == self.record.run_id}
        return not states or bool(states & {"queued", "running"})

    def _fetch_from(self, guest: Guest) -> None:
        for folder, below in self._folders():
            fetch(
                guest,
                f"{self.settings.work_dir}/{self.record.run_id}/{folder}",
                self.cache / guest.name / below,
                patterns=[PATTERN],
                limit_bytes=LIMIT_BYTES,
                python=self.settings.python,
            )

    def _folders(self) -> Iterator[tuple[str, str]]:
        """A program of the user's own writes where it likes, and that is collected at its end."""
        yield "out", "."
        if self.record.manifest.project:
            yield "project", "project"
