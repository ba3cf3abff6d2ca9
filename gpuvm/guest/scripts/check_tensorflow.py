"""check_tensorflow GPU|CPU: computes with TensorFlow; prints JSON with version, device and problem.

A convolution belongs to it: with a cuDNN that has no code for the card, a product of matrices
still works. When the GPU does not do it the CPU must. Status 0 whenever one of them did.
"""

import ctypes
import json
import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import tensorflow as tf  # not on an operator's machine


def main() -> None:
    problem = None
    wanted = sys.argv[1]
    if wanted == "GPU":
        try:
            device = compute("GPU")
        except Exception as error:  # noqa: BLE001 - whatever TensorFlow, CUDA or cuDNN raise
            problem = " ".join(str(error).split())[:300] or type(error).__name__
    if wanted != "GPU" or problem:
        device = compute("CPU")
    told = {"tensorflow": tf.__version__, "device": device, "problem": problem}
    sys.stdout.write(json.dumps(told) + "\n")


def compute(kind: str) -> str:
    """The device that did it, such as ``GPU:0``."""
    if not tf.config.list_physical_devices(kind):
        why = f": {driver()}" if kind == "GPU" else ""
        raise RuntimeError(f"TensorFlow {tf.__version__} sees no {kind}{why}")
    tf.config.set_soft_device_placement(False)
    with tf.device(f"/{kind}:0"):
        square = tf.random.normal((256, 256))
        product = tf.linalg.matmul(square, square)
        image = tf.reshape(product[:64, :64], (1, 64, 64, 1))
        result = tf.nn.conv2d(image, tf.ones((3, 3, 1, 4)), strides=1, padding="SAME")
    if not bool(tf.math.reduce_all(tf.math.is_finite(result))):
        raise RuntimeError(f"{kind}:0 computes wrongly")
    return str(result.device).rsplit("device:", 1)[-1]


def driver() -> str:
    """What the NVIDIA driver answers without TensorFlow: its error, or how many GPUs it has."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        return f"the driver library does not load ({error})"
    code = cuda.cuInit(0)
    if code != 0:
        return f"the driver answers with CUDA error {code}, {described(cuda, code)}"
    count = ctypes.c_int()
    cuda.cuDeviceGetCount(ctypes.byref(count))
    return f"the driver has {count.value}"


def described(cuda: ctypes.CDLL, code: int) -> str:
    text = ctypes.c_char_p()
    cuda.cuGetErrorString(code, ctypes.byref(text))
    return (text.value or b"unknown").decode()


main()
