"""gpuvm turns a vSphere cluster with NVIDIA GPUs into a place where TensorFlow runs."""

__version__ = "0.1.0"
