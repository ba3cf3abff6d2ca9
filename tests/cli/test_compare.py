"""Comparisons on the lab: sides in turn, a hidden GPU, and no speed-up of a simulated one."""

import json
from typing import Any

import pytest

from gpuvm.report.comparison import SIMULATED

Lab = Any

PROGRAM = """# /// script
# [tool.gpuvm]
# contract = 1
# ///
import json, os, sys, time
out = sys.argv[sys.argv.index("--out") + 1]
hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
with open(f"{out}/timings.jsonl", "a") as log:
    start = {"workload": "mine", "schema": 1, "device": "/device:CPU:0", "device_name": hidden}
    step = {"phase": "train", "step": 1, "steps": 1, "loss": 1.0, "step_seconds": 0.1}
    for event, fields in (("start", start), ("step", step), ("end", {"ok": True, "steps": 1})):
        log.write(json.dumps({"t": time.time(), "event": event} | fields) + "\\n")
with open(f"{out}/results.json", "w") as results:
    json.dump({"scores": {"accuracy": 0.5}, "samples": [], "notes": []}, results)
"""


@pytest.fixture(scope="module", autouse=True)
def guests(lab: Lab) -> None:
    """One, with a GPU."""
    assert lab("provision", "--hosts", "1", "--until", "address", "--yes").exit_code == 0
    (lab.home / "mine").mkdir()
    (lab.home / "mine/mine.py").write_text(PROGRAM)


def test_with_and_without_the_gpu_in_turn(lab: Lab) -> None:
    done = lab("run", "mine/mine.py", "--compare", "none", "--repeat", "2", "--json")
    assert done.exit_code == 0, done.stderr
    found = done.json["data"]
    assert [len(side["runs"]) for side in found["sides"]] == [2, 2]
    assert found["baseline"] == "no GPU (hidden)"
    assert found["note"] == SIMULATED
    (ratio,) = found["ratios"]
    assert ratio["speed_up"] is None
    assert "simulated" in ratio["refused"]
    runs = sorted(run for side in found["sides"] for run in side["runs"])
    manifests = [json.loads((lab.home / f"runs/{run}/manifest.json").read_text()) for run in runs]
    manifests.sort(key=lambda one: str(one["started"]))
    assert [one["gpus_hidden"] for one in manifests] == [False, True, False, True]
    seen = []
    for one in manifests:
        log = lab.home / f"runs/{one['run_id']}/gpuvm-01/timings.jsonl"
        seen.append(json.loads(log.read_text().splitlines()[0])["device_name"])
    assert seen == [None, "-1", None, "-1"]


def test_recorded_runs_are_compared_without_a_vcenter(lab: Lab) -> None:
    runs = sorted(file.parent.name for file in lab.home.glob("runs/*/manifest.json"))
    done = lab("compare", *runs, "--json")
    assert done.exit_code == 0, done.stderr
    assert done.json["vcenter"] is None
    assert len(done.json["data"]["sides"]) == 2
    shown = lab("compare", *runs)
    assert "not computed" in shown.stdout
    assert "equal: " in shown.stdout
    assert SIMULATED in " ".join(shown.stderr.split())


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (("--repeat", "2"), "--repeat needs a comparison"),
        (("--compare", "none", "--detach"), "--detach cannot be used in a comparison"),
        (("--compare", "none", "--compare-vm", "gpuvm-01"), "exclude each other"),
        (("--compare-vm", "gpuvm-09"), "VM 'gpuvm-09' not found"),
    ],
)
def test_bad_options(lab: Lab, options: tuple[str, ...], why: str) -> None:
    before = len(list(lab.home.glob("runs/*")))
    done = lab("run", "mine/mine.py", *options)
    assert done.exit_code == 2, done.stderr
    assert why in done.stderr
    assert len(list(lab.home.glob("runs/*"))) == before
