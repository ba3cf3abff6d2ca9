"""TensorBoard's event files, as its writers write them, without loading TensorFlow.

The light environment, which has no TensorBoard, imports this too.
"""

import struct
from pathlib import Path
from typing import Any


class Scalars:
    """One file, to which ``add`` appends."""

    def __init__(self, folder: Path, tag: str = "loss") -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        folder.mkdir(parents=True, exist_ok=True)
        self._tag, self._file = tag, folder / "events.out.tfevents.1.guest"
        self._write(Event(file_version="brain.Event:2"))

    def add(self, *values: float, first: int = 1) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        for step, value in enumerate(values, start=first):
            summary = Summary(value=[Summary.Value(tag=self._tag, simple_value=value)])
            self._write(Event(wall_time=step, step=step, summary=summary))

    def _write(self, event: Any) -> None:
        from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c

        data = event.SerializeToString()
        head = struct.pack("<Q", len(data))
        crcs = (struct.pack("<I", masked_crc32c(part)) for part in (head, data))
        with self._file.open("ab") as file:
            file.write(head + next(crcs) + data + next(crcs))


def scalars(folder: Path, *values: float) -> None:
    Scalars(folder).add(*values)
