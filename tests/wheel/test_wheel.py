"""The wheel: in a new environment, outside the checkout, it runs the whole demo."""

import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SMALL = ("--scenes", "192", "--encoder-steps", "6", "--steps", "12", "--batch-size", "48")

pytestmark = pytest.mark.wheel


def test_an_installed_wheel_does_the_demo(tmp_path: Path) -> None:
    _run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "-o", tmp_path, ROOT)
    (wheel,) = tmp_path.glob("*.whl")
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    _run(python, "-m", "pip", "install", "-q", "--require-hashes", "-r", _locked())
    _run(python, "-m", "pip", "install", "-q", "--no-deps", wheel)
    home = tmp_path / "home"
    home.mkdir()
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "GPUVM_CACHE_DIR": os.environ["GPUVM_CACHE_DIR"],
    }
    done = subprocess.run(
        [tmp_path / "venv" / "bin" / "gpuvm", "demo", "--", *SMALL],
        cwd=home,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert list(home.glob("runs/captioning-*/report.html"))
    assert "4 of 4 VMs removed" in done.stdout
    assert "lab 'lab' is down" in done.stdout


def _locked() -> Path:
    return ROOT / "requirements" / "dev.txt"


def _run(*command: object) -> None:
    subprocess.run([str(part) for part in command], check=True, cwd=ROOT)
