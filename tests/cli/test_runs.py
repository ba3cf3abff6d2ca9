"""Detached runs through the command line: started, found, fetched, cancelled.

Guests of the lab, real processes; no TensorFlow.
"""

import json
import os
import signal
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from commands import CommandLine, interrupt
from events import scalars
from lab_runs import copy_of, detached, state, wait_for, waiting_project
from programs import wheel

Lab = Any


@pytest.fixture(scope="module", autouse=True)
def two(lab: Lab) -> None:
    done = lab("provision", "--hosts", "2", "--accelerator", "none", "--until", "ready")
    assert done.exit_code == 0, done.stderr
    waiting_project(lab)


def test_detached_run_is_found_and_fetched_from_another_machine(lab: Lab) -> None:
    run_id = detached(lab)
    assert state(lab, run_id) == "running"
    away = lab.home / "runs.away"
    (lab.home / "runs").rename(away)
    shown = lab("runs")
    assert run_id in shown.stdout
    assert "\x1b" not in shown.stdout
    log = lab("logs", run_id[:-4], "--tail", "1")
    assert log.stdout.splitlines()[1:] == ["shown"]
    (copy_of(lab, run_id) / "go").touch()
    attached = lab("attach", run_id)
    assert attached.exit_code == 0, attached.stderr
    assert "hello ['--x'] 0" in attached.stdout
    fetched = lab.home / "runs" / run_id / "gpuvm-01"
    assert (fetched / "project/model.txt").read_text() == "weights"
    assert (fetched / "curve.csv").read_text() == "1,2"
    assert not (fetched / "project/wait.py").exists(), "what was sent does not come back"
    assert state(lab, run_id) == "succeeded"


def test_one_gpu_one_run_and_the_queue(lab: Lab) -> None:
    first = detached(lab)
    busy = lab("run", "mine/wait.py")
    assert busy.exit_code == 3
    assert f"gpuvm-01 is busy with run {first}" in busy.stderr
    assert f"gpuvm cancel {first}" in busy.stderr
    second = detached(lab, "--queue")
    assert state(lab, second) == "queued"
    cancelled = lab("cancel", first, "--yes")
    assert cancelled.exit_code == 0, cancelled.stderr
    assert state(lab, first) == "cancelled"
    wait_for(lambda: state(lab, second) == "running", "the next one runs")
    assert lab("cancel", second, "--yes").exit_code == 0
    again = lab("cancel", second, "--yes")
    assert again.exit_code == 3
    assert "it is cancelled" in again.stderr


def test_stop_names_a_run_before_it_asks(lab: Lab) -> None:
    run_id = detached(lab)
    (file,) = lab.home.glob("**/contexts/lab.yaml")
    without_question = file.read_text()
    file.write_text(without_question.replace("confirm: false", "confirm: true"))
    try:
        asked = lab("stop")
    finally:
        file.write_text(without_question)
    assert asked.exit_code == 2
    assert f"run {run_id} is running on gpuvm-01: stopping its VMs ends it" in asked.stderr
    assert asked.stderr.index(run_id) < asked.stderr.index("Stop gpuvm-01, gpuvm-02?")
    assert state(lab, run_id) == "running"
    assert lab("cancel", run_id, "--yes").exit_code == 0


def test_tensorboard_follows_a_run_that_goes_on(lab: Lab) -> None:
    folder = lab.home / "board"
    scalars(folder, 3.0, 2.0)
    (file,) = folder.iterdir()
    file.rename(folder / "seed.bin")
    (folder / "wait.py").write_text(WRITES_EVENTS)
    done = lab("run", "board/wait.py", "--detach", "--json")
    assert done.exit_code == 0, done.stderr
    run_id = done.json["data"]["run_id"]
    process = lab.start("tensorboard", run_id[:-2])
    url = next(line.split()[1] for line in process.stdout if line.startswith("TensorBoard: "))

    def served() -> list[str]:
        with urllib.request.urlopen(f"{url}data/runs") as answer:
            return list(json.load(answer))

    wait_for(lambda: len(served()) == 1, "its curve is served")
    assert served()[0].endswith(f"{run_id[-4:]}/gpuvm-01")
    interrupt(process)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (0, "")
    assert state(lab, run_id) == "running"
    assert lab("cancel", run_id, "--yes").exit_code == 0


WRITES_EVENTS = """
import pathlib, time
pathlib.Path("logs").mkdir()
written = pathlib.Path("seed.bin").read_bytes()
pathlib.Path("logs/events.out.tfevents.2.x").write_bytes(written)
while True:
    time.sleep(1)
"""


def test_another_operator_cancels_what_this_one_watches(lab: Lab) -> None:
    run_id = detached(lab)
    process = lab.start("attach", run_id)
    assert "hello" in "".join(process.stdout.readline() for _ in range(2))
    assert lab("cancel", run_id, "--yes").exit_code == 0
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "the worker on gpuvm-01 was cancelled" in errors
    assert state(lab, run_id) == "cancelled"


def test_run_of_a_killed_operator_can_be_attached(lab: Lab) -> None:
    process = lab.start("run", "mine/wait.py", "--vm", "gpuvm-02")
    line = process.stdout.readline() + process.stdout.readline()
    run_id = line.split("run ")[1].split(":")[0]
    wait_for(lambda: state(lab, run_id) == "running", "it runs")
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert state(lab, run_id) == "running"
    (copy_of(lab, run_id) / "go").touch()
    fetched = lab("attach", run_id, "--quiet", "--json")
    assert fetched.exit_code == 0, fetched.stderr
    assert fetched.json["data"]["status"] == "succeeded"


def test_a_secret_is_in_no_file_and_no_record(lab: Lab) -> None:
    done = lab("run", "mine/wait.py", "--secret", "TOKEN", "--detach", TOKEN="hunter2-hunter2")
    assert done.exit_code == 0, done.stderr
    run_id = next(iter(lab("runs", "--json").json["data"]["runs"][-1:]))["run_id"]
    assert "hello [] 15" in lab("logs", run_id).stdout
    holding = [
        file
        for file in lab.home.rglob("*")
        if file.is_file() and not file.is_symlink() and b"hunter2" in file.read_bytes()
    ]
    assert holding == []
    assert lab("cancel", run_id, "--yes").exit_code == 0


def test_any_command_in_a_copy_of_a_folder(lab: Lab) -> None:
    done = lab("run", "--project", "mine", "-e", "A=b c", "--", "sh", "-c", 'echo "$A"; ls; exit 5')
    assert done.exit_code == 1
    assert done.stdout.splitlines()[2:5] == ["b c", "helpers", "wait.py"]
    assert "ended with status 5" in done.stderr


def example(number: int) -> str:
    """A program of docs/your-own-code.md."""
    text = (Path(__file__).parents[2] / "docs/your-own-code.md").read_text(encoding="utf-8")
    return text.split("```python\n")[number].split("```")[0]


@pytest.mark.tensorflow
@pytest.mark.parametrize(
    ("number", "curves"),
    [
        (
            2,
            (
                "gpuvm-01 train: epoch_loss",
                "</i>gpuvm-01 train</li>",
                "</i>gpuvm-01 validation</li>",
            ),
        ),
        (3, ("gpuvm-01: loss 1 at step 1, 0.01 at step 100",)),
    ],
)
def test_the_examples_have_curves_in_their_report(
    lab: Lab, number: int, curves: tuple[str, ...]
) -> None:
    folder = lab.home / f"example-{number}"
    folder.mkdir()
    (folder / "fit.py").write_text(example(number))
    done = lab("run", f"{folder.name}/fit.py", "--json")
    assert done.exit_code == 0, done.stderr
    page = Path(lab("report", done.json["data"]["run_id"], "--json").json["data"]["html"])
    for curve in curves:
        assert curve in page.read_text(encoding="utf-8")


def test_requirements_from_a_wheelhouse(lab: Lab) -> None:
    wheel(lab.home / "wheels", "gpuvm_test_greeting", "1.5")
    needs = lab.home / "needs"
    needs.mkdir()
    (needs / "requirements.txt").write_text("gpuvm-test-greeting>=1\n")
    (needs / "greet.py").write_text("import gpuvm_test_greeting as g; print('version', g.version)")
    done = lab("run", "needs/greet.py", "--wheelhouse", "wheels")
    assert done.exit_code == 0, done.stderr
    assert "version 1.5" in done.stdout
    (needs / "requirements.txt").write_text("gpuvm-test-greeting>=2\n")
    done = lab("run", "needs/greet.py", "--wheelhouse", "wheels")
    assert done.exit_code == 3
    assert "gpuvm-test-greeting" in done.stderr
    assert "--wheelhouse" in done.stderr


def test_older_records_are_counted_and_shown_when_asked_for(gpuvm: CommandLine) -> None:
    for n in range(25):
        run_id = f"old-20260101-0000{n:02}-abcd"
        folder = gpuvm.home / "runs" / run_id
        folder.mkdir(parents=True)
        manifest = {
            "schema": 1,
            "run_id": run_id,
            "workload": "old",
            "vcenter": {"name": "vc"},
            "started": "2026-01-01T00:00:00Z",
            "status": "succeeded",
        }
        (folder / "manifest.json").write_text(json.dumps(manifest))
    shown = gpuvm("runs", "--here").stdout.splitlines()
    assert shown[-1] == "and 5 more: 'gpuvm runs --all'"
    assert sum(line.startswith(" old-") for line in shown) == 20
    everything = gpuvm("runs", "--here", "--all")
    assert everything.stdout.count("old-2026") == 25
    assert "more" not in everything.stdout


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("attach", "no-such-run"), "run 'no-such-run' not found"),
        (("logs", "../x"), "'../x' is not a run's id"),
        (("run", "mine/wait.py", "--env", "=x"), "--env: not of the form NAME=VALUE"),
        (("run", "mine/wait.py", "--secret", "NOT_SET"), "--secret NOT_SET: this environment"),
        (("run", "mine/wait.py", "--queue", "--share"), "--queue and --share exclude each other"),
        (("run", "mine/wait.py", "--fetch-limit", "much"), "'much' is not a size"),
        (("run", "mnist", "--requirements", "mine/wait.py"), "--requirements: only a script or"),
        (("run", "--project", "none", "--", "ls"), "--project none: no such folder"),
        (("runs", "prune", "--older-than", "week"), "'week' is not an age"),
    ],
)
def test_bad_input_is_one_line(lab: Lab, arguments: tuple[str, ...], problem: str) -> None:
    done = lab(*arguments)
    assert done.exit_code == 2
    assert problem in done.stderr
    assert "Traceback" not in done.stderr


def test_ended_runs_are_pruned_in_the_guests_and_kept_locally(lab: Lab) -> None:
    done = lab("runs", "prune", "--older-than", "0m", "--yes", "--json")
    assert done.exit_code == 0, done.stderr
    assert {pair["vm"] for pair in done.json["data"]["removed"]} == {"gpuvm-01", "gpuvm-02"}
    assert not list(lab.home.rglob("gpuvm-runs/*/project"))


def test_a_guest_shuts_down_by_itself_when_its_run_has_ended(lab: Lab) -> None:
    """Without a connection; the results are fetched when the VM is on again."""
    run_id = detached(lab, "--vm", "gpuvm-02", "--then", "shutdown")
    (copy_of(lab, run_id) / "go").touch()

    def is_on() -> bool:
        vms = lab("status", "--no-guests", "--json").json["data"]["vms"]
        return bool(next(vm for vm in vms if vm["vm"] == "gpuvm-02")["powered_on"])

    wait_for(lambda: not is_on(), "it has shut down", deadline_s=120)
    off = lab("attach", run_id)
    assert off.exit_code == 3
    assert "gpuvm start" in off.stderr
    assert lab("start").exit_code == 0
    fetched = lab("fetch", run_id, "*.txt", "--json")
    assert fetched.exit_code == 0, fetched.stderr
    assert fetched.json["data"]["status"] == "succeeded"
    folder = Path(fetched.json["data"]["dir"]) / "gpuvm-02"
    assert [file.name for file in folder.rglob("*") if file.is_file()] == ["model.txt"]
