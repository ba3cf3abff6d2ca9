"""Runs like those of the command line, on a test's machines, and programs for them."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ssh_servers import EventLog, Machine
from typing_extensions import override

from gpuvm import results, runs
from gpuvm.events import Events
from gpuvm.inventory import VCenter
from gpuvm.results import RunVM
from gpuvm.runs import Progress
from gpuvm.settings import GuestSettings
from gpuvm.spec import Distributed

VCENTER = VCenter("vc", "https://127.0.0.1/sdk", "8.0.3", "8.0.3.0", "0" * 32)

CONTRACT = """# /// script
# [tool.gpuvm]
# contract = 1
# ///
"""
# Every test program begins with this.
BEGIN = """
import argparse, json, os, pathlib, socket, sys, time
parser = argparse.ArgumentParser()
parser.add_argument("--out", type=pathlib.Path, required=True)
parser.add_argument("--start-deadline-s", type=float)
parser.add_argument("--word", default="")
options = parser.parse_args()
alone = '{"cluster": {"worker": [""]}, "task": {"index": 0}}'
config = json.loads(os.environ.get("TF_CONFIG", alone))
me, peers = config["task"]["index"], config["cluster"]["worker"]
def say(event, **fields):
    with open(options.out / "timings.jsonl", "a") as file:
        file.write(json.dumps({"t": time.time(), "event": event, **fields}) + "\\n")
def step(n, of):
    say("step", phase="train", step=n, steps=of, loss=1 / n, examples_per_second=10.0)
"""
START = """
say("start", workload="mine", schema=1, device="/device:CPU:0", worker=me, workers=len(peers))
"""
TRAINS = (
    BEGIN
    + START
    + """
print("word", options.word, "worker", me, flush=True)
say("phase", name="train", state="start")
for n in (1, 2, 3):
    step(n, 3)
say("phase", name="train", state="end", seconds=0.1)
seen = {"config": config, "proxies": [k for k in os.environ if "proxy" in k.lower()],
        "start_deadline_s": options.start_deadline_s}
(options.out / "seen.json").write_text(json.dumps(seen))
say("end", ok=True, steps=3, seconds=0.1)
"""
)


class Watching(runs.Watch):
    """``interrupts`` has the answers to Ctrl-C: whether the run is left running."""

    def __init__(self, step: Callable[[Progress], None]) -> None:
        self._step = step
        self.lines: list[tuple[str, bool, str]] = []
        self.interrupts: list[bool] = []
        self.cancel = False

    @override
    def step(self, progress: Progress) -> None:
        self._step(progress)

    @override
    def output(self, vm: str, stderr: bool, line: str) -> None:
        self.lines.append((vm, stderr, line))

    @override
    def leave_running(self) -> bool:
        return self.interrupts.pop() if self.interrupts else False

    @override
    def cancelled(self) -> bool:
        return self.cancel


class Runner:
    """``runner(program, machines)`` is a run, as the command line has it."""

    def __init__(self, folder: Path, event_log: EventLog) -> None:
        self.folder, self.event_log = folder, event_log
        self.progress: list[Progress] = []
        self.record: results.Run | None = None
        self.on_step: Callable[[Progress], None] = lambda _: None
        self.watch = Watching(self._step)

    def __call__(
        self,
        source: str,
        machines: Sequence[Machine],
        *args: str,
        distributed: bool = False,
        strategy: results.Strategy | None = None,
        resume: results.Run | None = None,
        settings: GuestSettings | None = None,
        distribution: Distributed | None = None,
        inputs: runs.Inputs | None = None,
        more_args: Mapping[str, Sequence[str]] | None = None,
        options: runs.RunOptions | None = None,
    ) -> results.Run:
        project = self.folder / "mine"
        project.mkdir(exist_ok=True)
        program = project / "mine.py"
        program.write_text(CONTRACT + source)
        self.record = record = results.create(
            workload="mine",
            args=args,
            distributed=distributed,
            strategy=strategy or ("allreduce" if distributed else None),
            vcenter=VCENTER,
            cluster="c",
            deployment="d",
            vms=[
                RunVM(
                    name=machine.name,
                    index=i,
                    host="esx-01",
                    address=machine.address,
                    role="worker" if i else "chief",
                    accelerator="none",
                )
                for i, machine in enumerate(machines)
            ],
            provisioning=self.folder / "none.jsonl",
        )
        runs.run(
            runs.find(str(program)),
            args,
            [machine.member() for machine in machines],
            distributed=distributed,
            guest=settings or GuestSettings(),
            distribution=distribution or Distributed(),
            record=record,
            events=Events(record.sink, self.event_log),
            resume=resume,
            inputs=inputs or {},
            more_args=more_args or {},
            options=options or runs.RunOptions(max_restarts=0),
            watch=self.watch,
        )
        return record

    def _step(self, progress: Progress) -> None:
        self.progress.append(progress)
        self.on_step(progress)

    @property
    def manifest(self) -> dict[str, Any]:
        """As it lies on the disk."""
        assert self.record is not None
        return dict(json.loads((self.record.dir / "manifest.json").read_text()))


def seen(record: results.Run, vm: str) -> dict[str, Any]:
    return dict(json.loads((record.vm_dir(vm) / "seen.json").read_text()))
