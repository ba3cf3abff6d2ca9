"""Runs in guests of the lab that a test ends when it likes, and what is known of them."""

import time
from collections.abc import Callable
from pathlib import Path

from commands import CommandLine

Lab = CommandLine


def wait_for(condition: Callable[[], bool], what: str, deadline_s: float = 60) -> None:
    end = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < end, f"not in time: {what}"
        time.sleep(0.02)


# Waits for a file in its own copy, which the test can make through the lab's disk.
WAITS = """
import os, pathlib, sys, time
from helpers.words import GREETING
print(GREETING, sys.argv[1:], len(os.environ.get("TOKEN", "")), flush=True)
print("\\x1b]0;owned\\x07\\x1b[2Jshown", flush=True)
while not pathlib.Path("go").exists():
    time.sleep(0.02)
pathlib.Path("model.txt").write_text("weights")
pathlib.Path(os.environ["GPUVM_OUT"], "curve.csv").write_text("1,2")
print("done", flush=True)
"""


def waiting_project(lab: Lab) -> None:
    """``mine/wait.py``, with a package beside it."""
    project = lab.home / "mine"
    (project / "helpers").mkdir(parents=True)
    (project / "helpers/words.py").write_text("GREETING = 'hello'\n")
    (project / "wait.py").write_text(WAITS)


def copy_of(lab: Lab, run_id: str) -> Path:
    (found,) = lab.home.rglob(f"gpuvm-runs/{run_id}/project")
    return Path(found)


def state(lab: Lab, run_id: str) -> str:
    listed = lab("runs", "--json").json["data"]["runs"]
    return str(next(run["state"] for run in listed if run["run_id"] == run_id))


def detached(lab: Lab, *options: str) -> str:
    done = lab("run", "mine/wait.py", "--detach", "--json", *options, "--", "--x")
    assert done.exit_code == 0, done.stderr
    assert done.json["data"]["status"] == "running"
    return str(done.json["data"]["run_id"])
