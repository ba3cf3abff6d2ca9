"""Sets up TensorFlow: threads, device and strategy."""

import os
from typing import Any

from common.errors import BadInput


def load_tensorflow(
    device: str, cpu_threads: int, workers: int, devices: int = 1, cpu_devices: int = 1
) -> tuple[Any, Any]:
    """Returns TensorFlow and its strategy; blocks until every worker has joined.

    ``device`` is auto, gpu or cpu; ``cpu_threads`` 0 means as many as there are cores. The strategy
    has as many of this machine's GPUs as there are, ``devices`` at most. ``cpu_devices`` divides
    the CPU, for tests where there are no GPUs.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # the same results on every machine
    if device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    import tensorflow as tf

    threads = cpu_threads or os.cpu_count() or 1
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    # A collective occupies one of these threads while it waits for the other workers.
    tf.config.threading.set_inter_op_parallelism_threads(max(2 if workers > 1 else 1, threads))
    for gpu in tf.config.list_physical_devices("GPU"):
        # By default TensorFlow allocates all memory of a GPU, even of a shared one.
        tf.config.experimental.set_memory_growth(gpu, True)
    kind, used = _use_devices(tf, devices, cpu_devices)
    if workers > 1:
        return tf, tf.distribute.MultiWorkerMirroredStrategy()
    if used > 1:
        return tf, tf.distribute.MirroredStrategy([f"/{kind}:{n}" for n in range(used)])
    return tf, tf.distribute.get_strategy()


def check_device(tf: Any, device: str) -> str:
    """Returns the device that computed a matmul, such as /device:CPU:0.

    Raises BadInput when ``device`` is gpu and TensorFlow has none.
    """
    if device == "gpu" and not tf.config.list_physical_devices("GPU"):
        raise BadInput("--device gpu: TensorFlow sees no GPU here")
    placed = tf.linalg.matmul(tf.eye(8), tf.eye(8)).device
    return "/" + str(placed).rsplit("/", maxsplit=1)[-1]


def device_name(tf: Any, device: str) -> str:
    """The GPU's model, or CPU."""
    for physical in tf.config.list_physical_devices("GPU"):
        if "GPU" in device:
            return str(
                tf.config.experimental.get_device_details(physical).get("device_name", "GPU")
            )
    return "CPU"


def devices_here(strategy: Any) -> int:
    """The devices of this machine that the strategy computes on."""
    if strategy.num_replicas_in_sync == 1:
        return 1
    return len(strategy.extended.worker_devices)


def _use_devices(tf: Any, most: int, cpu_devices: int) -> tuple[str, int]:
    """The kind of the devices, and how many; TensorFlow sees no other GPUs."""
    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        if len(gpus) > most:
            tf.config.set_visible_devices(gpus[:most], "GPU")
        return "GPU", min(most, len(gpus))
    used = min(most, cpu_devices)
    if used > 1:
        (cpu,) = tf.config.list_physical_devices("CPU")
        parts = [tf.config.LogicalDeviceConfiguration()] * used
        tf.config.set_logical_device_configuration(cpu, parts)
    return "CPU", used
