"""Runs the workload NOTED, which writes down the examples of each round in used.jsonl.

With NOTED_SIGNAL=SIGKILL@ROUND,CALL it gets that signal at that call of that round.
"""

import json
import os
import runpy
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from typing_extensions import override

from common import local_sgd, training

USED = "used.jsonl"


class Noted(local_sgd.LocalSGD):
    @override
    def chunks(
        self,
        batch_of: Callable[[np.ndarray, int], tuple[Any, ...]],
        prepare: Callable[[np.ndarray], None],
        log_every: int,
        longest: int,
    ) -> Iterator[training.Call]:
        calls = Counter[int]()
        file = Path(sys.argv[sys.argv.index("--out") + 1], USED)

        def noted(rows: np.ndarray, done: int) -> tuple[Any, ...]:
            number = sum(one.times for one in self.topic.rounds)
            name, _, at = os.environ.get("NOTED_SIGNAL", "").partition("@")
            if at == f"{number},{calls[number]}":
                os.kill(os.getpid(), signal.Signals[name])
            calls[number] += 1
            with file.open("a", encoding="utf-8") as used:
                used.write(json.dumps([number, rows.ravel().tolist()]) + "\n")
            return batch_of(rows, done)

        return super().chunks(noted, prepare, log_every, longest)


def uses(folder: Path, workers: int) -> Counter[int]:
    """How often each example has been used in work that counts, by the last worker's checkpoint."""
    state = json.loads((folder / str(workers - 1) / "checkpoints" / "latest.json").read_text())
    by = [one["by"] for one in state["done"]["rounds"] for _ in range(one["times"])]
    used = Counter[int]()
    for worker in range(workers):
        for line in (folder / str(worker) / USED).read_text().splitlines():
            number, examples = json.loads(line)
            if worker in by[number]:
                used.update(examples)
    return used


if __name__ == "__main__":
    local_sgd.LocalSGD = Noted  # type: ignore[misc]
    runpy.run_module(os.environ["NOTED"], run_name="__main__", alter_sys=True)
