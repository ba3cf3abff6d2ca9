"""The inputs of a run, its fetched results, and missing records."""

import json
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from run_harness import BEGIN, START, TRAINS, Runner, seen

from gpuvm import report, results
from gpuvm.errors import Interrupted, PreflightRefused
from gpuvm.runs import with_data

Guests = Any  # tests/support/ssh_servers.py
Machine = Any


def test_data_is_not_sent_if_a_module_is_missing(
    runner: Runner, machine: Machine, tmp_path: Path
) -> None:
    big = tmp_path / "big.h5"
    big.write_bytes(b"weights")
    source = TRAINS + "\ndef score():\n    from no_such_scorer.metrics import BLEU\n"
    with pytest.raises(PreflightRefused, match="python3 has no module no_such_scorer"):
        runner(source, [machine], inputs={"hash/big.h5": big})
    assert not (machine.home / "gpuvm-runs").exists(), "nothing was sent"


def test_nothing_is_sent_without_a_checkpoint_to_resume_from(
    runner: Runner, machine: Machine, tmp_path: Path, guests: Guests
) -> None:
    bare = runner(TRAINS, [machine])
    other = guests.on("two")
    with pytest.raises(PreflightRefused, match="no checkpoint to resume from"):
        runner(TRAINS, [other], resume=bare, inputs={"hash/mine.py": runner.folder / "mine.py"})
    assert not (other.home / "gpuvm-runs").exists()


def test_resume_gives_every_vm_the_chiefs_checkpoint(runner: Runner, three: list[Machine]) -> None:
    source = (
        BEGIN
        + START
        + """
checkpoints = options.out / "checkpoints"
found = checkpoints.joinpath("step-3").read_text() if checkpoints.exists() else None
if me == 0:
    checkpoints.mkdir(exist_ok=True)
    checkpoints.joinpath("step-3").write_text("weights")
(options.out / "seen.json").write_text(json.dumps({"found": found}))
step(1, 1)
"""
    )
    first = runner(source, three, distributed=True)
    assert [seen(first, machine.name)["found"] for machine in three] == [None] * 3
    again = runner(source, three, distributed=True, resume=results.load(first.run_id))
    assert [seen(again, machine.name)["found"] for machine in three] == ["weights"] * 3
    bare = runner(TRAINS, three[:1])
    with pytest.raises(PreflightRefused, match="no checkpoint to resume from"):
        runner(source, three, distributed=True, resume=bare)


KEEPS = (
    BEGIN
    + START
    + """
kept = options.out / "checkpoints" / "rounds"
(options.out / "seen.json").write_text(json.dumps(kept.read_text() if kept.exists() else None))
kept.parent.mkdir(exist_ok=True)
kept.write_text(options.word)
step(1, 1)
"""
)


def found(record: results.Run, machines: Sequence[Machine]) -> list[Any]:
    return [json.loads((record.vm_dir(m.name) / "seen.json").read_text()) for m in machines]


def test_resume_gives_each_of_several_side_by_side_its_own(
    runner: Runner, three: list[Machine]
) -> None:
    words = {"vm-01": ["--word", "one"], "vm-02": ["--word", "two"], "vm-03": ["--word", "three"]}
    first = runner(KEEPS, three, more_args=words)
    assert found(first, three) == [None] * 3
    again = runner(KEEPS, three[::-1], resume=results.load(first.run_id))
    assert found(again, three[::-1]) == ["one", "two", "three"], "by its place, not its name"
    with pytest.raises(PreflightRefused, match="was on 3 VMs, each with its own checkpoints") as e:
        runner(KEEPS, three[:2], resume=first)
    assert "--vm" in str(e.value.hint)


def test_ctrl_c_shows_how_to_resume_from_a_checkpoint(runner: Runner, machine: Machine) -> None:
    runner.on_step = lambda _: os.kill(os.getpid(), signal.SIGINT)
    with pytest.raises(Interrupted) as e:
        runner(KEEPS + "time.sleep(1000)", [machine], "--word", "so far")
    assert runner.record is not None
    assert f"--resume {runner.record.run_id} resumes" in str(e.value.hint)
    runner.on_step = lambda _: None
    again = runner(KEEPS, [machine], resume=results.load(runner.record.run_id))
    assert found(again, [machine]) == ["so far"]


def test_missing_records_of_a_program_are_reported(
    runner: Runner, machine: Machine, event_log: Any
) -> None:
    record = runner("print('hi')", [machine])
    message = (
        "mine did not write all records for the report: no start record, no step, no end record, "
        "no results.json (see the contract in workloads/README.md)"
    )
    assert runner.manifest["status"] == "succeeded"
    assert runner.manifest["warnings"] == [message]
    assert event_log.texts("warning") == [message]
    assert report.build([record.dir]).runs[0].warnings == (message,)


def test_program_that_follows_the_contract_gets_no_warning(
    runner: Runner, three: list[Machine], event_log: Any
) -> None:
    """The chief alone writes results; shares may be empty, and a finished run has no step left."""
    keeps = BEGIN + START + 'say("end", ok=True)\n'
    chiefs = 'if me == 0: (options.out / "results.json").write_text("{}")\n'
    shares = 'if options.word: step(1, 1)\n(options.out / "results.json").write_text("{}")\n'
    runner(TRAINS + chiefs, three, distributed=True)
    runner(keeps + shares, three, more_args={"vm-02": ["--word", "x"]})
    first = runner(KEEPS + keeps.removeprefix(BEGIN) + shares, three[:1])
    assert event_log.texts("warning") == []
    runner(keeps + shares, three[:1], resume=first)
    assert event_log.texts("warning") == []
    runner(keeps + 'if me != 1: (options.out / "results.json").write_text("{}")', three)
    assert "no step" in event_log.texts("warning")[0]


def test_vm_with_an_incomplete_result_is_named(
    runner: Runner, three: list[Machine], event_log: Any
) -> None:
    wrote = '(options.out / "results.json").write_text("{}")\n'
    runner(TRAINS + "if not options.word: " + wrote, three, more_args={"vm-02": ["--word", "x"]})
    assert (
        "did not write all records for the report: vm-02: no results.json"
        in event_log.texts("warning")[0]
    )


LOOKS = (
    BEGIN
    + START
    + """
def tree(path):
    path = pathlib.Path(path)
    files = [path] if path.is_file() else sorted(f for f in path.rglob("*") if f.is_file())
    return {str(file.relative_to(path)): file.read_text() for file in files}
(options.out / "seen.json").write_text(json.dumps(tree(options.word)))
"""
)


def test_a_file_is_sent_once_and_named_where_it_is(
    runner: Runner, machine: Machine, tmp_path: Path
) -> None:
    mine = tmp_path / "my weights.h5"
    mine.write_text("weights")
    arguments, inputs = with_data([f"--word=@{mine}"])
    record = runner(LOOKS, [machine], *arguments, inputs=inputs)
    assert found(record, [machine]) == [{".": "weights"}]
    (place,) = inputs
    there = machine.home / "gpuvm-runs" / "data" / place
    before = there.stat().st_ino
    arguments, inputs = with_data(["--word", f"@{mine}"])
    again = runner(LOOKS, [machine], *arguments, inputs=inputs)
    assert found(again, [machine]) == [{".": "weights"}]
    assert there.stat().st_ino == before, "not sent again"
    there.write_text("cut")
    runner(LOOKS, [machine], *arguments, inputs=inputs)
    assert there.read_text() == "weights", "half a file is"


def test_folder_is_sent_once_and_completely(
    runner: Runner, machine: Machine, tmp_path: Path
) -> None:
    folder = tmp_path / "flickr"
    (folder / "Images").mkdir(parents=True)
    texts = {"captions.txt": "a,b", "Images/a.jpg": "first", "Images/b c.jpg": "second"}
    for name, text in texts.items():
        (folder / name).write_text(text)
    arguments, inputs = with_data(["--word", f"@{folder}/"])
    (place,) = inputs
    there = machine.home / "gpuvm-runs" / "data" / place
    assert found(runner(LOOKS, [machine], *arguments, inputs=inputs), [machine]) == [texts]
    before = (there / "captions.txt").stat().st_ino
    runner(LOOKS, [machine], *arguments, inputs=inputs)
    assert (there / "captions.txt").stat().st_ino == before, "not sent again"
    (there.parent / ".whole").unlink()
    (there / "Images/a.jpg").unlink()
    again = runner(LOOKS, [machine], *arguments, inputs=inputs)
    assert found(again, [machine]) == [texts], "one that came in part is"
