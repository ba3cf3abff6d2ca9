"""The records of a run: created at the start, replaced atomically, found again."""

import json
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from gpuvm import paths, results
from gpuvm.errors import BadInput, NotFound
from gpuvm.events import Event, Events
from gpuvm.inventory import VCenter
from gpuvm.report.records import read_events, read_incidents, read_manifest

VCENTER = VCenter("the lab", "https://127.0.0.1/sdk", "8.0.3", "8.0.3.0", "0" * 32)


def make(workload: str = "captioning", provisioning: Path = Path("none")) -> results.Run:
    vm = results.RunVM(
        name="vm-01",
        index=0,
        host="esx-01",
        address="127.0.0.2",
        role="chief",
        accelerator="passthrough",
        gpus=(
            results.RunGPU(
                pci_address="0000:3b:00.0", model="P100", vendor_id=0x10DE, device_id=0x15F8
            ),
        ),
    )
    return results.create(
        workload=workload,
        args=["--steps", "3"],
        distributed=True,
        vcenter=VCENTER,
        cluster="GPU-Cluster",
        deployment="gpuvm",
        vms=[vm],
        provisioning=provisioning,
    )


def test_run_is_recorded_from_the_start() -> None:
    run = make()
    assert re.fullmatch(r"captioning-\d{8}-\d{6}-[0-9a-f]{4}", run.run_id)
    manifest = json.loads((paths.runs_dir() / run.run_id / "manifest.json").read_text())
    assert manifest["schema"] == 1
    assert (manifest["status"], manifest["ended"], manifest["error"]) == ("running", None, None)
    assert manifest["vcenter"] == {
        "name": "the lab",
        "url": "https://127.0.0.1/sdk",
        "version": "8.0.3",
    }
    assert manifest["vms"][0]["gpus"][0]["device_id"] == 0x15F8
    assert run.vm_dir("vm-01") == run.dir / "vm-01"


def test_report_reads_written_records() -> None:
    run = make()
    with Events(run.sink).phase("push", "vm-01"):
        pass
    run.finish("failed", "the worker on vm-01 vanished")
    read = read_manifest(run.dir)
    assert (read.status, read.error) == ("failed", "the worker on vm-01 vanished")
    assert read.ended is not None
    assert read.ended >= read.started
    assert [event.kind for event in read_events(run.dir).records] == ["phase", "phase"]
    assert {file.name for file in run.dir.iterdir()} == {"manifest.json", "events.jsonl"}


def test_incidents_are_appended_by_several_threads() -> None:
    run = make()
    with ThreadPoolExecutor(8) as threads:
        for number in range(100):
            threads.submit(run.add_incident, "vm-01", "lost", "a\nb", lost_steps=number)
    run.add_incident("vm-01", "given up", seconds=61.23456)
    read = read_incidents(run.dir)
    assert not read.truncated
    *lost, last = read.records
    assert sorted(one.lost_steps for one in lost if one.lost_steps is not None) == [*range(100)]
    assert {(one.vm, one.what, one.why, one.seconds) for one in lost} == {
        ("vm-01", "lost", "a\nb", None)
    }
    assert (last.what, last.why, last.lost_steps, last.seconds) == ("given up", "", None, 61.235)
    assert last.at >= run.manifest.started


def test_older_records_have_no_strategy() -> None:
    run = make()
    file = run.dir / "manifest.json"
    manifest = json.loads(file.read_text())
    assert manifest.pop("strategy") is None
    file.write_text(json.dumps(manifest))
    assert read_manifest(run.dir).strategy is None
    assert read_incidents(run.dir).records == ()


def test_the_phases_of_provisioning_come_first(tmp_path: Path) -> None:
    before = tmp_path / "provisioning.jsonl"
    before.write_text('{"t": 1, "kind": "phase", "name": "clone", "state": "start"}\n')
    run = make(provisioning=before)
    with Events(run.sink).phase("push"):
        pass
    run.close()
    lines = (run.dir / "events.jsonl").read_text().splitlines()
    names = [json.loads(line)["name"] for line in lines]
    assert names == ["clone", "push", "push"]


def test_run_is_finished_even_if_its_last_steps_fail() -> None:
    run = make()
    with pytest.raises(OSError, match="disk"), run.finishing("failed", "why"):
        raise OSError("disk")
    assert results.load(run.run_id).manifest.status == "failed"


def test_the_latest_is_by_time_whatever_the_workload(monkeypatch: pytest.MonkeyPatch) -> None:
    for run_id in ("zebra-20260101-000000-aaaa", "a-b-c-20260102-000000-aaaa"):
        folder = paths.runs_dir() / run_id
        folder.mkdir(parents=True)
        text = (make().dir / "manifest.json").read_text()
        manifest = json.loads(text) | {"run_id": run_id}
        (folder / "manifest.json").write_text(json.dumps(manifest))
    assert results.list_runs()[:2] == ["zebra-20260101-000000-aaaa", "a-b-c-20260102-000000-aaaa"]
    latest = make("my own: workload")
    assert latest.run_id.startswith("my-own-workload-")
    assert latest.run_id in results.list_runs()[2:]


def test_unknown_and_broken_runs() -> None:
    with pytest.raises(BadInput, match="there is no run in") as nothing:
        results.load()
    assert "gpuvm run" in str(nothing.value.hint)
    run = make()
    for wrong in ("no-such-run", "../" + run.run_id, ""):
        with pytest.raises(NotFound, match="not found"):
            results.load(wrong)
    with pytest.raises(NotFound) as unknown:
        results.load("no-such-run")
    assert run.run_id in str(unknown.value.hint)
    (run.dir / "manifest.json").write_text('{"schema": 1}')
    with pytest.raises(BadInput, match=r"manifest\.json: run_id: is missing"):
        results.load(run.run_id)
    (run.dir / "manifest.json").write_text("{")
    with pytest.raises(BadInput, match=r"manifest\.json: not JSON: EOF"):
        results.load(run.run_id)


def test_a_record_of_another_version_is_read() -> None:
    folder = paths.runs_dir() / "mnist-20260101-000000-aaaa"
    folder.mkdir(parents=True)
    older = {
        "run_id": folder.name,
        "workload": "mnist",
        "vcenter": {"name": "vc", "colour": "blue"},
        "started": "2026-01-01T00:00:00Z",
        "vms": [{"name": "vm-01", "address": None, "simulated": None, "shape": "round"}],
        "of_tomorrow": True,
    }
    (folder / "manifest.json").write_text(json.dumps(older))
    manifest = results.load(folder.name).manifest
    assert manifest == read_manifest(folder)
    assert (manifest.args, manifest.cluster, manifest.gpuvm_version) == ((), "", "")
    assert (manifest.vms[0].role, manifest.vms[0].address) == ("single", None)


def test_a_vm_whose_folder_would_be_elsewhere_is_refused() -> None:
    run = make()
    manifest = json.loads((run.dir / "manifest.json").read_text())
    manifest["vms"][0]["name"] = "../elsewhere"
    (run.dir / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BadInput, match=r"manifest\.json: vms\.0\.name: .* is no name of a folder"):
        results.load(run.run_id)


def test_a_provisioning_keeps_what_is_recorded_of_vms_that_stay(tmp_path: Path) -> None:
    file = tmp_path / "gpuvm.jsonl"
    first = results.Recorder()
    first.keep(file)
    for name, vm in (("plan", None), ("clone", "gpuvm-01"), ("clone", "gpuvm-02")):
        first(Event(1.0, "phase", name, vm, "start"))
    first.close()
    with file.open("a") as torn:
        torn.write('{"t": 2.0, "ki')
    second = results.Recorder()
    second(Event(3.0, "phase", "plan", None, "start"))
    second.keep(file, older={"gpuvm-01"})
    second(Event(4.0, "phase", "clone", "gpuvm-02", "start"))
    second.close()
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert [(line["t"], line["name"], line.get("vm")) for line in lines] == [
        (1.0, "plan", None),
        (1.0, "clone", "gpuvm-01"),
        (3.0, "plan", None),
        (4.0, "clone", "gpuvm-02"),
    ]
