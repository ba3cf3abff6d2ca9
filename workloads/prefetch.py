"""Batches are made on a thread while the step before still computes."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Batch = TypeVar("Batch")


def prefetch(make: Callable[[int], Batch], steps: range) -> Iterator[tuple[int, Batch]]:
    """Each step with what ``make`` gives for it, which is derived from the step alone."""
    with ThreadPoolExecutor(1) as thread:
        coming = [thread.submit(make, step) for step in steps[:1]]
        for step in steps:
            batch = coming.pop().result()
            if step + 1 < steps.stop:
                coming.append(thread.submit(make, step + 1))
            yield step, batch
