"""Whether a guest is ready: a list of named requirements with hints, under one deadline.

To check something else, add a :class:`Requirement` to ``_requirements``.
"""

import json
import re
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from gpuvm.errors import GuestError, GuestUnreachable, NotReady
from gpuvm.events import Events
from gpuvm.guest import scripts
from gpuvm.guest.connection import Endpoint
from gpuvm.guest.machine import find_problems
from gpuvm.guest.ssh import CommandResult, Guest, connect
from gpuvm.settings import GuestSettings
from gpuvm.text import typed_word

RETRY_S = 1.0
REPORT_AFTER_S = 3.0
"""A guest that boots refuses connections for a moment; after that the reason is shown."""
LOCATE_EVERY_S = 10.0
"""How often the address is looked up again while SSH does not answer."""
NO_SUCH_PROGRAM = 127


@dataclass(frozen=True)
class Expected:
    """``gpus`` are the (vendor id, device id) of the planned GPUs."""

    gpus: tuple[tuple[int, int], ...]
    settings: GuestSettings


@dataclass(frozen=True)
class Ready:
    """``simulated`` is whether the guest's nvidia-smi says so."""

    warnings: tuple[str, ...] = ()
    simulated: bool = False
    gpu_names: tuple[str, ...] = ()
    address: str = ""
    """The address at which SSH answered."""


@dataclass(frozen=True)
class NotMet:
    """``seen`` is the actual state. ``retryable``: it may change, as a driver loads after sshd."""

    seen: str
    retryable: bool = False
    hint: str | None = None
    """Replaces the requirement's hint."""


@dataclass
class _Waiting:
    """The state of ``wait_ready``; ``end`` is the deadline on the monotonic clock."""

    where: Callable[[], Endpoint]
    answered: Callable[[], None]
    expected: Expected
    events: Events
    end: float
    met: int = 0
    warnings: list[str] = field(default_factory=list)
    simulated: bool = False
    gpu_names: tuple[str, ...] = ()
    address: str = ""
    reported: str = ""
    """Why SSH does not answer, as it was last told."""

    def left(self, at_most: float) -> float:
        return max(1.0, min(at_most, self.end - time.monotonic()))


@dataclass(frozen=True)
class Requirement:
    """``check`` returns None when the requirement is met."""

    name: str
    hint: str
    check: Callable[[Guest, _Waiting], NotMet | None]


SSH_ANSWERS = "SSH answers with the pinned host key"


def wait_ready(
    where: Callable[[], Endpoint],
    expected: Expected,
    deadline_s: float,
    events: Events,
    *,
    answered: Callable[[], None] = lambda: None,
) -> Ready:
    """Checks one requirement after another; reconnects when the connection is lost.

    ``where`` is called again every few attempts, since an address may change until SSH answers;
    ``answered`` is called when it does. Raises NotReady, which names the requirement that was not
    met in time and the actual state; HostKeyMismatch and GuestAuthRefused at once.
    """
    waiting = _Waiting(where, answered, expected, events, time.monotonic() + deadline_s)
    requirements = _requirements(expected)
    while waiting.met < len(requirements):
        with _connected(waiting, len(requirements)) as guest:
            waiting.address = guest.endpoint.address
            try:
                for requirement in requirements[waiting.met :]:
                    _announce(waiting, requirement.name, waiting.met + 1, len(requirements))
                    _wait_for(requirement, guest, waiting)
                    waiting.met += 1
            except GuestUnreachable as error:
                if time.monotonic() > waiting.end:
                    raise _no_ssh(guest.endpoint, error) from None
                events.note(str(error), guest.name)
    return Ready(tuple(waiting.warnings), waiting.simulated, waiting.gpu_names, waiting.address)


def query_gpus(guest: Guest) -> Ready:
    """Reads nvidia-smi of a running guest once, without waiting."""
    done = _nvidia_smi(guest, 60)
    if done.exit_status != 0:
        return Ready()
    return Ready(simulated=_simulated(guest, done), gpu_names=tuple(n for _, n in _rows(done)))


def _requirements(expected: Expected) -> Sequence[Requirement]:
    return (SYSTEM, GPUS, TENSORFLOW_GPU) if expected.gpus else (SYSTEM, TENSORFLOW_CPU)


def _connected(waiting: _Waiting, count: int) -> Guest:
    _announce(waiting, SSH_ANSWERS, 0, count)
    while True:
        endpoint = waiting.where()
        within_s = LOCATE_EVERY_S if waiting.reported else REPORT_AFTER_S
        try:
            guest = connect(endpoint, timeout_s=min(within_s, waiting.end - time.monotonic()))
        except GuestUnreachable as error:
            if time.monotonic() >= waiting.end:
                raise _no_ssh(endpoint, error) from None
            if str(error) != waiting.reported:
                waiting.reported = str(error)
                waiting.events.note(f"still waiting: {error}", endpoint.name)
        else:
            waiting.answered()
            return guest


def _announce(waiting: _Waiting, name: str, number: int, count: int) -> None:
    text = f"requirement {number + 1} of {count + 1}: {name}"
    waiting.events.progress(waiting.where().name, "ready", number / (count + 1), text)


def _wait_for(requirement: Requirement, guest: Guest, waiting: _Waiting) -> None:
    """Checks again until the deadline, as long as the result is retryable."""
    while True:
        try:
            unmet = requirement.check(guest, waiting)
        except GuestUnreachable:
            raise
        except GuestError as error:
            unmet = NotMet(str(error))
        if unmet is None:
            return
        if not unmet.retryable or time.monotonic() + RETRY_S > waiting.end:
            hint = unmet.hint or requirement.hint
            raise NotReady(guest.name, requirement.name, unmet.seen, hint=hint)
        time.sleep(RETRY_S)


def _no_ssh(endpoint: Endpoint, error: GuestUnreachable) -> NotReady:
    hint = "check its console (network, sshd, firewall) and ssh.port in the context"
    if "no SSH answer" in str(error):
        hint = (
            "sshd closes the connection at once: too many connections (MaxStartups in sshd_config),"
            " no host keys or a full disk; see its console and log"
        )
    return NotReady(endpoint.name, SSH_ANSWERS, str(error), hint=hint)


def _check_system(guest: Guest, waiting: _Waiting) -> NotMet | None:
    problems = find_problems(guest, waiting.left(60))
    for problem in problems:
        if problem.blocking:
            return NotMet(problem.seen, hint=problem.hint)
    waiting.warnings += [f"{problem.seen}: {problem.hint}" for problem in problems]
    return None


def _check_gpus(guest: Guest, waiting: _Waiting) -> NotMet | None:
    """Compares PCI ids, since names differ between vSphere and the driver."""
    done = _nvidia_smi(guest, waiting.left(60))
    if done.exit_status == NO_SUCH_PROGRAM:
        return NotMet("nvidia-smi not found: no NVIDIA driver is installed")
    if done.exit_status != 0:
        return _driver_failed(guest, done)
    found, wanted = Counter(ids for ids, _ in _rows(done)), Counter(waiting.expected.gpus)
    if found != wanted:
        fewer = found <= wanted  # the others may still be initializing
        return NotMet(f"expected {_ids_text(wanted)}, the guest has {_ids_text(found)}", fewer)
    waiting.gpu_names = tuple(name for _, name in _rows(done))
    waiting.simulated = _simulated(guest, done)
    return None


def _driver_failed(guest: Guest, done: CommandResult) -> NotMet:
    """Retryable if the driver may still be loading."""
    status = f"nvidia-smi ended with status {done.exit_status}"
    for line in (done.stdout + done.stderr).splitlines():
        hint = next((hint for sign, hint in _FAILURES if re.search(sign, line)), None)
        if hint is not None:
            return NotMet(f"{status}: {line.strip()}", hint=hint.format(typed_word(guest.name)))
    loaded = guest.run("lsmod || cat /proc/modules", timeout_s=60, check=False, what="lsmod")
    if re.search(r"^nouveau\s", loaded.stdout, re.MULTILINE):
        return NotMet("the driver nouveau is loaded instead of NVIDIA's", hint=_NOUVEAU)
    return NotMet(f"{status}: {_last_line(done)}", retryable=True)


def _nvidia_smi(guest: Guest, timeout_s: float) -> CommandResult:
    query = ["nvidia-smi", "--query-gpu=pci.device_id,name", "--format=csv,noheader"]
    return guest.run(query, timeout_s=timeout_s, check=False, what="nvidia-smi")


def _rows(done: CommandResult) -> list[tuple[tuple[int, int], str]]:
    """((vendor id, device id), name) of each GPU; ``0x15F810DE`` is device 15f8 of vendor 10de."""
    rows = []
    for line in done.stdout.splitlines():
        number, _, name = line.partition(",")
        try:
            both = int(number.strip(), 16)
        except ValueError:
            raise GuestError(f"nvidia-smi answers with '{line.strip()}'") from None
        rows.append(((both & 0xFFFF, both >> 16), name.strip()))
    return rows


def _simulated(guest: Guest, listed: CommandResult) -> bool:
    """By the GPU names, or by the banner if the names are those of real GPUs."""
    if "simulated" in listed.stdout.lower():
        return True
    banner = guest.run(["nvidia-smi"], timeout_s=60, check=False, what="nvidia-smi")
    return "simulated" in banner.stdout.lower()


def _ids_text(ids: Counter[tuple[int, int]]) -> str:
    found = sorted(ids.elements())
    return ", ".join(f"{vendor:04x}:{device:04x}" for vendor, device in found) or "no GPU"


def _check_tensorflow_gpu(guest: Guest, waiting: _Waiting) -> NotMet | None:
    result, unmet = _compute(guest, waiting, "GPU")
    if unmet or result["problem"] is None:
        return unmet
    seen = f"TensorFlow {result['tensorflow']} used {result['device']}: {result['problem']}"
    if waiting.expected.settings.tensorflow_gpu == "warn":
        waiting.warnings.append(f"tensorflow-uses-gpu: {seen}")
        return None
    return NotMet(seen, hint=_hint(seen))


def _hint(seen: str) -> str | None:
    """The hint for causes outside TensorFlow."""
    return next((hint for sign, hint in _DRIVER_HINTS if re.search(sign, seen)), None)


def _check_tensorflow_cpu(guest: Guest, waiting: _Waiting) -> NotMet | None:
    return _compute(guest, waiting, "CPU")[1]


def _compute(guest: Guest, waiting: _Waiting, kind: str) -> tuple[dict[str, str], NotMet | None]:
    """The output of check_tensorflow.py, or why it failed."""
    python = waiting.expected.settings.python
    command = scripts.command(python, "check_tensorflow", kind)
    done = guest.run(command, timeout_s=waiting.left(600), check=False, what="TensorFlow's matmul")
    if done.exit_status == NO_SUCH_PROGRAM:
        return {}, NotMet(f"{python} not found")
    if done.exit_status != 0:
        return {}, NotMet(f"{python} ended with status {done.exit_status}: {_last_line(done)}")
    return json.loads(done.stdout.splitlines()[-1]), None


def _last_line(done: CommandResult) -> str:
    lines = (done.stdout + done.stderr).strip().splitlines()
    return lines[-1] if lines else "no message"


_DRIVER_HINTS = (
    (
        r"\b802\b|SYSTEM_NOT_READY|SystemNotReady|system not yet initialized",
        (
            "GPUs of an HGX board need its NVSwitches and the fabric manager: give the VM one GPU, "
            "or a vendor device group (docs/accelerators.md)"
        ),
    ),
    (r"libcuda", "the NVIDIA driver's libraries are missing in the template (docs/template.md)"),
)
"""By the output of check_tensorflow.py."""

_FAILURES = (
    (
        "[Dd]river/library version mismatch",
        (
            "the driver was updated but the old module is loaded: 'gpuvm stop {0}' and "
            "'gpuvm start {0}' load the new one; disable automatic driver updates in the VM "
            "template"
        ),
    ),
    (
        "GPU is lost|fallen off the bus|Unable to determine the device handle",
        (
            "the GPU no longer responds (Xid 79): 'gpuvm stop {0}' and 'gpuvm start {0}' reset it; "
            "if it happens again, check its power, temperature and slot on the host"
        ),
    ),
)
"""By NVML's error texts, which nvidia-smi prints; {0} is the VM's name."""
_NOUVEAU = (
    "in the VM template: blacklist nouveau in /etc/modprobe.d, rebuild the initramfs (sudo dracut "
    "--force), reboot (docs/template.md)"
)

SYSTEM = Requirement(
    "the guest has disk space and can run programs",
    "the commands sh, date, df, awk and mktemp must work for the user of the context",
    _check_system,
)
GPUS = Requirement(
    "the guest's GPUs match the plan",
    "check that the NVIDIA driver is loaded (dmesg | grep -i nvidia) and that the 64-bit MMIO "
    "window is large enough",
    _check_gpus,
)
TENSORFLOW_GPU = Requirement(
    "tensorflow-uses-gpu",
    "TensorFlow, CUDA and cuDNN must support this GPU (docs/template.md); 'guest: {tensorflow_gpu: "
    "warn}' in the context makes this a warning",
    _check_tensorflow_gpu,
)
TENSORFLOW_CPU = Requirement(
    "tensorflow-computes",
    "guest.python in the context must be a Python that has TensorFlow (docs/template.md)",
    _check_tensorflow_cpu,
)
