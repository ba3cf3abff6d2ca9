"""The lab's nvidia-smi shows a load while a program computes that sees the GPUs, and only then."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gpuvm.lab.guest.boot import SimulatedGPU
from gpuvm.lab.guest.root import write_programs

QUERY = "--query-gpu=index,utilization.gpu,memory.used,power.draw"
PLAIN = "--format=csv,noheader,nounits"
# Computes, with a library mapped whose name is that of TensorFlow's.
COMPUTES = """
import mmap, sys
with open(sys.argv[1], "r+b") as file:
    library = mmap.mmap(file.fileno(), 0)
print("ready", flush=True)
while True:
    pass
"""


def gpu(name: str) -> SimulatedGPU:
    return SimulatedGPU(name, f"GPU-{name}", "00000000:0B:00.0", 0x10DE, 0x15F8, 16384, "6.0")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Of a guest with a GPU and a vGPU."""
    write_programs(tmp_path, [gpu("Tesla P100-PCIE-16GB"), gpu("GRID P100-4Q")])
    return tmp_path


def smi(home: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [str(home / "bin/nvidia-smi"), QUERY, PLAIN, *arguments]
    environment = {"HOME": str(home), "PATH": "/usr/bin:/bin"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


def rows(home: Path) -> list[list[str]]:
    out, _ = smi(home).communicate()
    return [line.split(", ") for line in out.splitlines()]


@contextmanager
def computing(home: Path, **environment: str) -> Iterator[None]:
    library = home / "libtensorflow_cc.so"
    library.write_bytes(bytes(4096))
    process = subprocess.Popen(
        [sys.executable, "-c", COMPUTES, library],
        env={"HOME": str(home), **environment},
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    process.stdout.readline()
    try:
        yield
    finally:
        process.kill()
        process.communicate()


def test_idle_gpus_and_a_vgpu_without_power(home: Path) -> None:
    assert rows(home) == [["0", "0", "0", "30.00"], ["1", "0", "0", "[N/A]"]]


def test_load_while_a_program_computes(home: Path) -> None:
    with computing(home), smi(home, "--loop-ms=10") as process:
        assert process.stdout is not None
        answers = (line.strip().split(", ") for line in process.stdout)
        gpu, used, memory, power = next(row for row in answers if row[1] != "0")
        process.kill()
    assert 0 < int(used) <= 100
    assert 0 < int(memory) < 16384
    assert power == "[N/A]" if gpu == "1" else 30 < float(power) <= 250
    assert rows(home)[0][1:] == ["0", "0", "30.00"]


def test_no_load_of_programs_that_do_not_see_the_gpus(home: Path, tmp_path: Path) -> None:
    with computing(home, CUDA_VISIBLE_DEVICES="-1"):
        assert rows(home)[0][1:] == ["0", "0", "30.00"]
    (tmp_path / "other").mkdir()
    with computing(tmp_path / "other"):
        assert rows(home)[0][1:] == ["0", "0", "30.00"], "it is another guest's"


def test_it_repeats_its_answer_until_nobody_reads(home: Path) -> None:
    with smi(home, "--loop-ms=10") as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(6)]
        process.stdout.close()
        assert process.wait(30) == 1
    assert lines == ["0, 0, 0, 30.00\n", "1, 0, 0, [N/A]\n"] * 3
