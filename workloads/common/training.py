"""The training loop, and collective operations of the workers."""

import faulthandler
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import numpy as np

from common.device import devices_here
from common.errors import BadInput
from common.log import Log

Batch = TypeVar("Batch")


@dataclass(frozen=True)
class Phase:
    """``steps`` is the total number; ``examples`` is this worker's share of a step of them.

    A call that takes longer than ``stall_s`` ends the process with a traceback.
    """

    name: str
    steps: int
    examples: float
    checkpoint_every: int
    stall_s: float


class Call(NamedTuple):
    """A call of the compiled function: the steps done after it, its arguments, and whether to
    write a step record.

    ``then`` ends a round of local SGD, and checkpoints wait for the end of one.
    """

    done: int
    batch: tuple[Any, ...]
    logged: bool
    then: Callable[[], None] | None = None
    ends_round: bool = True


def calls(
    batch_at: Callable[[int], tuple[Any, ...]], done: int, stop: int, phase: Phase, log_every: int
) -> Iterator[Call]:
    """Yields a call for each step from ``done`` to ``stop``; the first and the last are logged.

    ``batch_at`` returns the batch of a step.
    """
    for step, batch in prefetch(batch_at, range(done, stop)):
        now = step + 1
        yield Call(now, batch, now == done + 1 or now % log_every == 0 or now == phase.steps)


def train(
    log: Log,
    phase: Phase,
    done: int,
    calls: Iterable[Call],
    compute: Callable[..., Any],
    save: Callable[[int], str | None],
    measure: Callable[[int], Mapping[str, float]] = lambda _: {},
    communication: Callable[[], float] | None = None,
) -> int:
    """Runs the calls, starting after ``done`` steps; returns the number of steps done.

    ``compute`` returns the loss, ``save`` writes a checkpoint and returns its path, ``measure``
    returns additional fields of a step record; both get the number of steps done.
    ``communication`` returns the seconds since it was last called that this worker spent in
    communication. Rates exclude the first call, which compiles, and the time for records and
    checkpoints.
    """
    saved, first, due = done, True, False
    spent, talked, counted, since = 0.0, 0.0, 0, time.monotonic()
    for call in calls:
        faulthandler.dump_traceback_later(phase.stall_s, exit=True)
        loss = compute(*call.batch)
        before, done, counted = done, call.done, counted + call.done - done
        if call.then is not None:
            faulthandler.cancel_dump_traceback_later()  # it may wait for others
            call.then()
        due = due or before // phase.checkpoint_every != done // phase.checkpoint_every
        saves = due and call.ends_round
        if not (first or call.logged or saves):
            continue
        value = float(loss)  # waits for the computation
        spent += time.monotonic() - since
        if communication is not None:
            talked += communication()
        if first:
            log("compile", seconds=round(spent, 3))
            spent, talked, counted, first = 0.0, 0.0, 0, False
        if call.logged:
            rate = _rate(phase, spent, counted)
            if rate and communication is not None:
                rate["communication_seconds"] = round(talked / counted, 6)
            steps = {"phase": phase.name, "step": done, "steps": phase.steps}
            log("step", **steps, loss=value, **measure(done), **rate)
            spent, talked, counted = 0.0, 0.0, 0
        if saves:
            _save(log, save, done)
            saved, due = done, False
        since = time.monotonic()
    if done > saved:
        _save(log, save, done)
    faulthandler.cancel_dump_traceback_later()
    return done


def prefetch(make: Callable[[int], Batch], steps: range) -> Iterator[tuple[int, Batch]]:
    """Yields each step with the result of ``make``, computed during the previous step."""
    with ThreadPoolExecutor(1) as thread:
        pending = [thread.submit(make, step) for step in steps[:1]]
        for step in steps:
            batch = pending.pop().result()
            if step + 1 < steps.stop:
                pending.append(thread.submit(make, step + 1))
            yield step, batch


def barrier(tf: Any, strategy: Any) -> None:
    """Waits for all workers: one that exits before the chief would count as lost."""
    if strategy.num_replicas_in_sync > 1:
        _sum(tf, strategy, np.ones(1))


def check_same_step(tf: Any, strategy: Any, done: int) -> None:
    """Raises BadInput unless all workers resume from the same step.

    Otherwise gradients of different weights would be summed.
    """
    replicas = strategy.num_replicas_in_sync
    workers = replicas // devices_here(strategy)
    if workers > 1 and int(_sum(tf, strategy, np.array([done]))[0]) != done * workers:
        raise BadInput(f"the workers' checkpoints differ: this worker has step {done}")


def from_furthest(
    tf: Any, strategy: Any, worker: int, workers: int, variables: Sequence[Any], state: Any
) -> Any:
    """Gives all workers the variables and the state of the one that has done most.

    Workers whose checkpoints differ, or that have none, go on together this way. ``state`` is JSON;
    its ``total`` is the number of steps done. Returns that of all.
    """
    if workers == 1:
        return state
    text = np.frombuffer(json.dumps(state).encode(), np.uint8).astype(np.int64)
    mine = np.zeros((2, workers), np.int64)
    mine[:, worker] = state["total"], len(text)
    totals, lengths = _sum(tf, strategy, mine)
    if (totals == totals[0]).all():
        return state
    source = int(totals.argmax())

    def from_source(value: np.ndarray) -> np.ndarray:
        return _sum(tf, strategy, value if worker == source else np.zeros_like(value))

    sent = text if worker == source else np.zeros(lengths[source], np.int64)
    for variable in variables:
        variable.assign(from_source(variable.numpy()))
    return json.loads(from_source(sent).astype(np.uint8).tobytes())


def _sum(tf: Any, strategy: Any, value: np.ndarray) -> np.ndarray:
    """The sum of every worker's ``value``."""
    here = devices_here(strategy)

    def of_replica(context: Any) -> Any:
        first = context.replica_id_in_sync_group % here == 0
        return tf.constant(value if first else np.zeros_like(value))

    values = strategy.experimental_distribute_values_from_function(of_replica)
    return np.asarray(
        tf.function(lambda one: strategy.reduce("SUM", strategy.run(tf.identity, (one,)), None))(
            values
        )
    )


def _rate(phase: Phase, seconds: float, steps: int) -> dict[str, float]:
    """Fields of a step record; empty after the first call, and when a round was lost."""
    if steps <= 0:
        return {}
    took = seconds / steps
    return {
        "step_seconds": round(took, 6),
        "examples_per_second": round(phase.examples / took, 3),
    }


def _save(log: Log, save: Callable[[int], str | None], done: int) -> None:
    path = save(done)
    if path is not None:
        log("checkpoint", step=done, path=path)
