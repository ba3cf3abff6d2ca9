"""A user's login shell reads start-up files before every command, and some of them print."""

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gpuvm import guest
from gpuvm.errors import GuestError
from gpuvm.settings import Context

Server = Any  # tests/guest/conftest.py
NOTICE = "Authorized use only. All activity is monitored."
SCRIPTS = {
    "a notice": f"echo '{NOTICE}'",
    "an empty line": "echo",
    "a line without an end": "printf Welcome",
    "to both": f"echo '{NOTICE}'; echo '{NOTICE}' >&2",
    "many": "seq 1 20000",
}


@pytest.fixture
def shell(server: Server, context: Context) -> Iterator[guest.Guest]:
    with guest.connect(server.endpoint(context)) as one:
        yield one


def start_with(shell: guest.Guest, script: str) -> None:
    """From the next command on."""
    write = ["sh", "-c", "cat > ~/.bashrc"]
    shell.run(write, timeout_s=20, stdin=f"{script}\n".encode())


def test_the_guest_uses_the_shell_of_the_user_data(shell: guest.Guest) -> None:
    assert shell.run('echo "$SHELL"', timeout_s=20).stdout == "/bin/bash\n"
    start_with(shell, "export FROM_BASHRC=yes")
    assert shell.run('echo "$FROM_BASHRC"', timeout_s=20).stdout == "yes\n"


@pytest.mark.parametrize("script", SCRIPTS.values(), ids=SCRIPTS)
def test_login_script_output_is_not_an_answer(
    shell: guest.Guest, script: str, tmp_path: Path
) -> None:
    start_with(shell, script)
    assert shell.run(["printf", "42"], timeout_s=20).stdout == "42"
    assert shell.run(["cat"], timeout_s=20, stdin=b"\n\nx").stdout == "\n\nx"
    assert list(shell.stream(["printf", "a\\nb"], idle_timeout_s=20)) == ["a\n", "b"]
    with shell.start(["sh", "-c", "echo 20001; cat"], idle_timeout_s=20) as held:
        assert held.line() == "20001"
    assert shell.run("exit 3", timeout_s=20, check=False).exit_status == 3

    files: dict[str, Path | bytes] = {"a/b.bin": bytes(range(256)) * 1000, "c": b""}
    guest.push(shell, files, "there")
    arrived = guest.fetch(shell, "there", tmp_path / "here").files
    assert [file.read_bytes() for file in arrived] == list(files.values())
    out = io.BytesIO()
    shell.pipe("cat there/a/b.bin", io.BytesIO(), out, timeout_s=20)
    assert out.getvalue() == files["a/b.bin"]


def test_python_scripts_work_with_a_login_script(shell: guest.Guest) -> None:
    start_with(shell, SCRIPTS["a notice"])
    asked = ("missing_imports", "json", "no_such_module")
    for _ in range(2):
        done = shell.script("python3", *asked, timeout_s=60, what="look for modules")
        assert done.stdout.split() == ["no_such_module"]


@pytest.mark.parametrize("way", ["run", "stream", "script"])
def test_a_shell_that_ends_before_the_command_is_named(shell: guest.Guest, way: str) -> None:
    start_with(shell, "echo 'This account is closed.'; exit 1")
    ask: dict[str, Callable[[], object]] = {
        "run": lambda: shell.run(["true"], timeout_s=20),
        "stream": lambda: list(shell.stream(["true"], idle_timeout_s=20)),
        "script": lambda: shell.script("python3", "kill", "A=B", timeout_s=20, what="true"),
    }
    with pytest.raises(GuestError, match=r"ended with status 1 before 'true' began: This account"):
        ask[way]()


def test_login_script_output_is_separated_from_the_run(shell: guest.Guest) -> None:
    """One that prints only while a run's output is there, as after a first check."""
    start_with(shell, "ls ~/gpuvm-runs >/dev/null 2>&1 && echo Welcome")
    shell.run(["mkdir", "gpuvm-runs"], timeout_s=20)
    program = ["python3", "-c", "import json; print(json.dumps({'port': 23}))"]
    assert json.loads(shell.run(program, timeout_s=60).stdout) == {"port": 23}
