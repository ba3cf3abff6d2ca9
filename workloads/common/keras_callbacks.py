"""Local SGD for a program of one's own: ``model.fit`` on several workers.

    average = AverageWeights()
    model.fit(average.dataset(x, y, batch_size=32), epochs=5, callbacks=[average])
    average.by_chief(lambda: model.save("mine.keras"))

Where nobody averages (GPUVM_AVERAGING is not set) the data set is an ordinary one, and the program
trains as any other. Where gpuvm keeps records (GPUVM_OUT) it writes those of the contract that it
can (workloads/README.md).
"""

import atexit
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow import keras

from common import cluster
from common.averaging import Averaging
from common.device import check_device, device_name
from common.files import sha256
from common.local_sgd import LocalSGD
from common.log import Log

LOG_EVERY = 20


class AverageWeights(keras.callbacks.Callback):
    """The weights of all workers are averaged after ``every`` steps of each, or a few more or less,
    so that an epoch ends with an average: what is measured then is the same on all workers.

    An epoch of each worker is its share of the examples. When a worker is lost the others do its
    share too, in steps that the progress bar does not count; when it is started again it goes on
    with the others, and its epochs are counted from there.
    """

    def __init__(self, every: int = 16, seed: int = 1) -> None:
        super().__init__()
        self._every, self._seed = every, seed
        self._cluster = cluster.from_environment()
        self._averaging = Averaging.from_environment(self._cluster.worker)
        if self._averaging is None and self._cluster.workers > 1:
            raise ValueError("nobody averages the weights: --strategy local-sgd, without --detach")
        self._fits = self._per_epoch = 0
        self._local: LocalSGD | None = None
        self._rows, self._at = np.empty((0, 0), np.int64), 0
        out = os.environ.get("GPUVM_OUT")
        self._log: Callable[..., None] = (
            _nowhere if out is None else Log(Path(out, "timings.jsonl"))
        )
        self._log_start()

    def dataset(self, *arrays: Any, batch_size: int = 32) -> Any:
        """Batches of x, y and weights, as ``fit`` takes them, for the next ``fit``.

        The workers together use every example once before they use one again. Raises ValueError
        when there is less than a batch for each worker.
        """
        self._arrays = tf.nest.map_structure(np.asarray, arrays)
        self._total, self._batch = len(tf.nest.flatten(self._arrays)[0]), batch_size
        if self._averaging is None:
            whole = tf.data.Dataset.from_tensor_slices(self._arrays)
            return whole.shuffle(self._total, self._seed).batch(batch_size)
        share = self._total // (batch_size * self._cluster.workers)
        if share == 0:
            raise ValueError(
                f"too few examples ({self._total}) for a batch of {batch_size} on each worker "
                f"({self._cluster.workers})"
            )
        rounds = max(1, round(share / self._every))
        self._steps = share // rounds
        self._per_epoch = rounds * self._steps
        made = tf.data.Dataset.from_generator(
            self._batches,
            output_signature=tf.nest.map_structure(
                lambda one: tf.TensorSpec((batch_size, *one.shape[1:]), one.dtype), self._arrays
            ),
        )
        options = tf.data.Options()
        # Nothing is made ahead: what comes next may change with the next average.
        options.autotune.enabled = False
        options.experimental_optimization.inject_prefetch = False
        made = made.apply(tf.data.experimental.assert_cardinality(self._per_epoch))
        return made.with_options(options)

    @property
    def is_chief(self) -> bool:
        return self._averaging is None or self._averaging.is_chief

    def by_chief(self, work: Callable[[], None]) -> None:
        """Do ``work`` after the training on one worker: the chief, or its successor if it is lost
        meanwhile.
        """
        if self._averaging is not None and not self._has_left:
            self._averaging.by_chief(work)
        elif self.is_chief:
            work()

    def on_train_begin(self, logs: Mapping[str, Any] | None = None) -> None:  # noqa: ARG002
        self._fits += 1
        self._epochs = self._done = 0
        self._begun = self._since = time.monotonic()
        self._counted: int | None = None
        self._phase = "train" if self._fits == 1 else f"train-{self._fits}"
        if self._averaging is not None:
            self._join(self._averaging)

    def on_epoch_begin(self, *_: Any, **__: Any) -> None:
        self._epochs += 1

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        local = self._local
        if local is None:
            self._done += 1
            if self._done % LOG_EVERY == 0:
                self._log_step(logs)
        elif not local.topic.steps:  # it came when the others had finished
            local.set_weights()
            self.model.stop_training = True
        elif self._at == len(self._rows):
            self._end_round(local, logs)
            if batch + 1 == self._per_epoch:
                self._catch_up(local)

    def on_train_end(self, logs: Mapping[str, Any] | None = None) -> None:  # noqa: ARG002
        averaging, local = self._averaging, self._local
        if averaging is not None and local is not None:
            self._has_left = bool(local.topic.steps)
            if self._has_left:  # another callback has ended the training
                averaging.close()
            elif self._fits == 1:
                atexit.register(averaging.close)
        digest = sha256(variable.numpy() for variable in self.model.trainable_variables)
        seconds = round(time.monotonic() - self._begun, 3)
        self._log("end", ok=True, steps=self._done, weights_sha256=digest, seconds=seconds)

    def _join(self, averaging: Averaging) -> None:
        """Waits for the other workers, or takes over what they have reached."""
        model = self.model
        if model.steps_per_execution != 1:
            raise ValueError("AverageWeights needs steps_per_execution=1")
        if not self._per_epoch:
            raise ValueError("fit must be given the data set that AverageWeights.dataset returns")
        if not model.built:
            model(tf.nest.map_structure(lambda one: one[:1], self._arrays[0]))
        rate = model.optimizer.learning_rate
        self._local = local = LocalSGD(
            averaging,
            self._log,
            self._phase,
            [one for one in model.weights if "float" in one.dtype],
            None if isinstance(rate, keras.Variable) else model.optimizer,
            total=self._total,
            steps=self.params["epochs"] * self._per_epoch * self._cluster.workers,
            batch=self._batch,
            every=self._steps,
            seed=self._seed,
        )
        self._first = self._done = local.done
        self._begin_round(local)

    def _begin_round(self, local: LocalSGD) -> None:
        self._rows, self._at = local.rows, 0
        local.follow(local.done)

    def _end_round(self, local: LocalSGD, logs: Mapping[str, Any] | None) -> None:
        local.average()
        self._done = local.done
        self._log_step(logs)
        self._begin_round(local)
        if not local.topic.steps:
            self.model.stop_training = True

    def _catch_up(self, local: LocalSGD) -> None:
        """The rest of an epoch in which a worker was missing."""
        end = self._first + self._epochs * self._per_epoch * self._cluster.workers
        while local.topic.steps and local.done < end:
            for _ in range(len(self._rows)):
                logs = self.model.train_on_batch(*self._next(local), return_dict=True)
            self._end_round(local, logs)

    def _batches(self) -> Iterator[Any]:
        """Those of one epoch of Keras."""
        for _ in range(self._per_epoch):
            yield self._next(self._local)

    def _next(self, local: LocalSGD | None) -> Any:
        if local is None or not local.topic.steps:  # only for the shapes
            rows = np.arange(self._batch)
        elif self._at < len(self._rows):
            rows, self._at = self._rows[self._at], self._at + 1
        else:
            raise RuntimeError("the batches of a round can be had only after the average before")
        return tf.nest.map_structure(lambda one: one[rows], self._arrays)

    def _log_start(self) -> None:
        device = check_device(tf, "auto")
        self._has_left = False
        self._log(
            "start",
            workload=Path(sys.argv[0]).stem,
            schema=1,
            device=device,
            device_name=device_name(tf, device),
            tensorflow=tf.__version__,
            keras=keras.__version__,
            worker=self._cluster.worker,
            workers=self._cluster.workers,
            params={"average_every": self._every, "seed": self._seed},
        )

    def _log_step(self, logs: Mapping[str, Any] | None) -> None:
        """The rates exclude the first steps, in which the program is compiled."""
        now, rate = time.monotonic(), {}
        if self._counted is not None and self._done > self._counted:
            took = (now - self._since) / (self._done - self._counted)
            own = self._batch / (1 if self._local is None else self._cluster.workers)
            rate = {"step_seconds": round(took, 6), "examples_per_second": round(own / took, 3)}
        values = {name: float(value) for name, value in (logs or {}).items()}
        self._log("step", phase=self._phase, step=self._done, steps=self._all(), **values, **rate)
        self._counted, self._since = self._done, now

    def _all(self) -> int:
        """The steps of the whole training."""
        per_epoch = self._per_epoch * self._cluster.workers or self.params["steps"]
        return int(self.params["epochs"] * (per_epoch or 0))


def _nowhere(event: str, **fields: Any) -> None:
    """Where there are no records."""
