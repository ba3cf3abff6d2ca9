"""The run protocol on a real SSH server, with a workload of a few lines."""

import json
from pathlib import Path
from typing import Any

import pytest
from typing_extensions import override

from gpuvm import results, runs
from gpuvm.errors import NotFound, PreflightRefused, WorkerDied
from gpuvm.events import Events
from gpuvm.inventory import VM, VCenter
from gpuvm.runs import Member
from gpuvm.settings import GuestSettings
from gpuvm.spec import Distributed

CONTRACT = """
# /// script
# [tool.gpuvm]
# contract = 1
# ///
import argparse, json, os, subprocess, sys, time
parser = argparse.ArgumentParser()
parser.add_argument("--out"); parser.add_argument("--do")
arguments, _ = parser.parse_known_args()
def log(**record):
    with open(os.path.join(arguments.out, "timings.jsonl"), "a") as f:
        f.write(json.dumps({"t": time.time(), **record}) + "\\n")
log(event="start", workload="tiny", env={k: v for k, v in os.environ.items() if "proxy" in k})
log(event="step", step=1, steps=1, loss=0.5, phase="train", examples_per_second=10.0)
if arguments.do == "die":
    subprocess.Popen(["sleep", "600"], start_new_session=True)
    sys.exit("out of luck")
log(event="end", ok=True)
"""


class Steps(runs.Watch):
    def __init__(self) -> None:
        self.seen: list[runs.Progress] = []

    @override
    def step(self, progress: runs.Progress) -> None:
        self.seen.append(progress)


def _record(name: str, *, contract: bool) -> results.Run:
    vm = results.RunVM(
        name=name, index=1, host="h", address="127.0.0.1", role="single", accelerator="none"
    )
    return results.create(
        workload="tiny",
        args=[],
        distributed=False,
        vcenter=VCenter("Lab", "https://vc", "8", "8.0", "u"),
        cluster="c",
        deployment="gpuvm",
        vms=[vm],
        provisioning=Path("nowhere"),
        contract=contract,
    )


PLAIN = """
import json, os, sys
os.chdir(os.environ["GPUVM_OUT"])
with open("timings.jsonl", "a") as f:
    step = {"event": "step", "step": 1, "steps": 1, "loss": 0.5, "phase": "train"}
    f.write(json.dumps({"t": 1.0, **step}) + "\\n")
with open("arguments.json", "w") as f:
    json.dump(sys.argv[1:], f)
"""


def _run(
    server: Any, context: Any, program: Path, *args: str, contract: bool = True
) -> results.Run:
    endpoint = server.endpoint(context)
    vm = VM("gpuvm-01", "vm-1", "h", powered_on=True, instance_uuid="u")
    record = _record("gpuvm-01", contract=contract)
    steps = Steps()
    try:
        runs.run(
            runs.find(str(program)),
            args,
            [Member(endpoint, vm, ())],
            distributed=False,
            guest=GuestSettings(),
            distribution=Distributed(),
            record=record,
            events=Events(record.sink),
            watch=steps,
        )
    finally:
        record.close()
    assert any(step.loss == 0.5 for step in steps.seen)
    return record


def test_a_run_leaves_its_records(server: Any, context: Any, tmp_path: Path) -> None:
    program = tmp_path / "tiny.py"
    program.write_text(CONTRACT)
    record = _run(server, context, program)
    assert results.load().manifest.status == "succeeded"
    lines = (record.vm_dir("gpuvm-01") / "timings.jsonl").read_text().splitlines()
    assert [json.loads(line)["event"] for line in lines] == ["start", "step", "end"]


def test_nothing_is_added_for_a_program_without_the_contract(
    server: Any, context: Any, tmp_path: Path
) -> None:
    program = tmp_path / "tiny.py"
    program.write_text(PLAIN)
    record = _run(server, context, program, "--do", "it", contract=False)
    arguments = json.loads((record.vm_dir("gpuvm-01") / "arguments.json").read_text())
    assert arguments == ["--do", "it"]
    assert results.load().manifest.warnings == (), "nor are its records missed"


def test_one_that_dies_is_named_and_leaves_nothing(
    server: Any, context: Any, tmp_path: Path
) -> None:
    import psutil

    program = tmp_path / "tiny.py"
    program.write_text(CONTRACT)
    with pytest.raises(WorkerDied) as caught:
        _run(server, context, program, "--do", "die")
    assert caught.value.vm == "gpuvm-01"
    assert caught.value.exit_status == 1
    assert "out of luck" in caught.value.tail[-1]
    run_id = results.load().run_id
    assert results.load().manifest.status == "failed"
    left = [p for p in psutil.process_iter() if _environment(p).get("GPUVM_RUN") == run_id]
    assert not left, "even what moved to a session of its own is gone"


def test_a_missing_import_is_named_before_anything_runs(
    server: Any, context: Any, tmp_path: Path
) -> None:
    program = tmp_path / "tiny.py"
    program.write_text("import no_such_module_here\n" + CONTRACT)
    with pytest.raises(PreflightRefused, match="no_such_module_here"):
        _run(server, context, program)


def test_shipped_workloads_are_found_by_name() -> None:
    found = runs.find("captioning")
    assert {"captioning/__main__.py", "captioning/scenes.py", "common/log.py"} <= set(found.files)
    with pytest.raises(NotFound) as caught:
        runs.find("captionning")
    assert "captioning" in caught.value.existing


def _environment(process: Any) -> dict[str, str]:
    import psutil

    try:
        return dict(process.environ())
    except psutil.Error:
        return {}


def test_a_port_that_cannot_be_reached_names_the_pair(server: Any, context: Any) -> None:
    from gpuvm import guest
    from gpuvm.errors import PortsBlocked
    from gpuvm.runs import tf_config
    from gpuvm.spec import Distributed

    here = server.endpoint(context)
    with guest.connect(here) as first, guest.connect(here) as second:
        ports = tf_config.choose_ports([first], "python3", Distributed())
        assert ports[0] > 0
        # The second reports an address on which nothing listens.
        second.endpoint = server.endpoint(context, name="gpuvm-02", address="127.0.0.1:1/nowhere")
        with pytest.raises(PortsBlocked) as caught:
            tf_config.choose_ports([first, second], "python3", Distributed())
    assert caught.value.pairs[0][:2] == ("gpuvm-01", "gpuvm-02")
    assert "firewall-cmd" in (caught.value.hint or "")
