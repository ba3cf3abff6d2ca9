"""Imported by the process that the tests' programs are forked from: what takes long to import."""

import os

# As the programs themselves set them before they import TensorFlow.
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"
os.environ["TF_ENABLE_ONEDNN_OPTS"] = "0"

import PIL.Image  # noqa: F401
import sacrebleu.metrics  # noqa: F401
import scipy.optimize  # noqa: F401
import sklearn.datasets  # noqa: F401
import tensorboard.summary.writer.event_file_writer  # noqa: F401
import tensorflow as tf

tf.keras.Sequential  # noqa: B018 - Keras is imported when it is first used
