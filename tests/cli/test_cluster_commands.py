"""gpus, doctor, passthrough, status, start and stop through the command line, on two labs."""

import json
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from commands import CommandLine, fast_lab

from gpuvm.lab.description import TemplateDescription, UserDescription, VMDescription, describe

NOT_PLAIN = (
    "VirtualMachine.Provisioning.MarkAsVM",
    "VirtualMachine.Provisioning.MarkAsTemplate",
    "VirtualMachine.State.CreateSnapshot",
)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory, simulator: None) -> Iterator[CommandLine]:
    """Three hosts, one of whose GPUs is taken; quick reboots."""
    command = CommandLine(tmp_path_factory.mktemp("home"))
    held = VMDescription(name="trainer", host="esx-03.lab.local", gpu="0000:3b:00.0")
    shape = describe(hosts=3)
    plain = UserDescription(name="plain@lab.local", without=NOT_PLAIN)
    shape = shape.model_copy(update={"vms": (held,), "users": (*shape.users, plain)})
    yield from _lab(command, fast_lab(shape).replace('"reboot_s": 5.0', '"reboot_s": 0.3'))


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, simulator: None) -> Iterator[CommandLine]:
    command = CommandLine(tmp_path_factory.mktemp("home"))
    shape = describe(hosts=1, vgpu=True)
    small_template = TemplateDescription(memory_gib=8)
    yield from _lab(command, fast_lab(shape.model_copy(update={"templates": (small_template,)})))


def _lab(command: CommandLine, shape: str) -> Iterator[CommandLine]:
    file = command.home / "lab.json"
    file.write_text(shape)
    up = command("lab", "up", "--description", str(file))
    assert up.exit_code == 0, up.stderr
    yield command
    assert command("lab", "down").exit_code == 0


def test_gpus_lists_all_with_their_holders(small: CommandLine) -> None:
    reported = small("gpus", "--json").json["data"]["gpus"]
    assert [gpu["state"] for gpu in reported] == ["free", "free", "held by trainer (powered on)"]
    assert reported[0]["device_id"] == "15f8"
    shown = small("gpus").stdout
    assert "held by trainer (powered on)" in shown
    assert "16 GiB" in shown


def test_gpu_held_by_another_vm_is_never_taken(small: CommandLine) -> None:
    refused = small("provision", "--hosts", "3", "--yes")
    assert refused.exit_code == 3
    assert "held by trainer" in refused.stderr
    assert small("status", "--json").json["data"]["vms"] == []


def test_doctor_finds_nothing_wrong(small: CommandLine) -> None:
    healthy = small("doctor", "--json").json
    assert healthy["exit_code"] == 0
    assert {check["level"] for check in healthy["data"]["checks"]} == {"ok"}


def test_doctor_writes_a_report_without_names(small: CommandLine) -> None:
    done = small("doctor", "--report", "site.json")
    assert done.exit_code == 0, done.stderr
    written = (small.home / "site.json").read_text()
    assert json.loads(written)["schema"] == 1
    assert not [name for name in ("esx-01", "GPU-Cluster", "vsanDatastore") if name in written]
    refused = small("doctor", "--report", "nowhere/site.json")
    assert (refused.exit_code, "--report: cannot write nowhere/site.json" in refused.stderr) == (
        2,
        True,
    )


def test_doctor_names_missing_privileges(small: CommandLine) -> None:
    with _as_user(small, "readonly@lab.local") as password:
        sick = small("doctor", GPUVM_PASSWORD=password)
    assert sick.exit_code == 3
    assert "VirtualMachine.Provisioning.DeployTemplate on centos7-tensorflow" in sick.stdout
    assert "Resource.AssignVMToPool on resource pool /Lab/host/GPU-Cluster/Resources" in sick.stdout
    assert "Host.Config.PciPassthru" in sick.stdout


def test_doctor_checks_the_privileges_that_the_spec_needs(small: CommandLine) -> None:
    """Linked clones need the snapshot privileges; the default spec and fixed addresses do not."""
    options = small.home / "linked.yaml"
    options.write_text(
        "clone_mode: linked\n"
        "addresses: {first: 10.0.0.1, last: 10.0.0.9, prefix: 24}\n"
        "accelerator: {mode: none}\n"
    )
    with _as_user(small, "plain@lab.local") as password:
        plain = small("doctor", "--accelerator", "none", GPUVM_PASSWORD=password)
        more = small("doctor", "--file", str(options), GPUVM_PASSWORD=password)
    assert plain.exit_code == 0, plain.stdout
    assert more.exit_code == 3
    assert f"missing: {', '.join(NOT_PLAIN)} on centos7-tensorflow" in more.stdout


@pytest.mark.parametrize(
    "options",
    [
        ("--accelerator", "vgpu:grid_p100-4q"),
        ("--clone-mode", "linked"),
        ("--hosts", "9"),
        ("--accelerator", "passthrough:model=H100"),
        ("--accelerator", "device-group:none"),
        ("--template", "nowhere"),
        ("--datastore", "nowhere"),
    ],
)
def test_doctor_fails_where_the_plan_is_refused(
    small: CommandLine, options: tuple[str, ...]
) -> None:
    refused = small("plan", *options, "--json").json
    sick = small("doctor", *options, "--json").json
    assert refused["exit_code"] in (2, 3)
    assert sick["exit_code"] == 3
    failures = [c for c in sick["data"]["checks"] if c["level"] == "failure"]
    (error,) = refused["errors"]
    assert [(f["text"], f["hint"]) for f in failures] == [(error["message"], error["hint"])]


@contextmanager
def _as_user(command: CommandLine, user: str) -> Iterator[str]:
    """Commands log in as another of the lab's accounts, with the password that is yielded."""
    passwords = next(command.home.rglob("passwords.json"))
    context = next(command.home.rglob("contexts/lab.yaml"))
    text = context.read_text()
    context.write_text(
        text.replace("administrator@lab.local", user).replace(
            "password_command", "#password_command"
        )
    )
    try:
        yield json.loads(passwords.read_text())[user]
    finally:
        context.write_text(text)


def test_passthrough_reports_its_state_and_reboots_only_with_the_option(small: CommandLine) -> None:
    host = "esx-01.lab.local"
    pending = small("passthrough", "disable", host, "--json").json
    assert pending["exit_code"] == 10
    assert pending["data"]["gpus"][0]["state"] == "passthrough disabled, host reboot pending"
    assert "reboot pending" in small("gpus").stdout
    rebooted = small("passthrough", "disable", host, "--reboot")
    assert rebooted.exit_code == 0, rebooted.stderr
    assert "passthrough not enabled" in rebooted.stdout
    assert small("passthrough", "enable", host, "--reboot").exit_code == 0
    again = small("passthrough", "enable", host)
    assert "nothing to do" in again.stdout


def test_hint_for_a_host_that_stays_in_maintenance_mode(small: CommandLine) -> None:
    host = "esx-02.lab.local"
    _control(small, f"/hosts/{host}/maintenance")
    stays = small("passthrough", "enable", host, "--reboot")
    assert stays.exit_code == 0
    command = f"gpuvm passthrough enable {host} --reboot --leave-maintenance"
    assert command in stays.stderr
    reported = small(*command.split()[1:], "--json").json
    assert [gpu["host_in_maintenance_mode"] for gpu in reported["data"]["gpus"]] == [False]


def test_a_host_with_running_vms_is_never_rebooted(small: CommandLine) -> None:
    refused = small("passthrough", "disable", "esx-03.lab.local", "--reboot")
    assert refused.exit_code == 3
    assert "trainer" in refused.stderr
    assert "nothing to do" not in refused.stdout


def test_without_a_terminal_the_question_is_in_the_error(tmp_path: Path, simulator: None) -> None:
    """DRS would move other users' VMs, which has not been confirmed."""
    command = CommandLine(tmp_path)
    worker = VMDescription(name="worker", host="esx-01.lab.local")
    shape = describe(hosts=2).model_copy(update={"drs": True, "vms": (worker,)})
    for _ in _lab(command, fast_lab(shape)):
        context = next(command.home.rglob("contexts/lab.yaml"))
        context.write_text(context.read_text().replace("confirm: false", "confirm: true"))
        refused = command("passthrough", "disable", "esx-01.lab.local", "--reboot")
        assert refused.exit_code == 2
        assert "DRS first moves these running VMs to other hosts: worker from" in refused.stderr
        assert "--yes" in refused.stderr
        assert command("gpus", "--json").json["data"]["gpus"][0]["passthrough"]["enabled"]


def test_unknown_gpu_is_bad_input(small: CommandLine) -> None:
    wrong = small("passthrough", "enable", "esx-01.lab.local", "--gpu", "0000:00:00.0")
    assert wrong.exit_code == 2
    assert "0000:3b:00.0" in wrong.stderr


def test_passthrough_requires_hosts_or_all(small: CommandLine) -> None:
    assert small("passthrough", "enable").exit_code == 2
    unknown = small("passthrough", "enable", "nowhere")
    assert unknown.exit_code == 2
    assert "esx-01.lab.local" in unknown.stderr


def test_stop_frees_the_gpus_and_start_continues(small: CommandLine) -> None:
    made = small("provision", "--hosts", "1", "--accelerator", "dynamic", "--until", "address")
    assert made.exit_code == 0, made.stderr
    (vm,) = small("status", "--no-guests", "--json").json["data"]["vms"]
    assert vm["gpus"] == ["0000:3b:00.0"]
    assert vm["drift"] == []
    assert small("stop").exit_code == 0
    assert "nothing to do" in small("stop").stdout
    states = [gpu["state"] for gpu in small("gpus", "--json").json["data"]["gpus"]]
    assert states == ["free", "free", "held by trainer (powered on)"]
    started = small("start", "--until", "address", "--cluster", "GPU-Cluster")
    assert started.exit_code == 0, started.stderr
    unknown = small("start", "gpuvm-09")
    assert unknown.exit_code == 2
    assert "gpuvm-01" in unknown.stderr
    gone = small("teardown")
    assert gone.exit_code == 0
    assert gone.stderr.splitlines() == [
        "  gpuvm-01: powering off",
        "  gpuvm-01: destroying",
        "  gpuvm-01: removed",
    ]
    assert small("stop").exit_code == 3


def test_status_compares_with_the_spec(small: CommandLine) -> None:
    options = small.home / "gpuvm.yaml"
    options.write_text("hosts: 2\n")
    made = small("provision", "--hosts", "1", "--until", "powered-on", "--yes")
    assert made.exit_code == 0, made.stderr
    try:
        reported = small("status", "--no-guests", "--json").json["data"]
        assert reported["missing"] == ["gpuvm-02"]
        assert reported["vms"][0]["drift"] == []
        assert "it is missing" in small("status", "--no-guests").stdout
        assert (
            small("status", "--no-guests", "--hosts", "1", "--json").json["data"]["missing"] == []
        )
        assert small("stop", "--now", "--yes").exit_code == 0
        (vm,) = small("status", "--no-guests", "--json").json["data"]["vms"]
        assert vm["drift"] == ["it is powered off"]
        other = small.home / "other.yaml"
        other.write_text("cpus: 2\n")
        (vm,) = small("status", "--file", str(other), "--json").json["data"]["vms"]
        assert vm["drift"] == [
            "it is powered off",
            f"created from a different spec than {other}: cpus not given, now 2",
        ]
    finally:
        options.unlink()
    reported = small("status", "--no-guests", "--json").json["data"]
    assert (reported["wanted"], reported["missing"], reported["vms"][0]["drift"]) == (None, [], [])
    assert small("teardown", "--yes").exit_code == 0


def test_stop_counts_what_it_stopped(small: CommandLine) -> None:
    assert small("provision", "--hosts", "2", "--until", "powered-on").exit_code == 0
    fault = {"method": "PowerOffVM_Task", "object": "gpuvm-01", "fault": "HostNotConnected"}
    _control(small, "/faults", json.dumps(fault | {"count": 1}))
    partly = small("stop", "--now")
    assert partly.exit_code == 4
    assert "stopped: 1 VM\n" in partly.stdout
    assert "stopped: 1 VM; 1 was already off" in small("stop", "--now").stdout
    assert small("teardown").exit_code == 0


def test_linked_clones_need_a_snapshot_taken_once_on_request(small: CommandLine) -> None:
    refused = small("plan", "--clone-mode", "linked", "--template", "centos7-tensorflow")
    assert refused.exit_code == 3
    assert "--create-snapshot" in refused.stderr
    options = ("--clone-mode", "linked", "--create-snapshot", "--until", "powered-on", "--yes")
    made = small("provision", *options)
    assert made.exit_code == 0, made.stderr
    assert "linked clone" in made.stdout
    assert small("provision", *options).exit_code == 0
    assert "1 snapshot" in small("doctor").stdout
    assert small("teardown").exit_code == 0


def test_vgpus_several_per_card(shared: CommandLine) -> None:
    options = ("--per-host", "2", "--accelerator", "vgpu:grid_p100-8q", "--until", "address")
    made = shared("provision", *options)
    assert made.exit_code == 0, made.stderr
    reported = shared("gpus", "--json").json["data"]["gpus"][0]
    assert reported["state"] == "shared as vGPU, 0 of grid_p100-8q left"
    more = shared("plan", "--name", "more", "--accelerator", "vgpu:grid_p100-8q")
    assert more.exit_code == 3
    other = shared("plan", "--name", "more", "--accelerator", "vgpu:grid_p100-3q")
    assert "vGPU profiles of the hosts: grid_p100-16q" in other.stderr
    assert shared("teardown").exit_code == 0


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ("warp", "dynamic, vgpu:PROFILE, device-group:NAME, none"),
        ("vgpu", "profile: is missing"),
        ("passthrough:count=0", "count: must be at least 1"),
        ("passthrough:colour=red", "unknown key 'colour'"),
        ("passthrough:P100", "is not KEY=VALUE"),
        ("dynamic:device_id=xyz", "is not a hex number"),
    ],
)
def test_wrong_accelerator_is_a_one_line_error(
    gpuvm: CommandLine, given: str, complaint: str
) -> None:
    refused = gpuvm("plan", "--accelerator", given)
    assert refused.exit_code == 2
    assert complaint in refused.stderr


def test_unreadable_vm_is_never_ignored(small: CommandLine) -> None:
    made = small("provision", "--hosts", "2", "--until", "powered-on", "--yes", "--name", "away")
    assert made.exit_code == 0, made.stderr
    _control(small, "/vms/away-01/inaccessible")
    why = "it is inaccessible: vCenter cannot read its configuration"
    reported = small("status", "--name", "away", "--hosts", "2", "--no-guests", "--json").json[
        "data"
    ]
    assert [(vm["vm"], vm["why"]) for vm in reported["unreadable"]] == [("away-01", why)]
    assert reported["missing"] == []
    assert why in small("status", "--name", "away", "--no-guests").stdout
    refused = small("plan", "--hosts", "2", "--name", "away")
    assert (refused.exit_code, f"error: away-01: {why}" in refused.stderr) == (3, True)
    assert small("start", "--name", "away").exit_code == 3
    partly = small("teardown", "--name", "away", "--yes")
    assert partly.exit_code == 4
    assert "1 of 2 VMs removed" in partly.stdout
    assert f"error: away-01 is not changed: {why}" in partly.stderr
    _control(small, "/vms/away-01/accessible")
    assert small("teardown", "--name", "away", "--yes").exit_code == 0


def _control(command: CommandLine, path: str, body: str = "") -> None:
    """Asks the simulator's own endpoint."""
    url = command("lab", "status", "--json").json["data"]["control_url"]
    urllib.request.urlopen(url + path, data=body.encode()).close()
