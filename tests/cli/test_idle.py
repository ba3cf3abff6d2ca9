"""idle_shutdown in gpuvm.yaml: applied by provision and start, shown by status."""

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


def test_provision_and_start_apply_it(lab: Lab) -> None:
    assert "shuts down after 2 h without use" in lab("status").stdout
    write(lab, "idle_shutdown: 90m")
    assert drift(lab) == ["gpuvm.yaml says 90 min of idle_shutdown: 'gpuvm provision' applies it"]
    done = lab("start")
    assert done.exit_code == 0, done.stderr
    assert limit_s(lab) == 5400
    write(lab, "")
    assert lab("start").exit_code == 0
    assert limit_s(lab) == 5400, "the one who starts VMs may have no gpuvm.yaml"
    done = lab("provision")
    assert "nothing to do" in done.stdout
    assert limit_s(lab) is None
    assert list(lab.home.rglob("home/gpuvm/.gpuvm/at-boot")) == []
