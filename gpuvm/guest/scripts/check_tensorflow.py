"""check_tensorflow GPU|CPU: computes with TensorFlow; prints JSON with version, device and problem.

It includes a convolution: with a cuDNN that does not support the GPU, a matrix product still works.
If the GPU fails, the CPU is used. The status is 0 if either worked.
"""

import ctypes
import json
import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import tensorflow as tf  # not needed on an operator's machine


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
    result = {"tensorflow": tf.__version__, "device": device, "problem": problem}
    sys.stdout.write(json.dumps(result) + "\n")


def compute(kind: str) -> str:
    """Returns the device that was used, such as ``GPU:0``."""
    if not tf.config.list_physical_devices(kind):
        why = f": {driver()}" if kind == "GPU" else ""
        raise RuntimeError(f"TensorFlow {tf.__version__} sees no {kind}{why}")
    tf.config.set_soft_device_placement(False)
    with tf.device(f"/{kind}:0"):
        square = tf.random.normal((256, 256))
        product = tf.linalg.matmul(square, square)
        image = tf.reshape(product[:64, :64], (1, 64, 64, 1))
        output = tf.nn.conv2d(image, tf.ones((3, 3, 1, 4)), strides=1, padding="SAME")
    if not bool(tf.math.reduce_all(tf.math.is_finite(output))):
        raise RuntimeError(f"{kind}:0 computes wrong results")
    return str(output.device).rsplit("device:", 1)[-1]


def driver() -> str:
    """Queries the NVIDIA driver without TensorFlow: its error, or the number of GPUs."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        return f"the driver library cannot be loaded ({error})"
    code = cuda.cuInit(0)
    if code != 0:
        return f"the driver reports CUDA error {code}, {error_text(cuda, code)}"
    count = ctypes.c_int()
    cuda.cuDeviceGetCount(ctypes.byref(count))
    return f"the driver has {count.value}"


def error_text(cuda: ctypes.CDLL, code: int) -> str:
    text = ctypes.c_char_p()
    cuda.cuGetErrorString(code, ctypes.byref(text))
    return (text.value or b"unknown").decode()


main()
