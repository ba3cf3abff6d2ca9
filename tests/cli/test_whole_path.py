"""The product's main job from end to end: real SOAP, real SSH, real TensorFlow.

One story in one module, in order; each test is a chapter that stands on the one before.
"""

import json
import time
from pathlib import Path
from typing import Any

import pytest
from commands import CommandLine, interrupt
from pyVim import connect as pyvim
from pyVmomi import vim
from secrets_search import Recorded, command_lines, key_lines, places

from gpuvm.settings import parse_address

Lab = Any

TOKEN = "token-that-a-run-is-given-and-nobody-else"

SMALL = ("--steps", "12", "--encoder-steps", "8", "--scenes", "192", "--beam", "1")


@pytest.fixture(scope="module")
def lab(lab: CommandLine, tmp_path_factory: pytest.TempPathFactory) -> CommandLine:
    """The lab's command line, with a record of all that it is given and prints."""
    return Recorded(lab, tmp_path_factory.mktemp("seen"))


def test_context_is_the_lab(lab: Lab) -> None:
    envelope = lab("context", "--json").json
    assert envelope["data"]["current"] == "lab"
    files = list(lab.home.glob("**/contexts/*.yaml"))
    password = next(lab.home.glob("**/labs/lab/password")).read_text().strip()
    assert files
    assert all(password not in f.read_text() for f in files)


def test_plan_shows_and_stops(lab: Lab) -> None:
    done = lab("plan", "--hosts", "4")
    assert done.exit_code == 10, done.stderr
    assert done.stdout.splitlines()[0].startswith("vCenter: gpuvm lab")
    assert done.stdout.count("0000:3b:00.0") == 4
    assert lab("plan", "--hosts", "4", "--json").json["data"]["changes"] == 4


def test_interrupted_provision_leaves_marked_vms_and_reports_them(lab: Lab) -> None:
    process = lab.start("provision", "--hosts", "2")
    _wait_for_line(process, "cloning")
    interrupt(process)
    _, message = process.communicate(timeout=60)
    lab.said.append(message)
    assert process.returncode == 130, message
    assert "gpuvm provision --hosts 2" in message
    assert "gpuvm teardown" in message
    assert "Traceback" not in message


def test_provision_continues_where_it_was_interrupted(lab: Lab) -> None:
    envelope = lab("--debug", "provision", "--hosts", "4", "--json").json
    assert envelope["exit_code"] == 0, envelope
    vms = envelope["data"]["vms"]
    assert [vm["vm"] for vm in vms] == ["gpuvm-01", "gpuvm-02", "gpuvm-03", "gpuvm-04"]
    assert {vm["state"] for vm in vms} == {"ready"}
    assert len({vm["host"] for vm in vms}) == 4
    assert len({vm["address"] for vm in vms}) == 4


def test_second_call_changes_nothing_and_reports_it(lab: Lab) -> None:
    done = lab("provision", "--hosts", "4")
    assert done.exit_code == 0
    assert "nothing to do" in done.stdout
    assert lab("plan", "--hosts", "4").exit_code == 0


def test_removing_vms_needs_scale_down(lab: Lab) -> None:
    done = lab("provision", "--hosts", "2")
    assert done.exit_code == 3
    assert "--scale-down" in done.stderr


def test_more_hosts_than_gpus_shows_who_holds_them(lab: Lab) -> None:
    done = lab("provision", "--hosts", "5")
    assert done.exit_code == 3
    assert "held by gpuvm-01 (powered on)" in done.stderr


def test_unknown_names_list_existing_ones(lab: Lab) -> None:
    for option, exists in (
        ("--template", "centos7-tensorflow"),
        ("--cluster", "GPU-Cluster"),
        ("--datastore", "vsanDatastore"),
        ("--network", "VM Network"),
    ):
        done = lab("plan", "--name", "other", option, "nowhere")
        assert done.exit_code == 2, done.stderr
        assert "'nowhere' not found" in done.stderr
        assert exists in done.stderr


def test_wrong_password_is_one_line(lab: Lab) -> None:
    wrong = _context_with(lab, "wrong", password_command="echo wrong-password")
    done = lab("plan", "--context", wrong)
    assert done.exit_code == 1
    assert "wrong-password" not in done.stderr
    assert len(done.stderr.strip().splitlines()) <= 2


def test_untrusted_certificate_is_one_line(lab: Lab) -> None:
    untrusted = _context_with(lab, "untrusted", tls={"verify": "system"})
    done = lab("plan", "--context", untrusted)
    assert done.exit_code == 1
    assert "certificate" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.tensorflow
def test_run_distributed(lab: Lab) -> None:
    options = ("--distributed", "--json", "--debug", "--secret", "TOKEN")
    done = lab("run", "captioning", *options, "--", *SMALL, timeout_s=400, TOKEN=TOKEN)
    assert done.exit_code == 0, done.stderr
    run = Path(done.json["data"]["dir"])
    run = run if run.is_absolute() else lab.home / run
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["status"] == "succeeded"
    assert [vm["name"] for vm in manifest["vms"]] == [f"gpuvm-0{i}" for i in range(1, 5)]
    digests = {_last(run / vm["name"], "end")["weights_sha256"] for vm in manifest["vms"]}
    assert len(digests) == 1, "all workers end with the same weights"


@pytest.mark.tensorflow
def test_report(lab: Lab) -> None:
    done = lab("report")
    assert done.exit_code == 0, done.stderr
    assert "CPU" in done.stdout
    page = next(lab.home.glob("runs/*/report.html")).read_text()
    assert "gpuvm lab" in page
    data = lab("report", "--json").json["data"]["runs"][0]
    titles = {row["name"] for row in data["phases"]}
    assert {"plan", "clone", "configure", "power_on", "address", "ready", "push", "train"} <= titles
    assert data["shards"]["disjoint"]
    assert data["shards"]["complete"]
    names = [f"gpuvm-0{i}" for i in range(1, 5)]
    assert [gpu["vm"] for gpu in data["gpu_usage"]] == names
    for gpu in data["gpu_usage"]:
        assert max(point["utilization"] for point in gpu["points"]) > 0, "TensorFlow computed"
    assert data["energy_wh"] is None
    assert "simulated" in data["energy_note"]


@pytest.mark.tensorflow
def test_a_worker_that_dies_ends_the_run(lab: Lab) -> None:
    program = lab.home / "dies" / "dies.py"
    program.parent.mkdir()
    program.write_text(DIES)
    done = lab("run", str(program), "--distributed", timeout_s=120)
    assert done.exit_code == 1
    assert "gpuvm-02" in done.stderr
    assert "out of luck" in done.stderr
    assert "Traceback" not in done.stderr


def test_password_from_environment_and_keyring(lab: Lab) -> None:
    password = next(lab.home.glob("**/labs/lab/password")).read_text().strip()
    own = _context_with(lab, "own", password_command=None)
    known = lab("--debug", "status", "--context", own, GPUVM_PASSWORD=password)
    assert known.exit_code == 0, known.stderr
    kept = lab("--debug", "login", "--password-stdin", "--context", own, stdin=password)
    assert kept.exit_code == 0, kept.stderr
    assert lab("--debug", "gpus", "--context", own).exit_code == 0
    assert lab("logout", "--context", own).exit_code == 0


@pytest.mark.tensorflow
def test_no_secret_is_anywhere_but_in_its_own_file(lab: Lab) -> None:
    (folder,) = lab.home.glob("**/labs/lab")
    (key,) = lab.home.glob("**/keys/lab/id_ed25519")
    passwords = json.loads((folder / "passwords.json").read_text())
    administrator = (folder / "password").read_text().strip()
    own_files: dict[str, set[Path]] = {
        password: {folder / "passwords.json"} for password in passwords.values()
    }
    own_files[administrator].add(folder / "password")
    own_files |= {line: {key} for line in key_lines(key)}
    for host_key in folder.glob("guests/*/disk/ssh/*_key"):
        own_files |= {line: {host_key} for line in key_lines(host_key)}
    own_files |= {cookie: set() for cookie in lab.seen("cookie")}
    own_files[TOKEN] = set()
    assert len(lab.seen("cookie")) > 10, "each command that logs in was given one"
    assert any("'cat'" in started for started in lab.seen("started")), "the password command"
    texts = {
        "what was typed and printed": "\n".join(lab.said),
        "the arguments of programs": "\n".join(lab.seen("started")),
        "the arguments of processes": "\n".join(command_lines()),
        "the vCenter": _of_all_vms(lab, administrator),
    }
    assert "gpuvm.generation" in texts["the vCenter"]
    assert "gpuvm.lab.supervisor" in texts["the arguments of processes"]
    assert min(map(len, own_files)) > 20
    assert places(own_files, lab.home, texts) == {
        secret: {str(file.relative_to(lab.home)) for file in files}
        for secret, files in own_files.items()
    }


def test_teardown_needs_yes_without_a_terminal(lab: Lab) -> None:
    careful = _context_with(lab, "careful", confirm=True)
    done = lab("teardown", "--context", careful)
    assert done.exit_code == 2
    assert "--yes" in done.stderr


def test_teardown_twice(lab: Lab) -> None:
    done = lab("teardown", "--yes")
    assert done.exit_code == 0, done.stderr
    assert "4 of 4 VMs removed" in done.stdout
    again = lab("teardown", "--yes")
    assert again.exit_code == 0
    assert "nothing to do" in again.stdout
    assert not list(lab.home.glob("**/host-keys/*"))
    guests = lab("lab", "status", "--json").json["data"]["guests"]
    assert guests == []


DIES = """
# /// script
# [tool.gpuvm]
# contract = 1
# ///
import argparse, json, os, sys, time
parser = argparse.ArgumentParser()
parser.add_argument("--out")
parser.add_argument("--start-deadline-s")
arguments = parser.parse_known_args()[0]
worker = json.loads(os.environ["TF_CONFIG"])["task"]["index"]
with open(os.path.join(arguments.out, "timings.jsonl"), "a") as timings:
    timings.write(json.dumps({"t": time.time(), "event": "start", "workload": "dies"}) + "\\n")
if worker == 1:
    sys.exit("out of luck")
time.sleep(600)
"""


def _last(folder: Path, event: str) -> dict[str, Any]:
    lines = (folder / "timings.jsonl").read_text().splitlines()
    return dict([r for r in map(json.loads, lines) if r["event"] == event][-1])


def _context_with(lab: Lab, name: str, **changes: Any) -> str:
    """A context like the lab's with something changed; 'lab' stays the current one."""
    import yaml

    file = next(lab.home.glob("**/contexts/lab.yaml"))
    changed = yaml.safe_load(file.read_text()) | {"name": name} | changes
    file.with_name(f"{name}.yaml").write_text(yaml.safe_dump(changed))
    return name


def _of_all_vms(lab: Lab, password: str) -> str:
    """All that the vCenter shows of its VMs: extraConfig, annotations, names of files."""
    import yaml

    context = yaml.safe_load(next(lab.home.glob("**/contexts/lab.yaml")).read_text())
    host, port = parse_address(context["vcenter"])
    client: Any = pyvim.SmartConnect(
        host=host, port=port, user=context["user"], pwd=password, disableSslCertValidation=True
    )
    content = client.RetrieveContent()
    kinds = [vim.VirtualMachine]
    view = content.viewManager.CreateContainerView(content.rootFolder, kinds, True)
    shown = "\n".join(f"{vm.config}{vm.summary}" for vm in view.view)
    pyvim.Disconnect(client)
    return shown


def _wait_for_line(process: Any, text: str) -> None:
    deadline = time.monotonic() + 60
    for line in process.stderr:
        if text in line or time.monotonic() > deadline:
            return
