"""Two commands on one deployment: the second names the first, and refuses or waits."""

import os
from pathlib import Path

import pytest
from commands import CommandLine
from simulated_vcenter import Rig
from terminal import Terminal

from gpuvm import settings


@pytest.fixture
def gpuvm(rig: Rig, tmp_path: Path) -> CommandLine:
    """With a context that asks before it changes anything."""
    command = CommandLine(tmp_path)
    for name in ("GPUVM_CONFIG_DIR", "GPUVM_STATE_DIR"):
        command.environment[name] = os.environ[name]
    settings.save(rig.context.model_copy(update={"name": "careful", "confirm": True}))
    return command


def test_the_holder_is_named_and_waited_for(gpuvm: CommandLine) -> None:
    with Terminal(gpuvm, "provision", "--hosts", "1") as first:
        first.read_until("Apply these changes?")
        for command in (("provision", "--hosts", "2"), ("stop",), ("start",), ("teardown",)):
            refused = gpuvm(*command)
            assert refused.exit_code == 3
            error, hint = refused.stderr.strip().splitlines()
            assert "'gpuvm' is being changed by another command on this machine" in error
            assert "gpuvm provision (pid " in error
            assert ", since 20" in error
            assert "--wait" in hint
        elsewhere = gpuvm("teardown", "--name", "other")
        assert elsewhere.exit_code == 0, elsewhere.stderr
        waiting = gpuvm.start("teardown", "--yes", "--wait")
        assert waiting.stderr is not None
        assert "waiting for another command on 'gpuvm'" in waiting.stderr.readline()
        first.press(b"n\n")
        assert first.exit_code() == 0
        stdout, stderr = waiting.communicate(timeout=60)
    assert waiting.returncode == 0, stderr
    assert "nothing to do: no VM of 'gpuvm' exists" in stdout
    assert not (Path(os.environ["GPUVM_STATE_DIR"]) / "locks").exists()
