"""Runs the same function in all members of a run in parallel, a thread for each."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TypeVar

from gpuvm.devices import GPU
from gpuvm.errors import GuestError, GuestUnreachable
from gpuvm.events import Events
from gpuvm.guest import Endpoint, Guest, connect
from gpuvm.inventory import VM

CONNECT_S = 5.0

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
    """``unreachable`` are guests that clean-up could not reach; they are not tried again."""

    def __init__(self, members: Sequence[Member], events: Events) -> None:
        self._members, self._events = members, events
        self._connected: set[Guest] = set()
        self.unreachable: set[str] = set()

    def each(self, phase: str | None, work: Callable[[Guest], Result]) -> dict[str, Result]:
        """Returns results by name. Waits for all guests; then raises the first error in the
        members' order, and the others become warnings.
        """

        def one(member: Member) -> Result:
            timed = self._events.phase(phase, member.name) if phase else nullcontext()
            with timed, connect(member.endpoint) as guest:
                self._connected.add(guest)
                return work(guest)

        with ThreadPoolExecutor(len(self._members)) as threads:
            futures = {member.name: threads.submit(one, member) for member in self._members}
            try:
                wait(futures.values())
            except BaseException:
                for guest in self._connected:  # so that Ctrl-C does not wait for a long push
                    guest.close()
                raise
        self._connected.clear()
        errors = [(name, e) for name, future in futures.items() if (e := future.exception())]
        for name, error in errors[1:]:
            self._events.warning(str(error), name)
        return {name: future.result() for name, future in futures.items()}

    def best_effort(self, work: Callable[[Guest], None]) -> None:
        """For clean-up: errors become warnings."""

        def one(member: Member) -> None:
            try:
                with connect(member.endpoint, timeout_s=CONNECT_S) as guest:
                    work(guest)
            except GuestError as error:
                self._events.warning(str(error), member.name)
                if isinstance(error, GuestUnreachable):
                    self.unreachable.add(member.name)

        reachable = [member for member in self._members if member.name not in self.unreachable]
        with ThreadPoolExecutor(len(self._members)) as threads:
            list(threads.map(one, reachable))
