"""When a guest is ready: a list of named requirements with hints, under one deadline.

A new thing to check is one more :class:`Requirement` in ``_requirements``.
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
from gpuvm.guest.machine import troubles
from gpuvm.guest.ssh import CommandResult, Guest, connect
from gpuvm.settings import GuestSettings

RETRY_S = 1.0
ASK_AGAIN_S = 10.0
"""How long one answer to where a guest is holds while SSH does not answer there."""
NO_SUCH_PROGRAM = 127


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
    address: str = ""
    """The one of its addresses at which SSH answered."""


@dataclass(frozen=True)
class NotMet:
    """What was seen instead. ``retryable``: worth another look, as a driver loads after sshd."""

    seen: str
    retryable: bool = False
    hint: str | None = None
    """Where the reason is known better than the requirement's own hint does."""


@dataclass
class _Waiting:
    """One guest on its way; ``end`` is the deadline on the monotonic clock."""

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

    def left(self, at_most: float) -> float:
        return max(1.0, min(at_most, self.end - time.monotonic()))


@dataclass(frozen=True)
class Requirement:
    """``check`` returns None when it is met."""

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
    """Checks one requirement after the other; a connection that breaks is made again.

    ``where`` is asked before every few attempts, since an address may change until SSH has
    answered; ``answered`` is called when it has. Raises NotReady naming the requirement that was
    not met in time, with what was seen; HostKeyMismatch and GuestAuthRefused at once.
    """
    waiting = _Waiting(where, answered, expected, events, time.monotonic() + deadline_s)
    wanted = _requirements(expected)
    while waiting.met < len(wanted):
        with _connected(waiting, len(wanted)) as guest:
            waiting.address = guest.endpoint.address
            try:
                for requirement in wanted[waiting.met :]:
                    _announce(waiting, requirement.name, waiting.met + 1, len(wanted))
                    _meet(requirement, guest, waiting)
                    waiting.met += 1
            except GuestUnreachable as error:
                if time.monotonic() > waiting.end:
                    raise _no_ssh(guest.endpoint, error) from None
                events.note(str(error), guest.name)
    return Ready(tuple(waiting.warnings), waiting.simulated, waiting.gpu_names, waiting.address)


def query_gpus(guest: Guest) -> Ready:
    """What a running guest's nvidia-smi says, without waiting for anything."""
    done = _nvidia_smi(guest, 60)
    if done.exit_status != 0:
        return Ready()
    return Ready(simulated=_simulated(guest, done), gpu_names=tuple(n for _, n in _rows(done)))


def _requirements(expected: Expected) -> Sequence[Requirement]:
    return (MACHINE, GPUS, USES_GPU) if expected.gpus else (MACHINE, COMPUTES)


def _connected(waiting: _Waiting, wanted: int) -> Guest:
    _announce(waiting, SSH_ANSWERS, 0, wanted)
    while True:
        endpoint = waiting.where()
        try:
            guest = connect(endpoint, timeout_s=min(ASK_AGAIN_S, waiting.end - time.monotonic()))
        except GuestUnreachable as error:
            if time.monotonic() >= waiting.end:
                raise _no_ssh(endpoint, error) from None
        else:
            waiting.answered()
            return guest


def _announce(waiting: _Waiting, name: str, number: int, wanted: int) -> None:
    text = f"requirement {number + 1} of {wanted + 1}: {name}"
    waiting.events.progress(waiting.where().name, "ready", number / (wanted + 1), text)


def _meet(requirement: Requirement, guest: Guest, waiting: _Waiting) -> None:
    """Looks again, now and then, while that may help."""
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
    hint = "look at its console: network, sshd, firewall; ssh.port in the context is the port"
    if "no SSH answer" in str(error):
        hint = (
            "sshd hangs up before it answers: past MaxStartups (sshd_config) it drops connections, "
            "without host keys or with full disks all of them; its console and log say which"
        )
    return NotReady(endpoint.name, SSH_ANSWERS, str(error), hint=hint)


def _machine_is_sound(guest: Guest, waiting: _Waiting) -> NotMet | None:
    """What does not prevent runs is warned of."""
    found = troubles(guest, waiting.left(60))
    for one in found:
        if one.prevents:
            return NotMet(one.seen, hint=one.remedy)
    waiting.warnings += [f"{one.seen}: {one.remedy}" for one in found]
    return None


def _gpus_of_the_plan(guest: Guest, waiting: _Waiting) -> NotMet | None:
    """Compares PCI ids and their number: the names in vSphere and in the driver differ."""
    done = _nvidia_smi(guest, waiting.left(60))
    if done.exit_status == NO_SUCH_PROGRAM:
        return NotMet("there is no nvidia-smi: no NVIDIA driver is installed")
    if done.exit_status != 0:
        return _driver_failed(guest, done)
    found, wanted = Counter(ids for ids, _ in _rows(done)), Counter(waiting.expected.gpus)
    if found != wanted:
        fewer = found <= wanted  # more of them may still come up, but none goes away
        return NotMet(f"expected {_ids_text(wanted)}, the guest has {_ids_text(found)}", fewer)
    waiting.gpu_names = tuple(name for _, name in _rows(done))
    waiting.simulated = _simulated(guest, done)
    return None


def _driver_failed(guest: Guest, done: CommandResult) -> NotMet:
    """A driver that is still loading is worth another look; what needs a person is not."""
    status = f"nvidia-smi ended with status {done.exit_status}"
    for line in (done.stdout + done.stderr).splitlines():
        hint = next((hint for sign, hint in _FAILURES if re.search(sign, line)), None)
        if hint is not None:
            return NotMet(f"{status}: {line.strip()}", hint=hint)
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
    """By its names or, where those are as on a real card, by its banner."""
    if "simulated" in listed.stdout.lower():
        return True
    banner = guest.run(["nvidia-smi"], timeout_s=60, check=False, what="nvidia-smi")
    return "simulated" in banner.stdout.lower()


def _ids_text(ids: Counter[tuple[int, int]]) -> str:
    found = sorted(ids.elements())
    return ", ".join(f"{vendor:04x}:{device:04x}" for vendor, device in found) or "no GPU"


def _tensorflow_uses_gpu(guest: Guest, waiting: _Waiting) -> NotMet | None:
    told, unmet = _compute(guest, waiting, "GPU")
    if unmet or told["problem"] is None:
        return unmet
    seen = f"TensorFlow {told['tensorflow']} used {told['device']}: {told['problem']}"
    if waiting.expected.settings.tensorflow_gpu == "warn":
        waiting.warnings.append(f"tensorflow-uses-gpu: {seen}")
        return None
    return NotMet(seen, hint=_hint(seen))


def _hint(seen: str) -> str | None:
    """For reasons that have nothing to do with TensorFlow."""
    return next((hint for sign, hint in _DRIVER_HINTS if re.search(sign, seen)), None)


def _tensorflow_computes(guest: Guest, waiting: _Waiting) -> NotMet | None:
    return _compute(guest, waiting, "CPU")[1]


def _compute(guest: Guest, waiting: _Waiting, kind: str) -> tuple[dict[str, str], NotMet | None]:
    """What check_tensorflow.py printed, or why it could not compute at all."""
    python = waiting.expected.settings.python
    command = scripts.command(python, "check_tensorflow", kind)
    done = guest.run(command, timeout_s=waiting.left(600), check=False, what="TensorFlow's matmul")
    if done.exit_status == NO_SUCH_PROGRAM:
        return {}, NotMet(f"there is no program {python}")
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
            "GPUs of an HGX board wait for its NVSwitches and the fabric manager: give the VM one "
            "GPU, or a vendor device group (docs/accelerators.md)"
        ),
    ),
    (r"libcuda", "the NVIDIA driver's libraries are missing in the template (docs/template.md)"),
)
"""Keyed by what check_tensorflow.py reports of the driver, or by TensorFlow's own text."""

_FAILURES = (
    (
        "[Dd]river/library version mismatch",
        (
            "the driver was updated and the old module is still loaded: 'gpuvm stop' and "
            "'gpuvm start' load the new one; switch automatic updates of the driver off in the VM "
            "template"
        ),
    ),
    (
        "GPU is lost|fallen off the bus|Unable to determine the device handle",
        (
            "the card no longer answers (Xid 79): 'gpuvm stop' and 'gpuvm start' reset it; if it "
            "happens again, look at the card's power, temperature and slot on the host"
        ),
    ),
)
"""By what nvidia-smi prints: NVML's error texts."""
_NOUVEAU = (
    "in the VM template: blacklist nouveau in /etc/modprobe.d, rebuild the initramfs (sudo dracut "
    "--force), reboot (docs/template.md)"
)

MACHINE = Requirement(
    "the guest has room and can run programs",
    "the commands sh, date, df, awk and mktemp must work for the user of the context",
    _machine_is_sound,
)
GPUS = Requirement(
    "the guest's GPUs are those of the plan",
    "is the NVIDIA driver loaded (dmesg | grep -i nvidia), is the 64-bit MMIO window large enough?",
    _gpus_of_the_plan,
)
USES_GPU = Requirement(
    "tensorflow-uses-gpu",
    "TensorFlow, CUDA and cuDNN must know this GPU (docs/template.md); 'guest: {tensorflow_gpu: "
    "warn}' in the context continues without it",
    _tensorflow_uses_gpu,
)
COMPUTES = Requirement(
    "tensorflow-computes",
    "guest.python in the context must name a Python that has TensorFlow (docs/template.md)",
    _tensorflow_computes,
)
