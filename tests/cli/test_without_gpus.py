"""Against a vCenter without GPUs and without the lab's rules: the unmodified simulator."""

import json
import ssl
import subprocess
from collections.abc import Iterator

import pytest
from commands import CommandLine
from pyVim import connect as pyvim

from gpuvm.lab.build import vcsim_binary


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory, simulator: None) -> Iterator[CommandLine]:
    folder, home = tmp_path_factory.mktemp("stock"), tmp_path_factory.mktemp("home")
    server = subprocess.Popen(
        [vcsim_binary(), "--stock", "--state-dir", str(folder)], stdout=subprocess.PIPE, text=True
    )
    assert server.stdout is not None
    server.stdout.readline()
    ready = json.loads((folder / "ready.json").read_text())
    _template(ready["url"], ready["ca_file"])
    command = CommandLine(home)
    command.environment["GPUVM_PASSWORD"] = "any"
    made = command("init", "--vcenter", ready["url"], "--user", "u", "--ca-file", ready["ca_file"])
    assert made.exit_code == 0, made.stderr
    (home / "gpuvm.yaml").unlink()
    yield command
    server.terminate()
    server.wait()
    server.stdout.close()


def test_gpus_says_that_there_is_none(stock: CommandLine) -> None:
    shown = stock("gpus")
    assert shown.exit_code == 0
    assert "no NVIDIA GPU in /DC0/host/DC0_C0, which has 3 hosts" in shown.stdout
    assert stock("gpus", "--json").json["data"]["gpus"] == []


def test_plan_with_gpus_is_refused_with_a_hint(stock: CommandLine) -> None:
    refused = stock("plan", "--template", "tf", "--json").json
    assert refused["exit_code"] == 3
    assert "--accelerator none" in refused["errors"][0]["hint"]


def test_doctor_says_what_is_missing(stock: CommandLine) -> None:
    checks = stock("doctor", "--accelerator", "none", "--json").json["data"]["checks"]
    reported = {check["name"]: check["level"] for check in checks}
    assert reported["GPUs"] == "warning"
    assert reported["vCenter"] == "warning", "its API is 6.5"
    assert stock("doctor").exit_code == 3


def test_vms_without_a_gpu_are_created_shown_and_removed(stock: CommandLine) -> None:
    options = ("--accelerator", "none", "--hosts", "2")
    made = stock("provision", *options, "--until", "powered-on", "--yes")
    assert made.exit_code == 0, made.stderr
    assert stock("plan", *options).exit_code == 0
    status = stock("status", "--json").json["data"]["vms"]
    assert [(vm["vm"], vm["powered_on"], vm["drift"]) for vm in status] == [
        ("gpuvm-01", True, []),
        ("gpuvm-02", True, []),
    ]
    gone = stock("teardown", "--yes")
    assert gone.exit_code == 0, gone.stderr
    assert stock("status", "--json").json["data"]["vms"] == []


def _template(url: str, ca_file: str) -> None:
    """The simulator has VMs only: one of them becomes a template."""
    service = pyvim.SmartConnect(
        host=url.split("/")[2].rsplit(":", 1)[0],
        port=int(url.split("/")[2].rsplit(":", 1)[1]),
        user="u",
        pwd="any",
        sslContext=ssl.create_default_context(cafile=ca_file),
    )
    vm = service.content.searchIndex.FindByInventoryPath("DC0/vm/DC0_C0_RP0_VM0")
    for task in (vm.PowerOffVM_Task(), vm.Rename_Task("tf")):
        while task.info.state not in ("success", "error"):
            pass
    vm.MarkAsTemplate()
    pyvim.Disconnect(service)
