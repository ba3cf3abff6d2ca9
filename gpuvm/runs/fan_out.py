"""Runs the same function in all members of a run in parallel, a thread for each."""

from collections.abc import Callable, Container, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import TypeVar

from gpuvm.devices import GPU
from gpuvm.errors import GuestError, GuestUnreachable
from gpuvm.events import Events
from gpuvm.guest import Endpoint, Guest, connect
from gpuvm.inventory import VM

CONNECT_S = 30.0
QUICK_S = 5.0

Result = TypeVar("Result")


@dataclass(frozen=True)
class Member:
    endpoint: Endpoint
    vm: VM
    gpus: tuple[GPU, ...]

    @property
    def name(self) -> str:
        return self.vm.name


class FanOut:
    """Runs functions in all members at once, in a ``with`` block: each member's connection lasts
    from the first function to the end of the block.

    ``unreachable`` are the names of guests that clean-up could not reach; it asks them only once.
    ``given_up`` are those that ``each`` leaves out.
    """

    def __init__(self, members: Sequence[Member], events: Events) -> None:
        self._members, self._events = members, events
        self._connected: dict[str, Guest] = {}
        self.unreachable: set[str] = set()
        self.given_up: set[str] = set()

    def __enter__(self) -> "FanOut":
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    @contextmanager
    def connection(self, member: Member, timeout_s: float = CONNECT_S) -> Iterator[Guest]:
        """The one that is open, or a new one; by one thread of a member at a time.

        One that breaks is closed: what is silent may still look open. Raises as ``connect`` does.
        """
        guest = self._connected.get(member.name)
        if guest is None or not guest.is_open:
            guest = self._connected[member.name] = connect(member.endpoint, timeout_s=timeout_s)
        try:
            yield guest
        except GuestUnreachable:
            guest.close()
            raise

    def each(self, phase: str | None, work: Callable[[Guest], Result]) -> dict[str, Result]:
        """Returns results by name. Waits for all guests; then raises the first error in the
        members' order, and the others become warnings.
        """

        def one(member: Member) -> Result:
            timed = self._events.phase(phase, member.name) if phase else nullcontext()
            with timed, self.connection(member) as guest:
                return work(guest)

        members = [member for member in self._members if member.name not in self.given_up]
        with ThreadPoolExecutor(len(members)) as threads:
            futures = {member.name: threads.submit(one, member) for member in members}
            try:
                wait(futures.values())
            except BaseException:
                self._close()  # else Ctrl-C would wait for the longest push
                raise
        errors = [(name, e) for name, future in futures.items() if (e := future.exception())]
        for name, error in errors[1:]:
            self._events.warning(str(error), name)
        return {name: future.result() for name, future in futures.items()}

    def best_effort(
        self,
        work: Callable[[Guest], None],
        *,
        only: Container[str] | None = None,
        timeout_s: float = CONNECT_S,
    ) -> None:
        """For clean-up: errors become warnings, since another error is on its way.

        Over new connections: whether the guests still answer is often the question.
        """

        def one(member: Member) -> None:
            try:
                with connect(member.endpoint, timeout_s=timeout_s) as guest:
                    work(guest)
            except GuestError as error:
                self._events.warning(str(error), member.name)
                if isinstance(error, GuestUnreachable):
                    self.unreachable.add(member.name)

        wanted = [one for one in self._members if only is None or one.name in only]
        reachable = [member for member in wanted if member.name not in self.unreachable]
        with ThreadPoolExecutor(len(self._members)) as threads:
            list(threads.map(one, reachable))

    def _close(self) -> None:
        for guest in tuple(self._connected.values()):
            guest.close()
