"""A workload on this machine, without a VM."""

from pathlib import Path

import pytest
from run_harness import CONTRACT, TRAINS, Watching

from gpuvm import report, results, runs
from gpuvm.errors import Interrupted, RunError


def test_on_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its record is like that of a VM, and names this machine."""
    monkeypatch.chdir(tmp_path)
    program = tmp_path / "mine.py"
    program.write_text(
        CONTRACT + TRAINS.replace('"--word"', '"--device")\nparser.add_argument("--word"')
    )
    record = runs.begin_record_here(runs.find(str(program)), ["--word", "a b"])
    runs.run_here(runs.find(str(program)), record, runs.Watch())
    loaded = results.load(record.run_id)
    assert loaded.manifest.status == "succeeded"
    assert loaded.manifest.vcenter.name == "this machine, without a vCenter"
    assert [(vm.name, vm.gpus) for vm in loaded.manifest.vms] == [("this-machine", ())]
    assert (loaded.vm_dir("this-machine") / "stdout.log").read_text() == "word a b worker 0\n"
    assert "TensorFlow ran on the CPU" in report.build([record.dir]).runs[0].device_note


def test_on_this_machine_cancelled_and_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    program = tmp_path / "mine.py"
    program.write_text(
        f"{CONTRACT}import sys, time\n"
        "if '--wait' in sys.argv: time.sleep(600)\n"
        "sys.exit('mine: no')\n"
    )
    chosen = runs.find(str(program))
    watching = Watching(lambda _: None)
    watching.cancel = True
    record = runs.begin_record_here(chosen, ["--wait"])
    with pytest.raises(Interrupted):
        runs.run_here(chosen, record, watching)
    assert results.load(record.run_id).manifest.status == "cancelled"
    record = runs.begin_record_here(chosen, [])
    with pytest.raises(RunError, match="ended with status 1: no"):
        runs.run_here(chosen, record, runs.Watch())
    assert results.load(record.run_id).manifest.error == "mine ended with status 1: no"
