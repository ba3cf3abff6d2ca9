"""Pictures and their progress, from records alone."""

import json
from pathlib import Path
from typing import Any

from gpuvm import results
from gpuvm.results import RunVM
from gpuvm.runs import here
from gpuvm.studio import cards, gallery
from gpuvm.studio.jobs import Job, Wanted

START = {
    "event": "start",
    "device": "/device:CPU:0",
    "params": {"size": 64, "rounds": 2, "weights": None},
}


def run_of(workload: str, *vms: str) -> results.Run:
    made = [RunVM(name=name, index=n) for n, name in enumerate(vms)]
    return results.create(
        workload=workload,
        args=[],
        distributed=False,
        vcenter=here.VCENTER,
        cluster="",
        deployment="",
        vms=made,
    )


def write(run: results.Run, vm: str, *lines: dict[str, Any], pictures: tuple[str, ...]) -> None:
    (run.vm_dir(vm) / "samples").mkdir(parents=True)
    text = "".join(json.dumps({"t": 0.0} | line) + "\n" for line in lines)
    (run.vm_dir(vm) / "timings.jsonl").write_text(text)
    for name in pictures:
        (run.vm_dir(vm) / "samples" / name).write_bytes(b"png")


def step(number: int, loss: float, of: str | None = "content 1, style 5") -> dict[str, Any]:
    named = {} if of is None else {"of": of}
    return {"event": "step", "phase": "paint", "step": number, "steps": 80, "loss": loss} | named


def test_pictures_have_their_weights_and_their_last_loss() -> None:
    run = run_of("style", "vm-1", "vm-2")
    other = "content 0.5, style 0"
    lines = (START, step(2, 3.0), step(40, 2.0), step(42, 9.0, other), step(80, 8.0, other))
    pictures = ("content1-style5.png", "content0.5-style0.png", "sheet.png")
    write(run, "vm-1", *lines, pictures=pictures)
    write(run, "vm-2", START, pictures=("content2-style10.png",))
    run_of("mnist", "vm-1")
    found = gallery.made()
    assert [(one.title, one.loss, one.vm) for one in found] == [
        ("content 0.5, style 0", 8.0, "vm-1"),
        ("content 1, style 5", 2.0, "vm-1"),
        ("content 2, style 10", None, "vm-2"),
    ]
    assert found[0].details == "64 px · 2 rounds · loss 8 · vm-1"
    assert [one.losses for one in gallery.progress(run)] == [(9.0, 8.0), ()]
    assert len(gallery.made(2)) == 2


def test_older_records_and_runs_that_were_cancelled() -> None:
    run = run_of("style_transfer", "vm-1")
    write(run, "vm-1", {"event": "start"}, step(3, 1.5, None), pictures=("content1-style5.png",))
    run.finish("cancelled", "cancelled")
    (one,) = gallery.made()
    assert (one.loss, one.size) == (1.5, None)
    assert one.details == "loss 1.5 · vm-1 · cancelled before its end"


def test_a_record_that_cannot_be_read_hides_no_other() -> None:
    write(run_of("style", "vm-1"), "vm-1", START, pictures=("content1-style5.png",))
    broken = run_of("style", "vm-1")
    (broken.dir / "manifest.json").write_text("{}")
    assert len(gallery.made()) == 1


def test_what_comes_from_elsewhere_is_escaped() -> None:
    run = run_of("style", "vm-1")
    write(run, "vm-1", START, step(1, 1.0, "<b>"), pictures=("content1-style5.png",))
    job = Job(1, Wanted(Path("<i>"), None, 1, 5, 64, 1), "failed", ("<vm>",), run, "<script>")
    shown = cards.card(job, gallery.pictures(run), gallery.progress(run), lambda _: '"><hr>')
    for mark in ("<script>", "<vm>", "<b>", '"><hr>'):
        assert mark not in shown
