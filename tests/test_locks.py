"""Two processes, one lock: the holder is named, waited for, and gone with its process."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gpuvm import locks
from gpuvm.errors import BadInput
from gpuvm.locks import Holder

HOLDS = """
import sys
from pathlib import Path
from gpuvm import locks
with locks.held(Path(sys.argv[1]), "gpuvm provision", lambda holder: print(holder, flush=True)):
    print("held", flush=True)
    sys.stdin.read()
"""


class Refused(Exception):
    """Raised in place of waiting."""


@contextmanager
def another(file: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process, that asks for the lock and holds it until its input ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDS, str(file)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def refuse(holder: Holder | None) -> None:
    raise Refused(str(holder))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "locks" / "of-one.lock"


def test_the_holder_is_named(file: Path) -> None:
    with another(file) as process:
        assert said(process) == "held"
        with pytest.raises(Refused) as refused, locks.held(file, "gpuvm teardown", refuse):
            pass
    assert str(refused.value).startswith(f"gpuvm provision (pid {process.pid}, ")
    assert ", since 20" in str(refused.value)


def test_a_killed_holder_leaves_no_lock(file: Path) -> None:
    with another(file) as process:
        assert said(process) == "held"
        process.kill()
        process.wait()
        assert file.exists(), "what it wrote is there, and stops nobody"
        with locks.held(file, "gpuvm teardown", refuse):
            pass
    assert not file.parent.exists(), "nothing is left behind"


def test_it_is_waited_for(file: Path) -> None:
    with another(file) as first:
        assert said(first) == "held"
        with another(file) as second:
            assert said(second).startswith(f"gpuvm provision (pid {first.pid}, ")
            first.communicate("")
            assert said(second) == "held"
            with pytest.raises(Refused, match=f"pid {second.pid}"):
                locks.held(file, "gpuvm teardown", refuse).__enter__()


def test_others_are_not_concerned(file: Path) -> None:
    with another(file) as process:
        assert said(process) == "held"
        with locks.held(file.with_name("of-another.lock"), "gpuvm teardown", refuse):
            pass
    assert file.exists()


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "locks").write_text("")
    with (
        pytest.raises(BadInput, match="cannot lock"),
        locks.held(tmp_path / "locks" / "a", "gpuvm", refuse),
    ):
        pass
