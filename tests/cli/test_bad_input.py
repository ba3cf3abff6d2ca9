"""Bad input, before any connection: a one-line error, the right exit code, nothing written."""

from typing import Any

import pytest

Gpuvm = Any


def test_help_starts_with_examples(gpuvm: Gpuvm) -> None:
    for command in ((), ("lab",), ("plan",), ("provision",), ("run",), ("report",), ("teardown",)):
        done = gpuvm(*command, "--help")
        assert done.exit_code == 0
        assert done.stdout.index("Example") < done.stdout.index("Options"), command


def test_no_vcenter_is_known(gpuvm: Gpuvm) -> None:
    done = gpuvm("plan")
    assert done.exit_code == 2
    assert "there is no context yet" in done.stderr
    assert "gpuvm init" in done.stderr
    assert "Traceback" not in done.stderr


def test_errors_as_json(gpuvm: Gpuvm) -> None:
    envelope = gpuvm("plan", "--json").json
    assert envelope["status"] == "error"
    assert envelope["exit_code"] == 2
    assert envelope["errors"][0]["type"] == "BadInput"


def test_misspelt_key_is_named_with_its_line(gpuvm: Gpuvm) -> None:
    (gpuvm.home / "gpuvm.yaml").write_text("hosts: 4\nacelerator: {mode: passthrough}\n")
    done = gpuvm("plan")
    assert done.exit_code == 2
    assert "gpuvm.yaml:2: acelerator: unknown key" in done.stderr
    assert "did you mean 'accelerator'?" in done.stderr


def test_three_mistakes_are_three_lines(gpuvm: Gpuvm) -> None:
    (gpuvm.home / "gpuvm.yaml").write_text("hosts: 0\nacelerator: {}\nname: X_y\n")
    done = gpuvm("plan")
    assert done.exit_code == 2
    assert [line.split(": ")[1] for line in done.stderr.splitlines() if "error:" in line] == [
        "gpuvm.yaml:1",
        "gpuvm.yaml:2",
        "gpuvm.yaml:3",
    ]
    assert len(gpuvm("plan", "--json").json["errors"]) == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("frobnicate",), "No such command"),
        (("plan", "--hosts", "0"), "--hosts"),
        (("plan", "--name", "Bad Name"), "--name: 'Bad Name' is not a name"),
        (("plan", "--hots", "1"), "No such option"),
        (("plan", "--accelerator", ""), "--accelerator is empty"),
        (("teardown", "--context", "", "--yes"), "--context is empty"),
        (("context", "remove", "elsewhere"), "context 'elsewhere' not found"),
        (("init",), "--vcenter and --user are missing and there is no terminal"),
        (("lab", "down", "--name", ".."), "--name: '..' is not a name of letters"),
        (("run", "captionning"), "captioning"),
        (("run", "mnist", "--", "x" * 130_000), "too long to start a program with"),
        (("run", "mnist", "--env-file", "/dev/zero"), "/dev/zero: larger than 128 KiB"),
        (("run",), "nothing to run: name a workload or a script"),
        (("run", "--project", "."), "nothing to run: its command follows '--'"),
        (("report", "no-such-run"), "no-such-run"),
        (("context", "use", "elsewhere"), "context 'elsewhere' not found"),
        (("init", "--user", "me"), "--vcenter is missing"),
        (("init", "--user", "me", "--vcenter", "v" * 400), "--name: 'vvvv"),
        (("init", "--vcenter", "a b", "--user", "me"), "is not a host or https URL"),
        (("lab", "up", "--gpu", "voodoo2"), "voodoo2"),
    ],
)
def test_bad_input(gpuvm: Gpuvm, arguments: tuple[str, ...], message: str) -> None:
    done = gpuvm(*arguments)
    assert done.exit_code == 2, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(gpuvm.home.glob("**/*.yaml")), "nothing is written"


def test_unreachable_vcenter(gpuvm: Gpuvm) -> None:
    arguments = ("init", "--vcenter", "127.0.0.1:1", "--user", "me")
    done = gpuvm(*arguments, GPUVM_PASSWORD="secret-word")
    assert done.exit_code == 1
    assert "127.0.0.1" in done.stderr
    assert "secret-word" not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert not list(gpuvm.home.glob("**/*.yaml"))
