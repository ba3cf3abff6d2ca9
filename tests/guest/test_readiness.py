"""The list of requirements: which are met, how others are reported, and which are waited for."""

import json
import sys
from dataclasses import replace
from typing import Any

import pytest

from gpuvm import guest
from gpuvm.errors import GuestAuthRefused, HostKeyMismatch, NotReady
from gpuvm.events import Event, Events
from gpuvm.guest import Expected, Ready, readiness
from gpuvm.guest.readiness import GPUS, SSH_ANSWERS, SYSTEM, TENSORFLOW_CPU, TENSORFLOW_GPU
from gpuvm.settings import GuestSettings

Guests = Any  # tests/support/ssh_servers.py
Machine = Any

P100 = (0x10DE, 0x15F8)
P100_ROW = "0x15F810DE, Tesla P100-PCIE-16GB"


def tensorflow(machine: Machine, device: str, problem: str | None = None) -> GuestSettings:
    """A Python in the guest whose TensorFlow answers so."""
    event_log = {"tensorflow": "2.21.0", "device": device, "problem": problem}
    machine.program("tf", f"echo 'noise from a library'; echo '{json.dumps(event_log)}'")
    return GuestSettings(python="tf")


def not_ready(machine: Machine, expected: Expected, events: Events, deadline_s: float) -> NotReady:
    with pytest.raises(NotReady) as e:
        guest.wait_ready(lambda: machine.endpoint, expected, deadline_s, events)
    assert e.value.guest == machine.name
    return e.value


def test_all_met(machine: Machine, event_log: Any, events: Events) -> None:
    machine.nvidia_smi(P100_ROW, P100_ROW)
    expected = Expected((P100, P100), tensorflow(machine, "GPU:0"))
    ready = guest.wait_ready(lambda: machine.endpoint, expected, 60, events)
    assert ready == Ready(
        (), simulated=False, gpu_names=("Tesla P100-PCIE-16GB",) * 2, address=machine.address
    )
    assert event_log.texts("progress") == [
        f"requirement 1 of 4: {SSH_ANSWERS}",
        f"requirement 2 of 4: {SYSTEM.name}",
        f"requirement 3 of 4: {GPUS.name}",
        f"requirement 4 of 4: {TENSORFLOW_GPU.name}",
    ]


def test_simulated_gpus_are_recognised_by_name_or_banner(machine: Machine, events: Events) -> None:
    expected = Expected((P100,), tensorflow(machine, "GPU:0"))
    machine.nvidia_smi(f"{P100_ROW} (simulated)")
    assert guest.wait_ready(lambda: machine.endpoint, expected, 60, events).simulated
    banner = "NVIDIA-SMI (simulated)"
    machine.program("nvidia-smi", f'[ "$1" ] && echo "{P100_ROW}" || echo "{banner}"')
    assert guest.wait_ready(lambda: machine.endpoint, expected, 60, events).simulated
    with guest.connect(machine.endpoint) as one:
        assert guest.query_gpus(one) == Ready((), True, ("Tesla P100-PCIE-16GB",))


def test_other_gpus_than_planned_are_reported_at_once(machine: Machine, events: Events) -> None:
    machine.nvidia_smi("0x1DB610DE, Tesla V100-PCIE-32GB")
    error = not_ready(machine, Expected((P100,), GuestSettings()), events, 1000)
    assert error.requirement == GPUS.name
    assert error.seen == "expected 10de:15f8, the guest has 10de:1db6"
    assert "MMIO" in str(error.hint)


def test_missing_driver_is_reported_at_once(machine: Machine, events: Events) -> None:
    error = not_ready(machine, Expected((P100,), GuestSettings()), events, 1000)
    assert error.seen == "nvidia-smi not found: no NVIDIA driver is installed"


def test_fewer_gpus_than_planned_at_the_deadline(machine: Machine, events: Events) -> None:
    machine.nvidia_smi(P100_ROW)
    error = not_ready(machine, Expected((P100, P100), GuestSettings()), events, 0.5)
    assert error.seen == "expected 10de:15f8, 10de:15f8, the guest has 10de:15f8"


def test_driver_failure_at_the_deadline_is_reported(machine: Machine, events: Events) -> None:
    machine.program("nvidia-smi", "echo 'No devices were found'; exit 6")
    error = not_ready(machine, Expected((P100,), GuestSettings()), events, 0.5)
    assert error.seen == "nvidia-smi ended with status 6: No devices were found"
    machine.program("nvidia-smi", "echo 'a new format'")
    error = not_ready(machine, Expected((P100,), GuestSettings()), events, 0.5)
    assert error.seen == "nvidia-smi answers with 'a new format'"


def test_a_driver_that_loads_late_is_waited_for(machine: Machine, events: Events) -> None:
    later = f"[ -e looked ] && echo '{P100_ROW}' && exit; touch looked; exit 9"
    machine.program("nvidia-smi", later)
    expected = Expected((P100,), tensorflow(machine, "GPU:0"))
    assert guest.wait_ready(lambda: machine.endpoint, expected, 60, events).gpu_names


def test_tensorflow_without_the_gpu(machine: Machine, events: Events) -> None:
    machine.nvidia_smi(P100_ROW)
    require = tensorflow(machine, "CPU:0", "TensorFlow 2.21.0 sees no GPU")
    error = not_ready(machine, Expected((P100,), require), events, 60)
    assert error.requirement == "tensorflow-uses-gpu"
    assert error.seen == "TensorFlow 2.21.0 used CPU:0: TensorFlow 2.21.0 sees no GPU"
    assert "cuDNN" in str(error.hint)
    warn = require.model_copy(update={"tensorflow_gpu": "warn"})
    ready = guest.wait_ready(lambda: machine.endpoint, Expected((P100,), warn), 60, events)
    assert ready.warnings == (f"tensorflow-uses-gpu: {error.seen}",)


@pytest.mark.parametrize(
    ("problem", "hint"),
    [
        (
            "sees no GPU: the driver reports CUDA error 802, system not yet initialized",
            "NVSwitches",
        ),
        ("failed call to cuInit: CUDA_ERROR_SYSTEM_NOT_READY", "NVSwitches"),
        ("sees no GPU: the driver library cannot be loaded (libcuda.so.1: no such)", "libraries"),
        ("sees no GPU: the driver has 1", "cuDNN"),
    ],
)
def test_the_drivers_own_reasons_have_hints_of_their_own(
    machine: Machine, events: Events, problem: str, hint: str
) -> None:
    machine.nvidia_smi(P100_ROW)
    require = tensorflow(machine, "CPU:0", problem)
    error = not_ready(machine, Expected((P100,), require), events, 60)
    assert problem in error.seen
    assert hint in str(error.hint)


def test_no_tensorflow_is_not_ready_even_with_warn(machine: Machine, events: Events) -> None:
    machine.nvidia_smi(P100_ROW)
    machine.program("tf", "echo 'ModuleNotFoundError: No module named tensorflow' >&2; exit 1")
    warn = GuestSettings(python="tf", tensorflow_gpu="warn")
    error = not_ready(machine, Expected((P100,), warn), events, 60)
    assert error.requirement == "tensorflow-uses-gpu"
    assert "tf ended with status 1: ModuleNotFoundError" in error.seen


def test_a_vm_without_gpu_needs_tensorflow_only(
    machine: Machine, event_log: Any, events: Events
) -> None:
    settings = tensorflow(machine, "CPU:0")
    assert guest.wait_ready(lambda: machine.endpoint, Expected((), settings), 60, events) == Ready(
        address=machine.address
    )
    assert event_log.texts("progress")[-1] == f"requirement 3 of 3: {TENSORFLOW_CPU.name}"
    missing = GuestSettings(python="/opt/none/python")
    error = not_ready(machine, Expected((), missing), events, 60)
    assert error.seen == "/opt/none/python not found"
    assert "guest.python" in str(error.hint)


def test_a_requirement_that_hangs_ends_at_the_deadline(machine: Machine, events: Events) -> None:
    machine.nvidia_smi(P100_ROW)
    machine.program("tf", "exec sleep 1000")
    error = not_ready(machine, Expected((P100,), GuestSettings(python="tf")), events, 2)
    assert error.requirement == "tensorflow-uses-gpu"
    assert "timed out after" in error.seen


def test_no_ssh(guests: Guests, machine: Machine, events: Events) -> None:
    guests.stop(machine)
    error = not_ready(machine, Expected((), GuestSettings()), events, 0.2)
    assert error.requirement == SSH_ANSWERS
    assert "connection refused" in error.seen
    assert "console" in str(error.hint)


def test_why_ssh_does_not_answer_is_told_while_waiting(
    guests: Guests, machine: Machine, event_log: Any, events: Events, monkeypatch: Any
) -> None:
    monkeypatch.setattr(readiness, "REPORT_AFTER_S", 0.1)
    monkeypatch.setattr(readiness, "LOCATE_EVERY_S", 0.1)
    guests.stop(machine)
    not_ready(machine, Expected((), GuestSettings()), events, 0.5)
    (told,) = event_log.texts("note")
    assert "still waiting" in told
    assert "connection refused" in told


def test_wrong_host_key_and_refused_login_fail_without_waiting(
    machine: Machine, events: Events
) -> None:
    expected = Expected((), GuestSettings())
    unpublished = replace(machine.endpoint, host_keys=())
    with pytest.raises(HostKeyMismatch):
        guest.wait_ready(lambda: unpublished, expected, 1000, events)
    (machine.home / ".ssh/authorized_keys").write_text(machine.host_keys[0])  # no user's key
    with pytest.raises(GuestAuthRefused):
        guest.wait_ready(lambda: machine.endpoint, expected, 1000, events)


def test_broken_connection_is_reopened(machine: Machine) -> None:
    """As when cloud-init restarts sshd at the first boot."""
    machine.nvidia_smi(P100_ROW)
    expected = Expected((P100,), tensorflow(machine, "GPU:0"))
    message: list[str] = []

    def cut_once(event: Event) -> None:
        if event.text and TENSORFLOW_GPU.name in event.text and not message:
            message.append(event.text)
            machine.cut()

    ready = guest.wait_ready(lambda: machine.endpoint, expected, 60, Events(cut_once))
    assert ready.gpu_names == ("Tesla P100-PCIE-16GB",)
    assert machine.logins == 2


@pytest.mark.tensorflow
def test_real_tensorflow_without_a_gpu(machine: Machine, events: Events) -> None:
    """The program that runs in the guest, with the TensorFlow of this environment."""
    machine.nvidia_smi(P100_ROW)
    warn = GuestSettings(python=sys.executable, tensorflow_gpu="warn")
    ready = guest.wait_ready(lambda: machine.endpoint, Expected((P100,), warn), 300, events)
    assert len(ready.warnings) == 1
    assert "used CPU:0: TensorFlow 2." in ready.warnings[0]
    assert "sees no GPU: the driver" in ready.warnings[0]
