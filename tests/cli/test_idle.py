"""idle_shutdown in gpuvm.yaml: applied by provision and start, shown by status."""

from pathlib import Path
from typing import Any

import pytest

Lab = Any


@pytest.fixture(scope="module", autouse=True)
def one(lab: Lab) -> None:
    write(lab, "idle_shutdown: 2h")
    done = lab("provision", "--until", "ready")
    assert done.exit_code == 0, done.stderr
    assert "idle_shutdown" not in done.stderr


def write(lab: Lab, line: str) -> None:
    (lab.home / "gpuvm.yaml").write_text(f"accelerator: {{mode: none}}\n{line}\n")


def limit_s(lab: Lab) -> float | None:
    (vm,) = lab("status", "--json").json["data"]["vms"]
    found = vm["idle_shutdown_s"]
    return None if found is None else float(found)


def drift(lab: Lab) -> list[str]:
    return list(lab("status", "--json").json["data"]["vms"][0]["drift"])


def at_boot(lab: Lab) -> list[Path]:
    return list(lab.home.rglob("home/gpuvm/.gpuvm/at-boot"))


def test_a_changed_limit_is_converged(lab: Lab) -> None:
    assert "shuts down after 2 h without use" in lab("status").stdout
    assert drift(lab) == []
    write(lab, "idle_shutdown: 90m")
    assert drift(lab) == ["gpuvm.yaml says 90 min of idle_shutdown: gpuvm provision applies it"]
    done = lab("provision")
    assert done.exit_code == 0, done.stderr
    assert "nothing to do" in done.stdout
    assert limit_s(lab) == 5400
    assert drift(lab) == []


def test_start_applies_what_is_given_and_removes_nothing(lab: Lab) -> None:
    write(lab, "idle_shutdown: 90m")
    for _ in range(2):
        assert lab("start").exit_code == 0
        assert limit_s(lab) == 5400
        write(lab, "")
    assert drift(lab) == ["gpuvm.yaml says nothing of idle_shutdown: gpuvm provision applies it"]


def test_without_the_key_it_is_given_up(lab: Lab) -> None:
    write(lab, "")
    assert lab("provision").exit_code == 0
    assert limit_s(lab) is None
    assert at_boot(lab) == []
