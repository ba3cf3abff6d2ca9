"""How a workload starts: its device, its threads, and all of its workers or none."""

import argparse
import contextlib
import ctypes
import json
import os
import select
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

BAD_INPUT, LOST_A_PEER = 2, 3
LONGEST_S = 1_000_000  # that a timer takes everywhere


def common_options(parser: argparse.ArgumentParser) -> None:
    """The options that every workload has; workloads/README.md is their contract."""
    parser.add_argument("--out", type=Path, required=True, help="where everything is written")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--device", choices=("auto", "gpu", "cpu"), default="auto")
    parser.add_argument("--cpu-threads", type=int, default=0, help="0: as many as cores")
    parser.add_argument("--start-deadline-s", type=float, default=60)
    parser.add_argument("--stall-s", type=float, default=300)
    parser.add_argument("--stop-after", type=int, metavar="STEPS", help="save and end early")


def choose_preset(
    parser: argparse.ArgumentParser, presets: dict[str, dict[str, Any]]
) -> argparse.Namespace:
    """The command line; what it leaves out is the preset's, and counts are at least 1."""
    options = parser.parse_args()
    for name, value in presets[options.preset].items():
        if getattr(options, name) is None:
            setattr(options, name, value)
        elif isinstance(value, int) and getattr(options, name) < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1")
    _check(parser, options)
    return options


def task() -> tuple[int, Sequence[str]]:
    """The own number and everybody's address, from TF_CONFIG."""
    config = json.loads(os.environ.get("TF_CONFIG") or "{}")
    worker = int(config.get("task", {}).get("index", 0))
    return worker, config.get("cluster", {}).get("worker", ["alone"])


def announce(
    log: Callable[..., None], tf: Any, options: argparse.Namespace, worker: int, workers: int
) -> None:
    """The start record, with the device that a matmul really used."""
    device = check_device(tf, options)
    log(
        "start",
        workload=Path(sys.argv[0]).stem,
        schema=1,
        device=device,
        device_name=device_name(tf, device),
        tensorflow=tf.__version__,
        keras=tf.keras.__version__,
        cpu_threads=tf.config.threading.get_intra_op_parallelism_threads(),
        worker=worker,
        workers=workers,
        params={k: str(v) if isinstance(v, Path) else v for k, v in vars(options).items()},
    )


def tensorflow(options: argparse.Namespace, workers: int) -> tuple[Any, Any]:
    """TensorFlow with its threads and its strategy; blocks until every worker is there."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # the same sums on every machine
    if options.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    import tensorflow as tf

    threads = options.cpu_threads or os.cpu_count() or 1
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    # A collective waits inside one of these for the others: alone there is nobody to wait for.
    tf.config.threading.set_inter_op_parallelism_threads(max(2 if workers > 1 else 1, threads))
    for gpu in tf.config.list_physical_devices("GPU"):
        # TensorFlow takes all of a GPU's memory at once, which on a shared one is others' too.
        tf.config.experimental.set_memory_growth(gpu, True)
    if workers > 1:
        return tf, tf.distribute.MultiWorkerMirroredStrategy()
    return tf, tf.distribute.get_strategy()


def check_device(tf: Any, options: argparse.Namespace) -> str:
    """Where a matmul really ends up, such as /device:CPU:0."""
    if options.device == "gpu" and not tf.config.list_physical_devices("GPU"):
        exit_with("--device gpu: TensorFlow sees no GPU here", BAD_INPUT)
    placed = tf.linalg.matmul(tf.eye(8), tf.eye(8)).device
    return "/" + str(placed).rsplit("/", maxsplit=1)[-1]


def device_name(tf: Any, device: str) -> str:
    for physical in tf.config.list_physical_devices("GPU"):
        if "GPU" in device:
            return str(
                tf.config.experimental.get_device_details(physical).get("device_name", "GPU")
            )
    return "CPU"


def check_same_step(tf: Any, strategy: Any, done: int, workers: int) -> None:
    """Workers that go on from different steps would add up what does not belong together."""
    if workers == 1:
        return
    here = tf.constant(float(done))
    total = tf.function(
        lambda: strategy.reduce("SUM", strategy.run(lambda: tf.identity(here)), axis=None)
    )
    if int(total()) != done * workers:
        exit_with(f"the workers' checkpoints differ: this one's is of step {done}", BAD_INPUT)


def start_watchdog(seconds: float, worker: int, peers: Sequence[str]) -> Callable[[], None]:
    """Goes on in a child; this process ends it when the others have not come in time.

    TensorFlow waits for a missing worker without a word and holds the interpreter while it does, so
    a thread could not watch. Returns, in the child, what is to be called once all are there.
    """
    reading, writing = os.pipe()
    if len(peers) == 1:
        return lambda: os.close(writing)
    child = os.fork()
    if child == 0:
        os.close(reading)
        die_with_parent()
        return lambda: os.close(writing)
    os.close(writing)
    signal.signal(signal.SIGTERM, lambda *_: os.kill(child, signal.SIGTERM))
    if not select.select([reading], [], [], seconds)[0]:
        missing = [p for n, p in enumerate(peers) if n != worker and not is_reachable(p)]
        os.kill(child, signal.SIGKILL)
        names = ", ".join(missing) or "a worker that answers but does not join"
        exit_with(f"not all workers came within {seconds:g} s; missing: {names}", LOST_A_PEER)
    _, status = os.waitpid(child, 0)
    os._exit(abs(os.waitstatus_to_exitcode(status)))


def die_with_parent() -> None:
    """Linux: PR_SET_PDEATHSIG, so that killing the one ends both."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def is_reachable(peer: str) -> bool:
    host, port = peer.rsplit(":", 1)
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=2).close()
    except OSError:
        return False
    return True


def _check(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """What TensorFlow or numpy would otherwise end the program for, without saying which option."""
    for name, least in (("checkpoint_every", 1), ("stop_after", 1), ("cpu_threads", 0)):
        given = getattr(options, name, None)
        if given is not None and given < least:
            parser.error(f"--{name.replace('_', '-')} must be at least {least}")
    if not 0 <= options.seed < 2**32:
        parser.error("--seed must be from 0 to 4294967295")
    if not 0 < options.stall_s < LONGEST_S:
        parser.error(f"--stall-s must be above 0 and below {LONGEST_S}")


def exit_with(message: str, status: int) -> NoReturn:
    """At once: after a collective has failed, TensorFlow's own clean-up may wait for ever."""
    print(f"{Path(sys.argv[0]).name}: {message}", file=sys.stderr, flush=True)
    os._exit(status)
