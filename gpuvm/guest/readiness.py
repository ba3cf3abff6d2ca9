"""When a guest is ready: a list of named requirements with hints, under one deadline.

A new thing to check is one more :class:`Requirement` in ``_requirements``.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from gpuvm.errors import GuestUnreachable, NotReady
from gpuvm.events import Events
from gpuvm.guest.ssh import Endpoint, Finished, Guest, connect
from gpuvm.settings import GuestSettings

RETRY_S = 1.0


@dataclass(frozen=True)
class Expected:
    """``gpus`` are (vendor id, device id) of each GPU that the plan promised; none for no GPU."""

    gpus: tuple[tuple[int, int], ...]
    settings: GuestSettings


@dataclass(frozen=True)
class Ready:
    """``simulated`` is what the guest's nvidia-smi says of itself."""

    warnings: tuple[str, ...] = ()
    simulated: bool = False
    gpu_names: tuple[str, ...] = ()


@dataclass
class _Seen:
    warnings: list[str] = field(default_factory=list)
    simulated: bool = False
    gpu_names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Requirement:
    """``check`` returns None when it is met, else what was seen instead.

    ``transient`` ones are tried again until the deadline: a driver loads some time after sshd.
    """

    name: str
    hint: str
    check: Callable[[Guest, Expected, _Seen, float], str | None]
    transient: bool = False


def wait_ready(endpoint: Endpoint, expected: Expected, deadline_s: float, events: Events) -> Ready:
    """Raises NotReady naming the requirement that was not met, and connect()'s errors."""
    end = time.monotonic() + deadline_s
    seen = _Seen()
    events.progress(endpoint.name, "ready", 0.0, "SSH answers with the pinned host key")
    try:
        guest = connect(endpoint, timeout_s=deadline_s)
    except GuestUnreachable as error:
        hint = "look at its console: network, sshd, firewall"
        raise NotReady(endpoint.name, "SSH answers", str(error), hint=hint) from None
    with guest:
        wanted = _requirements(expected)
        for number, requirement in enumerate(wanted, start=1):
            events.progress(guest.name, "ready", number / (len(wanted) + 1), requirement.name)
            _meet(requirement, guest, expected, seen, end)
    return Ready(tuple(seen.warnings), seen.simulated, seen.gpu_names)


def look_at_gpus(guest: Guest) -> Ready:
    """What a running guest's nvidia-smi says, without waiting for anything."""
    seen = _Seen()
    _gpus(guest, Expected((), GuestSettings()), seen, time.monotonic() + 30)
    return Ready(simulated=seen.simulated, gpu_names=seen.gpu_names)


def _requirements(expected: Expected) -> list[Requirement]:
    if not expected.gpus:
        return [_COMPUTES]
    return [_GPUS, _COMPUTES_ON_GPU]


def _meet(
    requirement: Requirement, guest: Guest, expected: Expected, seen: _Seen, end: float
) -> None:
    while True:
        told = requirement.check(guest, expected, seen, end)
        if told is None:
            return
        if not requirement.transient or time.monotonic() + RETRY_S > end:
            raise NotReady(guest.name, requirement.name, told, hint=requirement.hint)
        time.sleep(RETRY_S)


def _gpus(guest: Guest, expected: Expected, seen: _Seen, end: float) -> str | None:
    """Compares PCI ids and their number: the names in vSphere and in the driver differ."""
    query = ["nvidia-smi", "--query-gpu=pci.device_id,name", "--format=csv,noheader"]
    done = guest.run(query, timeout_s=_left(end, 60), check=False)
    if done.exit_status != 0:
        last = (done.stderr + done.stdout).strip().splitlines()[-1:] or ["no message"]
        return f"nvidia-smi ended with status {done.exit_status}: {last[0]}"
    rows = [line.split(",", maxsplit=1) for line in done.stdout.splitlines() if line.strip()]
    found = sorted(_ids(row[0]) for row in rows)
    seen.gpu_names = tuple(row[1].strip() for row in rows if len(row) > 1)
    seen.simulated = "simulated" in (done.stdout + done.stderr).lower() or _says_simulated(guest)
    if found == sorted(expected.gpus):
        return None
    return f"expected {_shown(sorted(expected.gpus))}, the guest has {_shown(found)}"


def _says_simulated(guest: Guest) -> bool:
    told = guest.run(["nvidia-smi"], timeout_s=30, check=False)
    return "simulated" in (told.stdout + told.stderr).lower()


def _ids(pci_device_id: str) -> tuple[int, int]:
    """``0x15F810DE`` is device 15f8 of vendor 10de."""
    try:
        both = int(pci_device_id.strip(), 16)
    except ValueError:
        return (0, 0)
    return both & 0xFFFF, both >> 16


def _shown(ids: list[tuple[int, int]]) -> str:
    return ", ".join(f"{vendor:04x}:{device:04x}" for vendor, device in ids) or "no GPU"


# Status 0: done on the wanted device. 9: there is no GPU, and the matmul was done on the CPU.
_MATMUL = """
import os, sys
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
import tensorflow as tf
wanted = sys.argv[1]
found = wanted if tf.config.list_physical_devices(wanted) else "CPU"
with tf.device(f"/{found}:0"):
    a = tf.random.normal((256, 256)); b = tf.linalg.matmul(a, a)
assert bool(tf.math.is_finite(tf.reduce_sum(b)))
placed = b.device.rsplit("/", 1)[-1]
print(f"TensorFlow {tf.__version__} put the matmul on {placed}")
sys.exit(0 if f"{wanted}:0" in placed else 9)
"""
_ELSEWHERE = 9


def _tensorflow_gpu(guest: Guest, expected: Expected, seen: _Seen, end: float) -> str | None:
    done = _matmul(guest, expected, "GPU", end)
    if done.exit_status == _ELSEWHERE and expected.settings.tensorflow_gpu == "warn":
        seen.warnings.append(f"tensorflow-uses-gpu: {done.stdout.strip()}")
        return None
    return _problem(done)


def _tensorflow(guest: Guest, expected: Expected, seen: _Seen, end: float) -> str | None:
    del seen
    return _problem(_matmul(guest, expected, "CPU", end))


def _matmul(guest: Guest, expected: Expected, device: str, end: float) -> Finished:
    command = [expected.settings.python, "-c", _MATMUL, device]
    return guest.run(command, timeout_s=_left(end, 300), check=False)


def _problem(done: Finished) -> str | None:
    if done.exit_status == 0:
        return None
    last = (done.stderr + done.stdout).strip().splitlines()[-1:] or ["no message"]
    return f"status {done.exit_status}: {last[0]}"


def _left(end: float, most: float) -> float:
    return max(1.0, min(most, end - time.monotonic()))


_GPUS = Requirement(
    "the guest's GPUs are those of the plan",
    "is the NVIDIA driver loaded (dmesg | grep -i nvidia), is 64-bit MMIO large enough?",
    _gpus,
    transient=True,
)
_COMPUTES_ON_GPU = Requirement(
    "tensorflow-uses-gpu",
    "TensorFlow, CUDA and cuDNN must know this GPU (docs/template.md); guest.tensorflow_gpu: warn "
    "goes on without",
    _tensorflow_gpu,
)
_COMPUTES = Requirement(
    "tensorflow-computes",
    "guest.python must name a Python that has TensorFlow (docs/template.md)",
    _tensorflow,
)
