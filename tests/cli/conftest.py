"""The command line as a user runs it: a separate process with its own home directory."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import CommandLine, fast_lab


@pytest.fixture
def gpuvm(tmp_path: Path) -> CommandLine:
    """Without any vCenter."""
    home = tmp_path / "home"
    home.mkdir()
    return CommandLine(home)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory, simulator: None) -> Iterator[CommandLine]:
    """A lab of four hosts with quick operations, taken down after the module."""
    home = tmp_path_factory.mktemp("home")
    command = CommandLine(home)
    shape = home / "lab.json"
    shape.write_text(fast_lab())
    up = command("lab", "up", "--description", str(shape))
    assert up.exit_code == 0, up.stderr
    yield command
    down = command("lab", "down")
    assert down.exit_code == 0, down.stderr
