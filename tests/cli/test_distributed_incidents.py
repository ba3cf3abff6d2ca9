"""Distributed runs in the lab go on when a VM is lost, whatever has become of it."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from incidents import ROUNDS
from lab_runs import wait_for
from run_harness import CONTRACT

Lab = Any


def killed(lab: Lab, vm: str) -> None:
    done = lab("exec", "--vm", vm, "--", "pkill", "-KILL", "-f", "rounds.py")
    assert done.exit_code == 0, done.stderr


def switched_off(lab: Lab, vm: str) -> None:
    for words in (("stop", vm, "--yes"), ("start", vm)):
        done = lab(*words)
        assert done.exit_code == 0, done.stderr


def frozen(lab: Lab, vm: str) -> None:
    assert lab("lab", "freeze", vm).exit_code == 0
    wait_for(lambda: "lost" in happened(lab, vm), "it is noticed", 60)
    assert lab("lab", "thaw", vm).exit_code == 0


@pytest.fixture(scope="module", autouse=True)
def two(lab: Lab) -> None:
    (lab.home / "gpuvm.yaml").write_text("accelerator: {mode: none}\nhosts: 2\n")
    (lab.home / "rounds.py").write_text(CONTRACT + ROUNDS)
    done = lab("provision", "--until", "ready")
    assert done.exit_code == 0, done.stderr


def latest(lab: Lab) -> Path:
    return Path(max(lab.home.glob("runs/*/manifest.json"))).parent


def steps(lab: Lab, vm: str, before: set[Path]) -> int:
    """That the worker on the VM has taken in the run that was not there before."""
    logs = [new / vm / "timings.jsonl" for new in set(lab.home.glob("runs/*")) - before]
    return sum(log.read_text().count('"step"') for log in logs if log.exists())


def happened(lab: Lab, vm: str) -> list[str]:
    file = latest(lab) / "incidents.jsonl"
    lines = file.read_text().splitlines() if file.exists() else []
    return [one["what"] for one in map(json.loads, lines) if one["vm"] == vm]


@pytest.mark.parametrize("lost", ["gpuvm-01", "gpuvm-02"])
@pytest.mark.parametrize(
    ("what", "seed"),
    [
        (switched_off, 1),
        *(
            pytest.param(what, seed, marks=pytest.mark.soak)
            for what in (killed, frozen, switched_off)
            for seed in range(2, 7)
        ),
    ],
)
def test_the_run_goes_on_with_the_vm_again(
    lab: Lab, what: Callable[[Lab, str], None], seed: int, lost: str
) -> None:
    before = set(lab.home.glob("runs/*"))
    moment = random.Random(seed).randrange(1, 40)
    running = lab.start("run", "rounds.py", "--distributed", "--rejoin-timeout", "100")
    wait_for(lambda: steps(lab, lost, before) >= moment, "it trains")
    what(lab, lost)
    stdout, stderr = running.communicate(timeout=120)
    assert running.returncode == 0, stdout + stderr
    assert happened(lab, lost) == ["lost", "back"], stdout
    (chief,) = latest(lab).glob("*/results.json")
    manifest = json.loads((latest(lab) / "manifest.json").read_text())
    assert [vm["name"] for vm in manifest["vms"] if vm["role"] == "chief"] == [chief.parent.name]
