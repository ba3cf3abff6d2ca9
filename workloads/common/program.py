"""The skeleton of a training program, common to all workloads.

    def work(session: Session, data: Digits) -> EndFields: ...

    run("mnist", options, load_data, work)

It loads the data, which may be refused, before it waits for the other workers; then it starts
TensorFlow on all workers, runs the program's own ``work``, and records the end.
"""

import dataclasses
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from common import cluster
from common.averaging import Averaging, Lost, start_heartbeat
from common.cluster import Cluster
from common.device import check_device, device_name, load_tensorflow
from common.errors import BAD_INPUT, LOST_WORKER, BadInput, exit_with, warn
from common.log import Log
from common.options import Options
from common.training import barrier

Data = TypeVar("Data")
EndFields = Mapping[str, Any]
"""Fields of the end record: ``steps``, ``weights_sha256`` and others."""


@dataclass(frozen=True)
class Session:
    """A started worker: TensorFlow, its strategy, the log and the output folder."""

    program: str
    tf: Any
    strategy: Any
    log: Log
    out: Path
    cluster: Cluster
    averaging: Averaging | None = None

    @property
    def is_chief(self) -> bool:
        if self.averaging is not None:
            return self.averaging.is_chief
        return self.cluster.worker == 0

    @property
    def keeps_checkpoints(self) -> bool:
        """Whether this worker writes them: all do, since any may be lost."""
        return True

    def by_chief(self, work: Callable[[], None]) -> None:
        """Does ``work`` on the chief; with local SGD on its successor if it is lost."""
        if self.averaging is not None:
            self.averaging.by_chief(work)
        elif self.is_chief:
            work()

    def warn(self, message: str) -> None:
        warn(self.program, message)


def main(program: str, body: Callable[[], None]) -> None:
    """Calls ``body``; a BadInput becomes one line on standard error and exit status 2."""
    try:
        body()
    except BadInput as error:
        exit_with(program, str(error), BAD_INPUT)


def run(
    program: str,
    options: Options,
    load: Callable[[], Data],
    work: Callable[[Session, Data], EndFields],
    *,
    together: bool = True,
    devices: int = 1,
) -> None:
    """Runs ``work`` with the data of ``load``, and writes the records of every workload.

    ``program`` is the workload's name. Without ``together`` the workers are independent.
    ``devices`` are the most of this machine's that ``work`` can use; they make up the session's
    strategy.
    """
    begun = time.monotonic()
    workers = cluster.from_environment()
    averaging = None
    if together:
        try:
            averaging = Averaging.from_environment(workers.worker)
        except Lost as error:
            exit_with(program, f"nobody averages: {error}", LOST_WORKER)
    replicas = workers.workers if together and averaging is None else 1
    started = cluster.start_watchdog(
        program, options.start_deadline_s, workers if replicas > 1 else Cluster()
    )
    options.out.mkdir(parents=True, exist_ok=True)
    log = Log(options.out / "timings.jsonl")
    with log.phase("data"):
        data = load()
    tf, strategy = load_tensorflow(
        options.device, options.cpu_threads, replicas, devices, options.cpu_devices
    )
    started()
    start_heartbeat(workers.worker)
    session = Session(program, tf, strategy, log, options.out, workers, averaging)
    _log_start(session, options)
    try:
        ended = work(session, data)
        barrier(tf, strategy)
    except Lost as error:
        exit_with(program, f"the other workers were lost: {error}", LOST_WORKER)
    except tf.errors.OpError as error:
        if replicas == 1:
            raise
        reason = str(error).splitlines()[0][:200]
        exit_with(program, f"another worker was lost: {reason}", LOST_WORKER)
    if averaging is not None:
        averaging.close()
    log("end", ok=True, **ended, seconds=round(time.monotonic() - begun, 3))


def _log_start(session: Session, options: Options) -> None:
    """Writes the start record, with the device that a matmul used."""
    tf, device = session.tf, check_device(session.tf, options.device)
    session.log(
        "start",
        workload=session.program,
        schema=1,
        device=device,
        device_name=device_name(tf, device),
        tensorflow=tf.__version__,
        keras=tf.keras.__version__,
        cpu_threads=tf.config.threading.get_intra_op_parallelism_threads(),
        worker=session.cluster.worker,
        workers=session.cluster.workers,
        params={name: _plain(value) for name, value in dataclasses.asdict(options).items()},
    )


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value
