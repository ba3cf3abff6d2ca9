"""The command line as a whole: a fast start, and a command list that matches the help."""

import io
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from gpuvm.cli import main

SLOW = (
    "asyncssh",
    "cryptography",
    "jinja2",
    "keyring",
    "matplotlib",
    "numpy",
    "paramiko",
    "pydantic",
    "pyVmomi",
    "tensorflow",
    "yaml",
)
LISTS_MODULES = (
    "import atexit, sys; "
    "atexit.register(lambda: print('MODULES', *sys.modules, file=sys.stderr)); "
    "sys.argv[0] = 'gpuvm'; "
    "from gpuvm.cli.main import main; main()"
)


@pytest.mark.parametrize(
    ("arguments", "environment"),
    [
        (("--help",), {}),
        (("--version",), {}),
        ((), {"_GPUVM_COMPLETE": "complete_bash", "COMP_WORDS": "gpuvm pro", "COMP_CWORD": "1"}),
    ],
)
def test_it_starts_without_what_only_commands_need(
    arguments: tuple[str, ...], environment: dict[str, str]
) -> None:
    """By the list of modules, not by the time; benchmarks/startup.py has the times."""
    done = subprocess.run(
        [sys.executable, "-c", LISTS_MODULES, *arguments],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | environment,
    )
    assert "provision" in done.stdout or "gpuvm 0" in done.stdout
    loaded = done.stderr.partition("MODULES")[2].split()
    assert "typer" in loaded
    own = "typer._adapters" in loaded  # typer looks at pydantic types where pydantic is installed
    assert not [name for name in SLOW if name in loaded and not (own and name == "pydantic")]


@pytest.mark.parametrize("name", main.COMMANDS)
def test_command_list_shows_the_first_line_of_each_help(name: str) -> None:
    help_text = main._load(name).help or ""
    assert help_text.strip().split("\n")[0] == main.COMMANDS[name].summary
    assert "[bold]Example" in help_text


@pytest.mark.parametrize(
    "typed",
    [("--debug", "status", "--json"), ("status", "--json"), ("context", "use", "x", "--json")],
)
def test_an_error_names_the_command(typed: tuple[str, ...], tmp_path: Path) -> None:
    nowhere = {f"GPUVM_{what}_DIR": str(tmp_path) for what in ("CONFIG", "STATE", "CACHE")}
    done = subprocess.run(
        [sys.executable, "-m", "gpuvm", *typed],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | nowhere,
    )
    assert done.returncode == 2
    words = [word for word in typed if not word.startswith("-")]
    assert json.loads(done.stdout)["command"] == " ".join(words[:2] if len(words) > 1 else words)


@pytest.mark.parametrize(
    ("typed", "command", "said"),
    [
        (("plan", "--hosts", "x", "--json"), "plan", "--hosts': must be a whole number, not 'x'"),
        (("plan", "--json", "--hots", "1"), "plan", "No such option: --hots"),
        (("plan", "--hosts", "0", "--json"), "plan", "--hosts': must be at least 1"),
        (("plan", "--placement", "odd", "--json"), "plan", "'odd' is not one of 'one-per-host'"),
        (("lab", "up", "--bogus", "--json"), "lab up", "No such option: --bogus"),
        (("lab", "bogus", "--json"), "lab", "No such command 'bogus'"),
        (("context", "use", "--json"), "context use", "Missing argument"),
        (("frobnicate", "--json"), "", "No such command 'frobnicate'"),
        (("--bogus", "plan", "--json"), "", "No such option: --bogus"),
    ],
)
def test_a_usage_error_is_json_where_json_was_asked_for(
    typed: tuple[str, ...], command: str, said: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "gpuvm", *typed], capture_output=True, text=True, check=False
    )
    envelope = json.loads(done.stdout)
    assert (done.returncode, envelope["exit_code"], envelope["status"]) == (2, 2, "error")
    assert envelope["command"] == command
    assert said in envelope["errors"][0]["message"]
    assert not done.stderr


def test_an_argument_of_the_program_is_not_our_json() -> None:
    typed = ("run", "x", "--bogus", "--", "--json")
    done = subprocess.run(
        [sys.executable, "-m", "gpuvm", *typed], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert "No such option: --bogus" in done.stderr


def test_a_misspelt_command_is_one_line(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "gpuvm", "provison"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "No such command 'provison'" in done.stderr


def test_an_error_of_this_machine_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Such as a full disk, or a file in a folder's place, wherever it is met."""
    (tmp_path / "contexts").mkdir()
    (tmp_path / "contexts" / "x.yaml").write_text("")
    (tmp_path / "current").mkdir()
    monkeypatch.setenv("GPUVM_CONFIG_DIR", str(tmp_path))
    with pytest.raises(SystemExit) as ended:
        main.app(["context", "use", "x"])
    assert ended.value.code == 1
    assert f"error: {tmp_path / 'current'}: Is a directory" in capsys.readouterr().err


@pytest.mark.parametrize("closed", [">&-", "2>&-"])
def test_a_closed_stream_is_no_error(closed: str) -> None:
    command = f"{shlex.quote(sys.executable)} -m gpuvm --version {closed}"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr


def test_a_question_that_is_interrupted_ends_with_130(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the end of the input, as after Ctrl-D."""
    monkeypatch.setattr("sys.stdin", io.StringIO())
    monkeypatch.setattr("gpuvm.cli.init.interactive", lambda: True)
    with pytest.raises(SystemExit) as ended:
        main.app(["init"])
    assert ended.value.code == 130
    assert "error: interrupted: the question was not answered" in capsys.readouterr().err
