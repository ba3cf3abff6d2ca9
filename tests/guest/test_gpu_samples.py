"""How GPUs are used is sampled in the guest during a run, and no longer, however the run ends."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ssh_servers import new_mark

from gpuvm import guest
from gpuvm.guest import Exited, Process
from gpuvm.guest.processes import GPU_SAMPLES, STDOUT
from gpuvm.guest.scripts import gpu_samples

Machine = Any  # tests/support/ssh_servers.py
WaitFor = Callable[..., None]

BUSY = "0, GPU-1, 97, 15342, 181.40"
ANSWERS = 'echo $$ > "$HOME/smi.pid"; while :; do echo "{}"; sleep 0.02; done'


@pytest.fixture
def sampler(machine: Machine) -> Iterator[subprocess.Popen[bytes]]:
    """The program by itself, as somebody runs it by hand."""
    machine.program("nvidia-smi", ANSWERS.format(BUSY))
    process = subprocess.Popen(
        [sys.executable, gpu_samples.__file__, "--out", machine.home / "samples", "--while-stdin"],
        env={"PATH": f"{machine.home / 'bin'}:{os.environ['PATH']}", "HOME": str(machine.home)},
        stdin=subprocess.PIPE,
    )
    yield process
    process.kill()
    process.communicate()


def recorded(file: Path) -> list[dict[str, Any]]:
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    return [json.loads(line) for line in lines]


def lives(machine: Machine) -> bool:
    """Whether nvidia-smi runs."""
    return Path(f"/proc/{(machine.home / 'smi.pid').read_text().strip()}").exists()


@pytest.mark.parametrize("how", ["end of input", signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_it_ends_with_its_nvidia_smi(
    machine: Machine, sampler: subprocess.Popen[bytes], wait_for: WaitFor, how: Any
) -> None:
    wait_for(lambda: len(recorded(machine.home / "samples")) > 2, "it has written")
    if how == "end of input":
        assert sampler.stdin is not None
        sampler.stdin.close()
    else:
        sampler.send_signal(how)
    assert sampler.wait(20) == (-signal.SIGKILL if how is signal.SIGKILL else 0)
    wait_for(lambda: not lives(machine), "nvidia-smi has ended")
    first, second = recorded(machine.home / "samples")[:2]
    assert 0 <= second["t"] - first.pop("t") < 60
    assert first == {
        "gpu": 0,
        "uuid": "GPU-1",
        "utilization": 97.0,
        "memory_mib": 15342.0,
        "power_w": 181.4,
        "interval_s": 2.0,
    }


@pytest.mark.parametrize(
    ("line", "values"),
    [
        ("1, GPU-2, 0, 4, [N/A]", (0.0, 4.0, None)),
        ("1, GPU-2, [N/A], [Not Supported], [Unknown Error]", (None, None, None)),
        ("1, GPU-2, 3, 4, nan", (3.0, 4.0, None)),
    ],
)
def test_what_the_driver_does_not_report_is_null(line: str, values: tuple[Any, ...]) -> None:
    found = gpu_samples.sample(line)
    assert found is not None
    assert (found["utilization"], found["memory_mib"], found["power_w"]) == values


@pytest.mark.parametrize("line", ["", "No devices were found", "GPU 0, is, lost, x, y"])
def test_errors_are_no_samples(line: str) -> None:
    assert gpu_samples.sample(line) is None


def test_a_long_run_is_sampled_more_and_more_rarely() -> None:
    weeks = gpu_samples.samples((BUSY for _ in range(gpu_samples.SAMPLES * 31)), 2.0)
    kept = [one["interval_s"] for one in weeks]
    assert sorted(set(kept)) == [2.0, 4.0, 8.0, 16.0, 32.0]
    assert kept == sorted(kept)
    assert len(kept) <= 5 * gpu_samples.SAMPLES + 1


def launch(machine: Machine, source: str) -> Path:
    with guest.connect(machine.endpoint) as one:
        process = Process("runs/one", ["python3", "-c", source], new_mark(), {})
        assert guest.launch(one, "python3", process) == guest.Launched()
    return Path(machine.home) / "runs/one"


def ending(machine: Machine) -> Exited:
    with guest.connect(machine.endpoint) as one:
        *_, last = guest.follow(one, "python3", "runs/one", {STDOUT: 0})
    assert isinstance(last, Exited)
    return last


WAITS = "import pathlib, time\nwhile not pathlib.Path('go').exists(): time.sleep(0.02)"


def test_a_run_leaves_samples_and_no_process(machine: Machine, wait_for: WaitFor) -> None:
    machine.program("nvidia-smi", ANSWERS.format(BUSY))
    folder = launch(machine, WAITS)
    wait_for(lambda: recorded(folder / GPU_SAMPLES), "it is sampled")
    (folder / "go").touch()
    assert ending(machine).exit_status == 0
    assert not lives(machine), "it ends before the run counts as ended"
    assert {one["utilization"] for one in recorded(folder / GPU_SAMPLES)} == {97.0}


def test_sampling_ends_with_a_killed_supervisor(machine: Machine, wait_for: WaitFor) -> None:
    machine.program("nvidia-smi", ANSWERS.format(BUSY))
    folder = launch(machine, "import os\nprint(os.getppid(), flush=True)\n" + WAITS)
    wait_for(lambda: recorded(folder / GPU_SAMPLES), "it is sampled")
    wait_for((folder / STDOUT).read_text, "it has started")
    os.kill(int((folder / STDOUT).read_text()), signal.SIGKILL)
    wait_for(lambda: not lives(machine), "nvidia-smi has ended")
    (folder / "go").touch()
    assert ending(machine).exit_status is None


@pytest.mark.parametrize("smi", [None, "echo 'No devices were found'; exit 6"])
def test_nothing_is_sampled_without_a_gpu(machine: Machine, smi: str | None) -> None:
    if smi is not None:
        machine.program("nvidia-smi", smi)
    folder = launch(machine, "print('done')")
    assert ending(machine).exit_status == 0
    assert not (folder / GPU_SAMPLES).exists()


def test_samples_of_an_earlier_start_are_removed(machine: Machine) -> None:
    old = Path(machine.home) / "runs/one" / GPU_SAMPLES
    old.parent.mkdir(parents=True)
    old.write_text("old\n")
    launch(machine, "print('done')")
    ending(machine)
    assert not old.exists()
