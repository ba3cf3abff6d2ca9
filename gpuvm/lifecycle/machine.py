"""One VM on its way through the stages, with the clock of its present stage."""

import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from gpuvm import guest
from gpuvm.errors import GpuvmError
from gpuvm.inventory import VM
from gpuvm.lifecycle.addresses import Awaited
from gpuvm.planner import Step
from gpuvm.vsphere import CloneRequest, Task

Stage = Literal["clone", "move", "configure", "power_on", "address", "ready", "remove", "done"]


class Check:
    """A readiness check on a thread of its own; a daemon, so that Ctrl-C need not wait for it."""

    def __init__(self, check: Callable[[Callable[[], None]], guest.Ready]) -> None:
        """``check`` calls what it is given once SSH has answered."""
        self._check = check
        self._answered = threading.Event()
        self._ready: guest.Ready | None = None
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def result(self) -> guest.Ready:
        """Waits for the check; raises what it raised."""
        self._thread.join()
        if self._error is not None:
            raise self._error
        assert self._ready is not None  # noqa: S101 - one of the two is set when the thread ends
        return self._ready

    @property
    def settled(self) -> bool:
        """SSH has answered, or the check has ended: the address is no longer in question."""
        return self._answered.is_set() or not self._thread.is_alive()

    def _run(self) -> None:
        try:
            self._ready = self._check(self._answered.set)
        except Exception as error:  # noqa: BLE001 - handed to whoever asks for the result
            self._error = error


@dataclass(frozen=True)
class Seen:
    """``since`` is on the monotonic clock."""

    addresses: tuple[str, ...]
    host_keys: tuple[str, ...]
    since: float


@dataclass(frozen=True)
class Later:
    """What is done once ``at``, on the monotonic clock, has come."""

    at: float
    then: Callable[[], None]


@dataclass
class Machine:
    """``begun`` is when the present stage began, ``since`` when its deadline's clock did.

    Both are on the monotonic clock, which stands still while the task is ``queued`` in the vCenter.
    ``created`` says that this call made the VM, as its own clone task or the VM's mark has shown;
    ``left`` that it failed and stays; ``then`` is the step to go on with once this one is removed.
    ``seen`` are the addresses that the guest reported last, tried when they are still the same a
    moment later; ``read`` is when the VM was read anew meanwhile. ``looked_up`` are the stages in
    which it had to be looked up what became of a call; ``cancelled`` says that its clone took too
    long.
    """

    step: Step
    request: CloneRequest
    stage: Stage = "clone"
    begun: float = field(default_factory=time.monotonic)
    since: float = field(default_factory=time.monotonic)
    task: Task | None = None
    queued: bool = False
    moref: str = ""
    vm: VM | None = None
    created: bool = False
    replanned: bool = False
    resubmitted: bool = False
    cancelled: bool = False
    looked_up: set[Stage] = field(default_factory=set)
    tries: Counter[Stage] = field(default_factory=Counter)
    later: Later | None = None
    awaited: Awaited = field(default_factory=Awaited)
    seen: Seen | None = None
    read: float = 0.0
    changed: bool = False
    check: Check | None = None
    ready: guest.Ready | None = None
    error: GpuvmError | None = None
    left: bool = False
    then: Step | None = None

    @property
    def name(self) -> str:
        return self.step.name

    def enter(self, stage: Stage) -> None:
        self.stage = stage
        self.begun = self.since = time.monotonic()

    def follow(self, task: Task | None) -> None:
        self.task, self.queued, self.later = task, task is not None, None

    def runs(self) -> None:
        """Its task had to wait for its turn, and now has it."""
        if self.queued:
            self.queued, self.since = False, time.monotonic()

    def see(self, addresses: tuple[str, ...], host_keys: tuple[str, ...]) -> None:
        """What the guest reports now; the clock starts anew when the addresses change."""
        if not addresses:
            self.seen = None
        elif self.seen is None or self.seen.addresses != addresses:
            self.seen = Seen(addresses, host_keys, time.monotonic())
        else:
            self.seen = Seen(addresses, host_keys, self.seen.since)

    def seconds(self) -> float:
        """In the present stage."""
        return time.monotonic() - self.begun

    def waited(self) -> float:
        """What counts against the deadline of the present stage."""
        return 0.0 if self.queued else time.monotonic() - self.since
