"""Clones that have not ended: what a killed gpuvm began becomes a VM later, and would be left."""

import re
import time
from collections.abc import Sequence

from gpuvm.errors import Interrupted
from gpuvm.events import Events
from gpuvm.vsphere import Change, CloneInFlight, TaskEnded, TaskProgress, VSphere

CLONES_S = 1800.0
UNNAMED_S = 120.0
"""For a clone of which nobody says what it will be called: it may be somebody else's."""


def clones_to_come(vsphere: VSphere, deployment: str) -> list[CloneInFlight]:
    """Of this account; those that will be, or may be, VMs of the deployment."""
    ours = re.compile(re.escape(deployment) + r"-\d+")
    under_way = vsphere.clones_in_flight()
    return [one for one in under_way if one.name is None or ours.fullmatch(one.name)]


def await_clones(coming: Sequence[CloneInFlight], vsphere: VSphere, events: Events) -> None:
    """Until they have ended, however they do. Raises Interrupted on Ctrl-C."""
    waiting = {one.name or one.task.moref: one for one in coming}
    names = ", ".join(one.name or "a clone that may be ours" for one in coming)
    events.note(f"being cloned still, waiting: {names}")
    try:
        _wait(waiting, vsphere, events)
    except KeyboardInterrupt:
        raise Interrupted(
            f"interrupted; being cloned still: {names}",
            left=[one.name for one in coming if one.name],
            hint="run 'gpuvm teardown' again to continue",
        ) from None


def _wait(waiting: dict[str, CloneInFlight], vsphere: VSphere, events: Events) -> None:
    begun = time.monotonic()
    with vsphere.stream() as stream:
        stream.follow_tasks({key: one.task for key, one in waiting.items()})
        for batch in stream.updates(
            lambda: begun + min(map(_limit_s, waiting.values()), default=0.0) - time.monotonic()
        ):
            for change in batch:
                _tell(change, waiting, events)
            passed = time.monotonic() - begun
            for key in [key for key, one in waiting.items() if passed > _limit_s(one)]:
                del waiting[key]
                stream.forget(key)
                events.warning(f"{key} is being cloned still: run 'gpuvm teardown' again later")


def _tell(change: Change, waiting: dict[str, CloneInFlight], events: Events) -> None:
    if isinstance(change, TaskProgress):
        events.progress(change.key, "clone", change.fraction)
    elif isinstance(change, TaskEnded):
        waiting.pop(change.key, None)
        events.progress(change.key, "done", 1.0)


def _limit_s(one: CloneInFlight) -> float:
    return CLONES_S if one.name else UNNAMED_S
