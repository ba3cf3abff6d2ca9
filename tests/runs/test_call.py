"""A program that is run once in a guest for its output: gpuvm caption --on."""

import json
from pathlib import Path
from typing import Any

import pytest

from gpuvm import runs
from gpuvm.errors import PreflightRefused
from gpuvm.guest import CommandResult
from gpuvm.settings import GuestSettings

Machine = Any

ANSWERS = """
import json, pathlib, subprocess, sys
word, model = sys.argv[1], pathlib.Path(sys.argv[2].partition("=")[2])
quiet = subprocess.DEVNULL
subprocess.Popen(["sleep", "600"], stdout=quiet, stderr=quiet, start_new_session=True)
print(json.dumps([word, open("picture.png").read(), (model / "below/a").read_text()]))
sys.exit("not an image" if word == "bad" else 0)
"""


def ask(folder: Path, machine: Machine, word: str, source: str = ANSWERS) -> CommandResult:
    program, picture, part = folder / "answers.py", folder / "it's.png", folder / "a"
    program.write_text(source)
    picture.write_text("pixels")
    part.write_text("weights")
    return runs.run_once(
        runs.find(str(program)),
        [word, "--run=data/hash/model"],
        machine.endpoint,
        GuestSettings(),
        files={"picture.png": picture},
        inputs={"hash/model": {"below/a": part}},
    )


def test_it_answers_and_leaves_nothing_but_the_model(
    tmp_path: Path, machine: Machine, wait_for: Any
) -> None:
    done = ask(tmp_path, machine, "two words; $HOME")
    assert done.exit_status == 0, done.stderr
    assert json.loads(done.stdout) == ["two words; $HOME", "pixels", "weights"]
    assert {entry.name for entry in (machine.home / "gpuvm-runs").iterdir()} == {"data", "store"}
    wait_for(lambda: not machine.processes(), "nothing is left")


def test_own_error_message_on_failure(tmp_path: Path, machine: Machine, wait_for: Any) -> None:
    done = ask(tmp_path, machine, "bad")
    assert done.exit_status == 1
    assert done.stderr.strip() == "not an image"
    assert {entry.name for entry in (machine.home / "gpuvm-runs").iterdir()} == {"data", "store"}
    wait_for(lambda: not machine.processes(), "nothing is left")


def test_nothing_is_sent_where_a_module_is_missing(tmp_path: Path, machine: Machine) -> None:
    with pytest.raises(PreflightRefused, match="no_such_module"):
        ask(tmp_path, machine, "word", "def f():\n    import no_such_module\n")
    assert not (machine.home / "gpuvm-runs").exists()
