"""stock's training: chunks of steps between evaluations of both sets.

With local SGD a chunk is a round, and the sets are evaluated at the end of one.
"""

from collections.abc import Iterator

import numpy as np

from common import training
from common.averaging import Averaging
from common.checkpoints import Checkpoints
from common.files import sha256
from common.local_sgd import LocalSGD, rounds_of
from common.program import EndFields, Session
from stock.dataset import Prices, Split
from stock.model import Forecaster
from stock.options import Options
from stock.results import Curve, Results

LOG_EVERY = 50
BASELINES = {
    "mse_naive": "repeating the minute before",
    "mse_mean": "always predicting the mean of the training part",
}
"""What predicts without a network, by the name of its score."""


def work(session: Session, options: Options, prices: Prices, data: Split) -> EndFields:
    trainer = Trainer(session, options, data)
    trainer.train()
    session.by_chief(lambda: evaluate(session, trainer, prices, data))
    return {"steps": trainer.done, "weights_sha256": trainer.digest()}


class Trainer:
    """``curve`` has a point for each evaluation: step, train and test MSE."""

    def __init__(self, session: Session, options: Options, data: Split) -> None:
        self.session, self.options, self.data = session, options, data
        self.forecaster = Forecaster(
            session.tf,
            session.strategy,
            data.train_x.shape[1],
            seed=options.seed,
            xla=options.xla and session.strategy.num_replicas_in_sync == 1,
            chunk=LOG_EVERY,
        )
        self.forecaster.set_data(data, bf16=options.eval_precision == "bf16")
        made_with = (
            f"prices {data.sha256()[:12]}, batch {options.batch_size}, seed {options.seed}, "
            f"looks in {options.eval_precision}"
        )
        self._checkpoints = Checkpoints(
            session.tf.train.Checkpoint(**self.forecaster.variables()),
            session.out,
            made_with,
            chief=session.keeps_checkpoints,
            warn=session.warn,
        )
        self._state = self._checkpoints.restore() or {"step": 0, "curve": []}
        self.done: int = self._state["step"]
        self.curve: Curve = self._state["curve"]
        self._local: LocalSGD | None = None
        training.check_same_step(session.tf, session.strategy, self.done)

    def train(self) -> None:
        options, cluster = self.options, self.session.cluster
        phase = training.Phase(
            "train",
            self._per_epoch * options.epochs,
            len(range(cluster.worker, options.batch_size, cluster.workers)),
            options.checkpoint_every,
            options.stall_s,
        )
        calls = self.chunks()
        averaging = self.session.averaging
        if averaging is not None:
            self._local = self._joined(averaging, phase.steps)
            self.done, calls = self._local.done, self.rounds(self._local)
        with self.session.log.phase("train"):
            done = training.train(
                self.session.log,
                phase,
                self.done,
                calls,
                lambda rows: self.forecaster.train(rows, options.batch_size),
                self._save,
                self._measure,
            )
        self.done = done if self._local is None else self._local.done

    def digest(self) -> str:
        return sha256(self.forecaster.weights())

    def chunks(self) -> Iterator[training.Call]:
        """The rows of each chunk [steps, this worker's share of a batch].

        A chunk ends where the sets are evaluated: after the steps 1, 51, 101, ... of every epoch.
        """
        size, per_epoch, before = self.options.batch_size, self._per_epoch, 0
        for epoch in range(self.options.epochs):
            order = np.random.default_rng([self.options.seed, epoch]).permutation(
                len(self.data.train_y)
            )
            rows = order[: per_epoch * size].reshape(per_epoch, size).astype(np.int32)
            stop = min(per_epoch, (self.options.stop_after or before + per_epoch) - before)
            for begin, end in _between_evaluations(stop):
                if before + end > self.done:
                    start = max(begin, self.done - before)  # a resumed run may begin inside a chunk
                    evaluated = (end - 1) % LOG_EVERY == 0
                    yield training.Call(before + end, (self._own(rows[start:end]),), evaluated)
            before += per_epoch

    def rounds(self, local: LocalSGD) -> Iterator[training.Call]:
        """A round is one call, or several of LOG_EVERY steps.

        At its end all workers have the same weights: the sets are evaluated there, as soon as
        LOG_EVERY steps have been done since the last time.
        """
        for call in local.chunks(
            lambda rows, _: (rows.astype(np.int32),), lambda _: None, LOG_EVERY, LOG_EVERY
        ):
            is_due = not self.curve or call.done >= self.curve[-1][0] + LOG_EVERY
            yield call._replace(logged=call.ends_round and is_due)

    @property
    def _per_epoch(self) -> int:
        return len(self.data.train_y) // self.options.batch_size

    def _own(self, rows: np.ndarray) -> np.ndarray:
        """The worker's share of every batch."""
        cluster = self.session.cluster
        return rows[:, cluster.worker :: cluster.workers]

    def _joined(self, averaging: Averaging, steps: int) -> LocalSGD:
        """Waits for the other workers."""
        return LocalSGD(
            averaging,
            self.session.log,
            "train",
            self.forecaster.variables()["weights"],
            total=len(self.data.train_y),
            steps=min(steps, self.options.stop_after or steps),
            batch=self.options.batch_size,
            every=self.options.average_every,
            seed=self.options.seed,
            rounds=rounds_of(self._state),
        )

    def _save(self, done: int) -> str | None:
        state = {"step": done} if self._local is None else self._local.state
        return self._checkpoints.save(f"train-{state['step']}", {**state, "curve": self.curve})

    def _measure(self, done: int) -> dict[str, float]:
        if self._local is not None:
            done = self._local.done  # fewer where the work of a lost worker does not count
        train, test = self.forecaster.errors()
        self.curve.append([done, train, test])
        return {"mse_train": train, "mse_test": test}


def evaluate(session: Session, trainer: Trainer, prices: Prices, data: Split) -> None:
    """The final error, that of repeating the last value, and the prediction of the last day."""
    with session.log.phase("evaluate"):
        train, test = trainer.forecaster.exact_errors()
        predicted = trainer.forecaster.predict()
        naive = float(np.mean((data.test_y[1:] - data.test_y[:-1]) ** 2))
        mean = float(np.mean((data.test_y - data.train_y.mean()) ** 2))
        scores = {"mse_test": test, "mse_train": train, "mse_naive": naive, "mse_mean": mean}
        for name, value in scores.items():
            more = {"split": "train" if name == "mse_train" else "test", "step": trainer.done}
            if name in BASELINES:
                more |= {"baseline_of": "mse_test", "means": BASELINES[name]}
            session.log("score", name=name, value=value, **more)
        Results(
            prices.origin,
            scores,
            trainer.curve,
            data.price(data.test_y),
            data.price(predicted),
            min(prices.last_day, len(data.test_y)),
        ).write(session.out)


def _between_evaluations(stop: int) -> Iterator[tuple[int, int]]:
    """(begin, end) of the chunks of an epoch's first ``stop`` steps."""
    borders = sorted({*range(1, stop + 1, LOG_EVERY), *([stop] if stop > 0 else [])})
    yield from zip([0, *borders], borders, strict=False)
