"""Stock prediction: an index from its stocks' prices of the same minute (the paper's use case 2).

On one machine:
    python stock_prediction.py --out out
    python stock_prediction.py --out out --preset paper --data data_stocks.csv

Feed-forward 1024-512-256-128 with ReLU, Adam, batches of 256, the mean squared error of the whole
training and test sets every 50 batches (appendix C). The first 80 % in time train. Without --data
prices are made by code, in the paper's shape (41,266 minutes, 500 stocks).
workloads/README.md says what is written to --out.
"""

import argparse
import faulthandler
import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import prices
from checkpoints import Checkpoints
from forecaster import Forecaster
from outcome import Outcome
from records import Log
from starting import (
    BAD_INPUT,
    LOST_A_PEER,
    announce,
    check_same_step,
    choose_preset,
    common_options,
    exit_with,
    start_watchdog,
    task,
    tensorflow,
)

LOG_EVERY = 50
PRESETS = {
    "quick": {"minutes": 20_000, "stocks": 500, "epochs": 8, "batch_size": 256},
    "paper": {"minutes": prices.ROWS, "stocks": prices.STOCKS, "epochs": 10, "batch_size": 256},
}


@dataclass(frozen=True)
class Chunk:
    """Steps between two looks at the whole sets; ``rows`` [steps, batch] number training rows."""

    first: int
    rows: np.ndarray
    look: bool

    @property
    def last(self) -> int:
        """Steps done when it is."""
        return self.first + len(self.rows)


def main() -> None:
    options = parse()
    worker, peers = task()
    started = start_watchdog(options.start_deadline_s, worker, peers)
    try:
        run(options, worker, peers, started)
    except prices.BadData as error:
        exit_with(str(error), BAD_INPUT)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    common_options(parser)
    parser.add_argument("--data", type=Path, help="a CSV file: DATE, the index, the stocks")
    parser.add_argument("--preset", choices=PRESETS, default="quick")
    parser.add_argument("--minutes", type=int, help="rows to make without --data")
    parser.add_argument("--stocks", type=int, help="columns to make without --data")
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--batch-size", type=int, help="examples per step, over all workers")
    parser.add_argument("--eval-precision", choices=("float32", "bf16"), default="float32")
    parser.add_argument("--xla", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--checkpoint-every", type=int, default=100, metavar="STEPS")
    return choose_preset(parser, PRESETS)


def run(
    options: argparse.Namespace, worker: int, peers: Sequence[str], started: Callable[[], None]
) -> None:
    begun = time.monotonic()
    options.out.mkdir(parents=True, exist_ok=True)
    log = Log(options.out / "timings.jsonl")
    with log.phase("data"):
        source = read(options)
        data = prices.split(source)
        if len(data.train_y) < options.batch_size:
            raise prices.BadData(
                f"--batch-size {options.batch_size}: only {len(data.train_y)} rows"
            )
    tf, strategy = tensorflow(options, len(peers))
    started()
    announce(log, tf, options, worker, len(peers))
    trainer = Trainer(tf, strategy, options, data, log, worker, len(peers))
    try:
        trainer.train()
        if worker == 0:
            finish(trainer, data, source, options.out, log)
        trainer.forecaster.barrier()
    except tf.errors.OpError as error:
        if len(peers) == 1:
            raise
        exit_with(f"another worker went away: {str(error).splitlines()[0][:200]}", LOST_A_PEER)
    seconds = round(time.monotonic() - begun, 3)
    log("end", ok=True, steps=trainer.done, seconds=seconds, weights_sha256=trainer.digest())


def read(options: argparse.Namespace) -> prices.Prices:
    if options.data:
        return prices.read_csv(options.data)
    return prices.generate(options.minutes, options.stocks, options.seed)


class Trainer:
    """``curve`` has a point for every look at the whole sets: step, train and test MSE."""

    def __init__(
        self,
        tf: Any,
        strategy: Any,
        options: argparse.Namespace,
        data: prices.Split,
        log: Log,
        worker: int,
        workers: int,
    ) -> None:
        self.options, self.log, self.data, self.worker = options, log, data, worker
        self.workers = workers
        self.forecaster = Forecaster(
            tf,
            strategy,
            data.train_x.shape[1],
            seed=options.seed,
            xla=options.xla and workers == 1,
            chunk=LOG_EVERY,
        )
        self.forecaster.take(data, bf16=options.eval_precision == "bf16")
        self.done, self.curve = 0, []
        self._spent, self._counted = 0.0, 0
        wish = (
            f"prices {data.sha256()[:12]}, batch {options.batch_size}, seed {options.seed}, "
            f"looks in {options.eval_precision}"
        )
        self.kept = Checkpoints(
            tf.train.Checkpoint(**self.forecaster.parts()), options.out, wish, chief=worker == 0
        )
        state = self.kept.restore()
        if state is not None:
            self.done, self.curve = state["step"], state["curve"]
        self._saved = self.done
        check_same_step(tf, strategy, self.done, workers)

    def train(self) -> None:
        with self.log.phase("train"):
            first = True
            for chunk in self._chunks():
                faulthandler.dump_traceback_later(self.options.stall_s, exit=True)
                loss = self._steps(chunk.rows, first=first)
                self.done, first = chunk.last, False
                if chunk.look:
                    self._look(loss, chunk.rows.shape[1])
                if self._wants_checkpoint(chunk):
                    self._save()
                if self.done == self.options.stop_after:
                    break
            if self.done > self._saved:
                self._save()
            faulthandler.cancel_dump_traceback_later()

    def digest(self) -> str:
        joined = hashlib.sha256()
        for value in self.forecaster.weights():
            joined.update(np.ascontiguousarray(value).tobytes())
        return joined.hexdigest()

    def _chunks(self) -> Iterator[Chunk]:
        """Cut where the sets are looked at: after the steps 0, 50, 100, … of every epoch."""
        size = self.options.batch_size
        per_epoch = len(self.data.train_y) // size
        at = 0
        for epoch in range(self.options.epochs):
            order = np.random.default_rng([self.options.seed, epoch]).permutation(
                len(self.data.train_y)
            )
            rows = order[: per_epoch * size].reshape(per_epoch, size).astype(np.int32)
            for begin, end in _between_looks(
                per_epoch, at + per_epoch, self.options.stop_after, at
            ):
                if at + end > self.done:
                    start = max(begin, self.done - at)  # a resumed run may begin inside a chunk
                    look = (end - 1) % LOG_EVERY == 0
                    yield Chunk(at + start, self._own(rows[start:end]), look)
            at += per_epoch

    def _own(self, rows: np.ndarray) -> np.ndarray:
        """The worker's own share of every batch."""
        return rows[:, self.worker :: self.workers]

    def _steps(self, rows: np.ndarray, *, first: bool) -> float:
        """The last loss. The first call compiles: it counts for no rate."""
        begun = time.monotonic()
        loss = float(self.forecaster.steps(rows, self.options.batch_size))
        took = time.monotonic() - begun
        if first:
            self.log("compile", seconds=round(took, 3))
        else:
            self._spent, self._counted = self._spent + took, self._counted + len(rows)
        return loss

    def _look(self, loss: float, share: int) -> None:
        """``share`` is what this worker has of each batch."""
        train, test = self.forecaster.errors()
        self.curve.append([self.done, train, test])
        self.log(
            "step",
            phase="train",
            step=self.done,
            steps=len(self.data.train_y) // self.options.batch_size * self.options.epochs,
            loss=loss,
            mse_train=train,
            mse_test=test,
            **self._rate(share),
        )

    def _rate(self, share: int) -> dict[str, float]:
        """Since the last look; nothing when there was only the first call."""
        if not self._counted:
            return {}
        took = self._spent / self._counted
        self._spent, self._counted = 0.0, 0
        return {
            "step_seconds": round(took, 6),
            "examples_per_second": round(share / took, 3),
        }

    def _wants_checkpoint(self, chunk: Chunk) -> bool:
        every = self.options.checkpoint_every
        return chunk.first // every != chunk.last // every

    def _save(self) -> None:
        path = self.kept.save(f"train-{self.done}", {"step": self.done, "curve": self.curve})
        self._saved = self.done
        if path is not None:
            self.log("checkpoint", step=self.done, path=path)


def finish(
    trainer: Trainer, data: prices.Split, source: prices.Prices, out: Path, log: Log
) -> None:
    """The final error beside that of saying the last value again, and the last day's prediction."""
    with log.phase("evaluate"):
        train, test = trainer.forecaster.final_errors()
        predicted = trainer.forecaster.predict()
        naive = float(np.mean((data.test_y[1:] - data.test_y[:-1]) ** 2))
        mean = float(np.mean((data.test_y - data.train_y.mean()) ** 2))
        scores = {"mse_test": test, "mse_train": train, "mse_naive": naive, "mse_mean": mean}
        for name, value in scores.items():
            split = "train" if name == "mse_train" else "test"
            log("score", name=name, value=value, split=split, step=trainer.done)
        last_day = min(source.last_day, len(data.test_y))
        real, said = data.price(data.test_y), data.price(predicted)
        Outcome(source.origin, scores, trainer.curve, real, said, last_day).write(out)


def _between_looks(
    per_epoch: int, end: int, stop_after: int | None, at: int
) -> Iterator[tuple[int, int]]:
    """(begin, end) of an epoch's chunks; the last one may be cut short by --stop-after."""
    borders = [1 + n for n in range(0, per_epoch, LOG_EVERY)]
    if stop_after is not None and at < stop_after <= end:
        borders = [b for b in borders if at + b < stop_after] + [stop_after - at]
        per_epoch = stop_after - at
    borders = sorted({*borders, per_epoch})
    yield from zip([0, *borders], borders, strict=False)


if __name__ == "__main__":
    main()
