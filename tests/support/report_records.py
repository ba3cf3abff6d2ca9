"""Writes run records as gpuvm and a workload write them, for tests and for looking at a report.

python tests/support/report_records.py DIR        # a realistic finished run and a failed one
"""

import hashlib
import json
import math
import random
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

T0 = datetime(2026, 11, 24, 1, 30, tzinfo=UTC).timestamp()
LAB = {
    "name": "gpuvm lab: simulated vCenter Server",
    "url": "https://127.0.0.1:8989/sdk",
    "version": "8.0.3",
}


class RunRecords:
    """One run folder; every method appends to its records."""

    def __init__(self, root: Path, run_id: str, vms: int = 2) -> None:
        self.dir = root / run_id
        self.dir.mkdir(parents=True)
        self.run_id = run_id
        self.names = [f"gpuvm-{i:02d}" for i in range(1, vms + 1)]

    def manifest(self, **changes: Any) -> None:
        vms = [self.vm(i, name) for i, name in enumerate(self.names, start=1)]
        manifest = {
            "schema": 1,
            "run_id": self.run_id,
            "workload": "captioning",
            "args": ["--steps", "400"],
            "distributed": len(vms) > 1,
            "vcenter": LAB,
            "cluster": "GPU-Cluster",
            "deployment": "gpuvm",
            "started": _iso(T0),
            "ended": _iso(T0 + 120),
            "status": "succeeded",
            "error": None,
            "vms": vms,
            "gpuvm_version": "0.1.0",
        }
        text = json.dumps(manifest | changes, indent=2)
        (self.dir / "manifest.json").write_text(text, encoding="utf-8")

    def vm(self, index: int, name: str, **changes: Any) -> dict[str, Any]:
        gpu = {
            "pci_address": "0000:3b:00.0",
            "model": "GP100GL [Tesla P100 PCIe 16GB]",
            "vendor_id": 0x10DE,
            "device_id": 0x15F8,
        }
        vm = {
            "name": name,
            "index": index,
            "host": f"esx-{index:02d}.lab.local",
            "address": f"127.77.0.{index}",
            "role": "single" if len(self.names) == 1 else "chief" if index == 1 else "worker",
            "accelerator": "passthrough",
            "gpus": [gpu],
            "simulated": True,
        }
        return vm | changes

    def phase(self, name: str, vm: str | None, start: float, seconds: float | None) -> None:
        """Start and end at ``T0 + start``; ``seconds`` None leaves the end out."""
        begun = T0 + start
        self.event(t=begun, kind="phase", name=name, vm=vm, state="start")
        if seconds is not None:
            end = {"t": begun + seconds, "kind": "phase", "name": name, "vm": vm, "state": "end"}
            self.event(**end, seconds=seconds, ok=True)

    def event(self, **fields: Any) -> None:
        self.append("events.jsonl", json.dumps(fields) + "\n")

    def timing(self, vm: str, event: str, t: float = 0.0, **fields: Any) -> None:
        line = {"t": T0 + t, "event": event, **fields}
        self.append(f"{vm}/timings.jsonl", json.dumps(line) + "\n")

    def start(self, vm: str, t: float = 0.0, device: str = "/device:CPU:0", **fields: Any) -> None:
        known = {"device": device, "device_name": "CPU", "tensorflow": "2.21.0", "keras": "3.15.1"}
        self.timing(vm, "start", t, workload="captioning", schema=1, **(known | fields))

    def shard(self, vm: str, worker: int, workers: int, of: int, ids: list[str]) -> None:
        text = "".join(f"{one}\n" for one in ids)
        digest = hashlib.sha256(text.encode()).hexdigest()
        known = {"worker": worker, "workers": workers, "examples": len(ids), "of": of}
        self.timing(vm, "shard", 1, **known, ids_sha256=digest)
        self.append(f"{vm}/shard_ids.txt", text)

    def gpu(self, vm: str, t: float, *values: float | None, gpu: int = 0, **more: Any) -> None:
        """A sample ``t`` seconds after the start: utilisation, memory in MiB, power in W."""
        names = ("utilization", "memory_mib", "power_w")
        fields = {"t": T0 + t, "gpu": gpu, "uuid": f"GPU-{vm}-{gpu}", "interval_s": 2.0}
        fields |= dict(zip(names, values, strict=True))
        self.append(f"{vm}/gpu_samples.jsonl", json.dumps(fields | more) + "\n")

    def results(self, vm: str, **fields: Any) -> None:
        self.append(f"{vm}/results.json", json.dumps({"workload": "captioning", **fields}))

    def append(self, relative: str, text: str) -> None:
        file = self.dir / relative
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("a", encoding="utf-8") as out:
            out.write(text)


def captioning_run(root: Path, vms: int = 4) -> Path:
    """What a distributed captioning run in the lab leaves behind."""
    run = RunRecords(root, "captioning-20261124-013000-ab12", vms)
    run.manifest(started=_iso(T0), ended=_iso(T0 + 171.4))
    _provisioning(run)
    _run_phases(run, train_s=158.2)
    for worker, vm in enumerate(run.names):
        _workload(run, vm, worker, steps=400)
        run.timing(vm, "end", 152, ok=True, steps=400, seconds=151.7, weights_sha256="5e1f" * 16)
    _scores(run, run.names[0])
    return run.dir


def one_vm_run(root: Path, args: Sequence[str] = ("--steps", "480", "--seed", "3")) -> Path:
    """A run on the GPU of one VM."""
    alone = RunRecords(root, "captioning-20261124-090000-1111", 1)
    alone.manifest(
        args=list(args), started=_iso(T0 - 9000), vms=_real(alone), ended=_iso(T0 - 8900)
    )
    alone.phase("train", "gpuvm-01", 1, 40.0)
    alone.start("gpuvm-01", device="/device:GPU:0", device_name="Tesla P100-PCIE-16GB")
    _phase(alone, "gpuvm-01", "encoder", 10, 3.0)
    for step in (1, 120, 240):
        alone.timing("gpuvm-01", "step", 10, phase="encoder", step=step, steps=240, loss=1.0)
    alone.timing("gpuvm-01", "phase", 13, name="train", state="start")
    for step in range(16, 481, 16):
        rate = {"step_seconds": 0.05, "examples_per_second": 1280.0}
        loss = 3.3 * math.exp(-step / 55) + 0.1
        alone.timing(
            "gpuvm-01",
            "step",
            13 + step / 20,
            phase="train",
            step=step,
            steps=480,
            loss=loss,
            **rate,
        )
    alone.timing("gpuvm-01", "phase", 37, name="train", state="end", seconds=24.0)
    alone.timing("gpuvm-01", "end", 38, ok=True, steps=480, seconds=38.0)
    return alone.dir


def local_sgd_run(root: Path) -> Path:
    """The same on three VMs, of which one was lost for a while.

    Of a round of 48 steps gpuvm-01 and gpuvm-03 compute 0.8 s, gpuvm-02 1.2 s.
    """
    run = RunRecords(root, "captioning-20261124-110000-3333", 3)
    run.manifest(
        args=["--steps", "480", "--average-every", "16"],
        strategy="local-sgd",
        vms=_real(run),
        started=_iso(T0),
        ended=_iso(T0 + 90),
    )
    for vm, computing in zip(run.names, (0.8, 1.2, 0.8), strict=True):
        run.phase("train", vm, 1, 25.0)
        run.start(vm, device="/device:GPU:0", device_name="Tesla P100-PCIE-16GB")
        at = _rounds(run, vm, "encoder", 2.0, 5, computing / 4)
        at = _rounds(run, vm, "train", at, 10, computing, lost=4 if vm == "gpuvm-03" else None)
        run.timing(vm, "end", at + 1, ok=True, steps=480, seconds=at + 1)
    for line in (
        {"at": _iso(T0 + 9), "vm": "gpuvm-03", "what": "lost", "lost_steps": 16}
        | {"why": "silent for 15 s", "seconds": None},
        {"at": _iso(T0 + 31), "vm": "gpuvm-03", "what": "back"}
        | {"why": "joined the others after a round", "lost_steps": None, "seconds": 22.4},
    ):
        run.append("incidents.jsonl", json.dumps(line) + "\n")
    return run.dir


def _rounds(
    run: RunRecords,
    vm: str,
    phase: str,
    at: float,
    rounds: int,
    computing: float,
    *,
    lost: int | None = None,
) -> float:
    """Rounds of 16 steps of each of three workers, that last as long as the slowest computes
    and 0.1 s on the way; the rest is waiting.
    """
    whole = 0.4 if phase == "encoder" else 1.3
    run.timing(vm, "phase", at, name=phase, state="start")
    began = at
    for number in range(1, rounds + 1):
        at += whole
        done = {"phase": phase, "step": 48 * number}
        if number == lost:
            run.timing(vm, "rejoined", at + 20, phase=phase, members=[0, 1, 2])
        away = 20.0 if lost is not None and number >= lost else 0.0
        run.timing(
            vm,
            "average",
            at + away,
            **done,
            members=[0, 1, 2],
            computing_seconds=0.0,
            seconds=round(20.0 if number == lost else whole - computing, 6),
            waited_seconds=round(whole - computing - 0.1, 6),
        )
        loss = 3.3 * math.exp(-number / 2) + 0.1
        rate = {"step_seconds": whole / 48, "examples_per_second": 64 * 16 / whole}
        run.timing(vm, "step", at + away, **done, steps=48 * rounds, loss=loss, **rate)
    run.timing(vm, "phase", at, name=phase, state="end", seconds=round(at - began, 3))
    return at


def _real(run: RunRecords) -> list[dict[str, Any]]:
    return [run.vm(i, name, simulated=False) for i, name in enumerate(run.names, start=1)]


def failed_run(root: Path) -> Path:
    """A distributed run whose third worker was killed in the middle of a line."""
    run = RunRecords(root, "captioning-20261124-021500-cd34", 4)
    run.manifest(
        ended=_iso(T0 + 95),
        status="failed",
        error="the worker on gpuvm-03 ended with status -9",
    )
    _run_phases(run, train_s=None)
    for worker, vm in enumerate(run.names):
        _workload(run, vm, worker, steps=400, done=180, evaluated=False)
        if vm != "gpuvm-03":
            run.timing(vm, "end", 90, ok=False, steps=180, seconds=88.0)
            run.append(f"{vm}/stderr.log", f"{_NOISE}{_SURVIVOR}")
    run.append("gpuvm-03/timings.jsonl", '{"t": 1795483889.2, "event": "step", "phase": "tr')
    run.append("gpuvm-03/stderr.log", f"{_NOISE}{_KILLED}")
    run.append("gpuvm-03/stdout.log", "train 180/400 loss 0.4312 611 examples/s\n")
    return run.dir


def sweep_run(root: Path, vms: int = 2) -> Path:
    """A grid of pictures by two weights, divided among VMs, with a contact sheet of each."""
    run = RunRecords(root, "style-20261124-040000-eeee", vms)
    run.manifest(workload="style", args=["--sweep"], distributed=False)
    cells = [(content, style) for content in (0.0, 1.0, 2.0) for style in (0.0, 2.5, 5.0, 10.0)]
    for number, vm in enumerate(run.names):
        run.start(vm)
        samples = [_weighted(run.dir / vm, *cell) for cell in cells[number::vms]]
        sheet = _weighted(run.dir / vm, 0, 0, name="sheet")
        del sheet["at"]
        run.results(vm, scores={}, samples=[sheet | {"sheet": True}, *samples], notes=[])
        run.timing(vm, "end", 90, ok=True, steps=180, seconds=88.0)
    return run.dir


def style_run(root: Path, content: float, style: float) -> Path:
    """One picture."""
    run = RunRecords(root, f"style-20261124-05{10 * content:02.0f}{style:02.0f}-ffff", 1)
    run.manifest(workload="style", args=[f"--content-weight={content}", f"--style-weight={style}"])
    run.start(run.names[0])
    picture = _weighted(run.dir / run.names[0], content, style)
    run.results(run.names[0], scores={}, samples=[picture], notes=[])
    run.timing(run.names[0], "end", 90, ok=True, steps=180, seconds=88.0)
    return run.dir


def own_run(root: Path) -> Path:
    """A program of the user's own, with a plot and a long output."""
    run = RunRecords(root, "train-20261124-060000-0000", 1)
    run.manifest(workload="train.py", args=[], contract=False, project={"train.py": "ab" * 32})
    vm = run.names[0]
    run.append(f"{vm}/stdout.log", "".join(f"epoch {n}: loss {1 / n:.4f}\n" for n in range(1, 61)))
    run.append(f"{vm}/stdout.log", "\x1b[31m<script>alert(1)</script>\x1b[0m\n")
    run.append(f"{vm}/curve.csv", "1,2\n")
    run.append(f"{vm}/project/model/weights.bin", "x" * 123_456)
    run.append(f"{vm}/project/plot.svg", _PLOT)
    _picture(run.dir / vm / "project/plot.png", _SCENES[0][0])
    return run.dir


_PLOT = """<?xml version="1.0"?>
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 60 40">
<script>alert(1)</script><image href="http://192.0.2.1/x.png" width="9" height="9"/>
<path d="M5 35 25 12 40 20 55 5" fill="none" stroke="#26c"/></svg>
"""


def _weighted(
    vm_dir: Path, content: float, style: float, name: str | None = None
) -> dict[str, Any]:
    file = f"samples/{name or f'content{content:g}-style{style:g}'}.png"
    _picture(vm_dir / file, [("circle", "#26c", 32, 32, round(6 + 5 * content + style))])
    return {
        "image": file,
        "caption": f"content {content:g}, style {style:g}",
        "at": {"content": content, "style": style},
    }


_NOISE = (
    "I0000 00:00:1795483801.123 cpu_feature_guard.cc:227] This TensorFlow binary is optimized "
    "to use available CPU instructions in performance-critical operations.\n"
)
_SURVIVOR = (
    "Traceback (most recent call last):\n"
    '  File "captioning/train.py", line 212, in <module>\n'
    "tensorflow.python.framework.errors_impl.UnavailableError: Collective ops is aborted by: "
    "failed to connect to all addresses [Op:CollectiveReduceV2]\n"
)
_KILLED = "\x1b[33mtrain: step 180 of 400\x1b[0m\nKilled\n"


def _provisioning(run: RunRecords) -> None:
    chance = random.Random(3)
    run.phase("plan", None, -64, 0.82)
    for i, vm in enumerate(run.names):
        at = -63.0
        for name, seconds in (
            ("clone", 19 + 3 * i),
            ("configure", 0.04),
            ("power_on", 1.3),
            ("address", 9 + 4 * chance.random()),
            ("ready", 12 + 3 * chance.random()),
        ):
            run.phase(name, vm, at, seconds)
            at += seconds
    warning = "TensorFlow does not use the GPU: no GPU device is visible to it"
    for vm in run.names:
        run.event(t=T0 - 2, kind="warning", name="warning", vm=vm, text=warning)


def _run_phases(run: RunRecords, train_s: float | None) -> None:
    for i, vm in enumerate(run.names):
        run.phase("push", vm, 0.2, 0.9 + 0.2 * i)
        run.phase("check_network", vm, 2.1, 1.1)
        run.phase("train", vm, 3.4, train_s)
        if train_s is not None:
            run.phase("fetch", vm, 3.4 + train_s, 4.2 + 0.3 * i)


def _workload(
    run: RunRecords,
    vm: str,
    worker: int,
    steps: int,
    done: int | None = None,
    *,
    evaluated: bool = True,
) -> None:
    chance = random.Random(worker)
    last = steps if done is None else done
    run.start(vm, worker=worker, workers=len(run.names))
    ids = [f"scene-{i:05d}" for i in range(4800)]
    run.shard(vm, worker, len(run.names), 4800, ids[worker :: len(run.names)])
    at = _phase(run, vm, "data", 0.5, 6.1)
    run.timing(vm, "phase", at, name="encoder", state="start")
    for step in range(20, 201, 20):
        loss = 2.9 * math.exp(-step / 60) + 0.08 + 0.02 * chance.random()
        run.timing(vm, "step", at + step / 5, phase="encoder", step=step, steps=200, loss=loss)
    run.timing(vm, "phase", at + 41, name="encoder", state="end", seconds=41.0)
    at = _phase(run, vm, "features", at + 41, 11.4)
    run.timing(vm, "phase", at, name="train", state="start")
    run.timing(vm, "compile", at + 4, seconds=4.2 + 0.3 * worker)
    for step in range(10, last + 1, 10):
        rate = 600 + 40 * chance.random()
        run.timing(
            vm,
            "step",
            at + 4 + step / 6,
            phase="train",
            step=step,
            steps=steps,
            loss=3.3 * math.exp(-step / 55) + 0.11 + 0.05 * chance.random(),
            step_seconds=round(64 / rate, 4),
            examples_per_second=round(rate, 1),
        )
        if step % 100 == 0 and worker == 0:
            run.timing(vm, "checkpoint", at + 4, step=step, path=f"checkpoints/ckpt-{step}")
    if done is None:
        run.timing(vm, "phase", at + 71, name="train", state="end", seconds=71.0)
    if evaluated and worker == 0:
        _phase(run, vm, "evaluate", at + 71, 17.5)


def _phase(run: RunRecords, vm: str, name: str, at: float, seconds: float) -> float:
    run.timing(vm, "phase", at, name=name, state="start")
    run.timing(vm, "phase", at + seconds, name=name, state="end", seconds=seconds)
    return at + seconds


def _scores(run: RunRecords, vm: str) -> None:
    for decoder, bleu4, exact in (("greedy", 0.912, 0.731), ("beam3", 0.934, 0.762)):
        fields = {"split": "held_out", "decoder": decoder, "examples": 480}
        run.timing(vm, "score", 150, name="bleu4", value=bleu4, **fields)
        run.timing(vm, "score", 150, name="bleu4_shuffled", value=0.4127, **fields)
        run.timing(vm, "score", 150, name="exact_match", value=exact, **fields)
        run.timing(vm, "score", 150, name="exact_match_shuffled", value=0.0042, **fields)
    samples = []
    for number, (shapes, caption, exact) in enumerate(_SCENES):
        _picture(run.dir / vm / "samples" / f"{number:03d}.png", shapes)
        references = [caption] if exact else [caption.replace("blue", "purple")]
        references.append(f"there is {caption}")
        samples.append(
            {
                "image": f"samples/{number:03d}.png",
                "caption": caption,
                "references": references,
                "exact": exact,
            }
        )
    note = "Held-out scenes show combinations of shape, colour and size that training never had."
    run.results(vm, scores={}, samples=samples, notes=[note])


_SCENES: list[tuple[list[tuple[str, str, int, int, int]], str, bool]] = [
    (
        [("circle", "#d33", 20, 20, 12), ("square", "#26c", 44, 44, 9)],
        "a large red circle above a small blue square",
        True,
    ),
    ([("triangle", "#2a2", 34, 30, 14)], "a large green triangle in the middle", True),
    (
        [("square", "#e90", 14, 46, 9), ("circle", "#83c", 46, 18, 12)],
        "a small orange square left of a large purple circle",
        True,
    ),
    ([("circle", "#83c", 30, 46, 8)], "a small blue circle at the bottom", False),
    (
        [("triangle", "#dc2", 18, 34, 9), ("triangle", "#d33", 46, 34, 13)],
        "a small yellow triangle left of a large red triangle",
        True,
    ),
    ([("square", "#2a2", 32, 16, 13)], "a large green square at the top", True),
]


def _picture(file: Path, shapes: list[tuple[str, str, int, int, int]]) -> None:
    image = Image.new("RGB", (64, 64), "#e9e6df")
    draw = ImageDraw.Draw(image)
    for kind, colour, x, y, r in shapes:
        if kind == "circle":
            draw.ellipse((x - r, y - r, x + r, y + r), fill=colour)
        elif kind == "square":
            draw.rectangle((x - r, y - r, x + r, y + r), fill=colour)
        else:
            draw.polygon([(x, y - r), (x - r, y + r), (x + r, y + r)], fill=colour)
    file.parent.mkdir(parents=True, exist_ok=True)
    image.save(file)


def _iso(t: float) -> str:
    return datetime.fromtimestamp(t, UTC).isoformat()


if __name__ == "__main__":
    for make in (captioning_run, failed_run, sweep_run, own_run, one_vm_run, local_sgd_run):
        sys.stdout.write(f"{make(Path(sys.argv[1]))}\n")
