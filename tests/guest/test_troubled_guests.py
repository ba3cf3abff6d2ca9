"""Problems inside guests, each simulated by the lab, and how they are reported."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from guest_fixtures import powered_on

from gpuvm import guest
from gpuvm.errors import NotReady
from gpuvm.events import Events
from gpuvm.guest import Endpoint, Expected
from gpuvm.guest.machine import Problem, find_problems
from gpuvm.guest.readiness import GPUS, SSH_ANSWERS, SYSTEM
from gpuvm.lab import hypervisor
from gpuvm.lab.guest.boot import TROUBLES, SimulatedGPU
from gpuvm.settings import Context, GuestSettings

ADDRESS = "127.91.0.7"
P100 = (0x10DE, 0x15F8)
CARD = SimulatedGPU("Tesla P100-PCIE-16GB", "GPU-1", "00000000:0B:00.0", *P100, 16384, "6.0")
Start = Callable[..., Endpoint]


@pytest.fixture
def start(tmp_path: Path, context: Context) -> Iterator[Start]:
    """A guest of the lab with these troubles."""
    isolation = hypervisor.find_isolation(tmp_path)
    if not isolation.isolated:
        pytest.skip(f"no namespaces here: {isolation.reason}")
    with ExitStack() as cleanup:

        def power_on(*wrong: str) -> Endpoint:
            info = {TROUBLES: ", ".join(wrong)}
            made = powered_on(tmp_path, context, ADDRESS, isolation, (CARD,), info)
            return cleanup.enter_context(made).endpoint(context)

        yield power_on


def refused(endpoint: Endpoint, deadline_s: float = 60) -> NotReady:
    with pytest.raises(NotReady) as caught:
        guest.wait_ready(lambda: endpoint, Expected((P100,), GuestSettings()), deadline_s, Events())
    return caught.value


@pytest.mark.parametrize(
    ("wrong", "seen", "remedy"),
    [
        (
            "nvml-mismatch",
            (
                "nvidia-smi ended with status 18: Failed to initialize NVML: Driver/library "
                "version mismatch"
            ),
            "'gpuvm stop gpuvm-01' and 'gpuvm start gpuvm-01' load the new one",
        ),
        ("nouveau", "the driver nouveau is loaded instead of NVIDIA's", "blacklist nouveau"),
        (
            "gpu-lost",
            (
                "nvidia-smi ended with status 15: Unable to determine the device handle for "
                "GPU0000:0B:00.0: GPU is lost.  Reboot the system to recover this GPU"
            ),
            "'gpuvm stop gpuvm-01' and 'gpuvm start gpuvm-01' reset it",
        ),
    ],
)
def test_driver_failure_is_reported_at_once(
    start: Start, wrong: str, seen: str, remedy: str
) -> None:
    error = refused(start(wrong), deadline_s=1000)
    assert (error.requirement, error.seen) == (GPUS.name, seen)
    assert remedy in str(error.hint)


def test_full_home_directory_is_not_ready(start: Start) -> None:
    error = refused(start("home-full"), deadline_s=1000)
    assert (error.requirement, error.seen) == (SYSTEM.name, "its home /home/gpuvm has 0 MiB free")
    assert "guest.work_dir" in str(error.hint)


def test_an_sshd_that_drops_connections(start: Start) -> None:
    error = refused(start("startups"), deadline_s=1)
    assert error.requirement == SSH_ANSWERS
    assert "the port is open, but no SSH answer" in error.seen
    assert "MaxStartups" in str(error.hint)


@pytest.mark.parametrize(
    ("wrong", "seen", "remedy"),
    [
        ("tmp-noexec", "/tmp is mounted noexec", "mount -o remount,exec /tmp"),  # noqa: S108
        ("home-noexec", "/home/gpuvm is mounted noexec", "mount -o remount,exec /home/gpuvm"),
        ("clock", "its clock is 24.0 h ahead of this machine's", "chronyd"),
        ("requiretty", "sudo requires a terminal", "Defaults:USER !requiretty"),
    ],
)
def test_optional_requirement_is_a_warning(
    start: Start, wrong: str, seen: str, remedy: str
) -> None:
    (found,) = found_in(start(wrong))
    assert found.seen.startswith(seen)
    assert remedy in found.hint
    assert not found.blocking


def test_healthy_guest_has_no_problems(start: Start) -> None:
    endpoint = start()
    assert found_in(endpoint) == ()
    with guest.connect(endpoint) as shell:
        assert shell.run("ls -A /tmp ~", timeout_s=20).stdout.count(".gpuvm-") == 0


def test_several_at_once(start: Start) -> None:
    found = found_in(start("tmp-noexec", "clock", "home-full"))
    assert sorted(one.blocking for one in found) == [False, False, True]


def found_in(endpoint: Endpoint) -> tuple[Problem, ...]:
    with guest.connect(endpoint) as shell:
        return find_problems(shell, 30)
