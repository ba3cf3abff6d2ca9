"""Nothing of the operator's own machine is read or written by a test."""

import signal
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def built_once() -> Path:
    """Where built programs are cached: the real cache, so that a second test run builds nothing."""
    from gpuvm import paths

    return paths.cache_dir()


@pytest.fixture(scope="session", autouse=True)
def interrupts_are_heard() -> None:
    """A script's background has SIGINT ignored, and every process inherits that.

    A test that interrupts itself or a command would then wait for ever.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def own_directories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, built_once: Path) -> None:
    monkeypatch.setenv("GPUVM_CACHE_DIR", str(built_once))
    for name in ("CONFIG", "STATE", "RUNS"):
        monkeypatch.setenv(f"GPUVM_{name}_DIR", str(tmp_path / name.lower()))
    for name in ("GPUVM_CONTEXT", "GPUVM_PASSWORD", "GOVC_PASSWORD", "SSH_AUTH_SOCK"):
        monkeypatch.delenv(name, raising=False)
