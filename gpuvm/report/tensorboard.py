"""Curves from TensorBoard's event files, which Keras's callback and torch's SummaryWriter write.

A reader of their own format, because the packages that have one bring gRPC and a web server. Files
come from guests: whatever is in them, this ends with what can be read and says what cannot.

A file is a sequence of records (TensorFlow, ``core/lib/io/record_writer.h``): the length in eight
bytes, its checksum, the data, their checksum; checksums are CRC-32C, masked. The data are an
``Event`` (``core/util/event.proto``), in protobuf's wire format.
"""

import math
import os
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from gpuvm.report.model import Curve
from gpuvm.text import counted, one_line

MOST_TAGS = 12
LARGEST_RECORD = 1 << 16
"""Scalars take less than a hundred bytes; graphs and pictures are skipped unread."""
LARGEST_FILE = 32 << 20
"""So much is read of one file, pictures and graphs not counted: half a million scalars."""

Points = dict[int, float]


def curves(vm: str, folder: Path) -> tuple[tuple[Curve, ...], tuple[str, ...]]:
    """A curve for each scalar in the event files below the folder, and what could not be read.

    Of values for the same step the last one counts, as when a training began again.
    """
    files = sorted(event_files(folder))
    found: dict[tuple[str, str], Points] = {}
    problems: list[str] = []
    base = log_dir([file.parent for file in files]) if files else folder
    for file in files:
        run = file.parent.relative_to(base).as_posix()
        name = one_line(f"{vm}/{file.relative_to(folder).as_posix()}")
        try:
            with file.open("rb") as stream:
                for step, tag, value in _scalars(_records(stream, name, problems)):
                    found.setdefault((tag, run), {})[step] = value
        except OSError as error:
            problems.append(f"{name}: {error.strerror}")
    drawn = [_curve(vm, tag, run, points) for (tag, run), points in found.items()]
    return tuple(sorted(drawn, key=lambda curve: _place(curve.phase))), tuple(problems)


def most_telling(found: Sequence[Curve]) -> tuple[tuple[Curve, ...], tuple[str, ...]]:
    """The curves of so many tags as a page has room for, and the names of the others."""
    tags = sorted({curve.phase for curve in found}, key=_place)
    shown = set(tags[:MOST_TAGS])
    return tuple(curve for curve in found if curve.phase in shown), tuple(tags[MOST_TAGS:])


def _place(tag: str) -> tuple[bool, bool, str]:
    """Losses first, and what Keras writes once an epoch."""
    return "loss" not in tag, not tag.startswith("epoch_"), tag


def _curve(vm: str, tag: str, run: str, points: Points) -> Curve:
    in_order = sorted(points.items())
    return Curve(
        phase=one_line(tag, longest=100),
        vm=vm,
        points=tuple(point for point in in_order if math.isfinite(point[1])),
        diverged_at=next((step for step, value in in_order if not math.isfinite(value)), None),
        series=one_line(run, longest=100),
    )


def event_files(folder: Path) -> Iterator[Path]:
    """Links are not followed: they may lead out of the run."""
    for place, _, names in os.walk(folder):
        for name in names:
            file = Path(place, name)
            if ".tfevents." in name and file.is_file() and not file.is_symlink():
                yield file


def log_dir(folders: list[Path]) -> Path:
    """What ``tensorboard --logdir`` is given; Keras writes to its ``train`` and ``validation``."""
    base = Path(os.path.commonpath(folders))
    return base.parent if base in folders and base.name in ("train", "validation") else base


def _records(stream: BinaryIO, name: str, problems: list[str]) -> Iterator[bytes]:
    """Those that are small enough for scalars, as far as they are sound."""
    cut_off = f"{name} was cut off in the middle of a record, which is left out"
    size, place, taken, damaged = os.fstat(stream.fileno()).st_size, 0, 0, 0
    while place < size:
        head = stream.read(12)
        if len(head) < 12:
            problems.append(cut_off)
            break
        length, check = struct.unpack("<QI", head)
        if check != _masked_crc(head[:8]):
            problems.append(f"{name} is damaged from byte {place} on, and not read further")
            break
        place += 12 + length + 4
        if place > size:
            problems.append(cut_off)
            break
        if length > LARGEST_RECORD:
            stream.seek(place)
            continue
        taken += length
        if taken > LARGEST_FILE:
            problems.append(f"{name} is read as far as {LARGEST_FILE >> 20} MiB only")
            break
        data, check_of_data = stream.read(length), stream.read(4)
        if check_of_data == struct.pack("<I", _masked_crc(data)):
            yield data
        else:
            damaged += 1
    if damaged:
        problems.append(f"{name} has {counted(damaged, 'damaged record')}, left out")


def _scalars(records: Iterator[bytes]) -> Iterator[tuple[int, str, float]]:
    """(step, tag, value); what is no scalar, or no event at all, is passed over."""
    plugins: dict[str, str] = {}  # some writers name it with a tag's first value only
    for record in records:
        try:
            event = _message(record)
            step = _signed(_number(event, 2))
            values = [_message(value) for value in _all(_message(_bytes(event, 5)), 1)]
            for value in values:
                tag = _bytes(value, 1).decode(errors="replace")
                plugin = _bytes(_message(_bytes(_message(_bytes(value, 9)), 1)), 1).decode()
                plugins.setdefault(tag, plugin)
                number = _value(value, plugins[tag])
                if number is not None:
                    yield step, tag, number
        except (ValueError, struct.error):
            continue


def _value(value: "_Message", plugin: str) -> float | None:
    """Of a ``Summary.Value``: simple_value, or a tensor of the plugin for scalars."""
    if 2 in value:
        return float(struct.unpack("<f", _bytes(value, 2))[0])
    if 8 in value and plugin == "scalars":
        return _first_number(_message(_bytes(value, 8)))
    return None


def _first_number(tensor: "_Message") -> float | None:
    """Of a ``TensorProto``: from tensor_content, or from the field of its type."""
    kind, own_field = _LAYOUTS.get(_number(tensor, 1), ("", 0))
    content, own = _bytes(tensor, 4), tensor.get(own_field, [b""])[0]
    if kind == "bfloat16" and content:  # the upper half of a float
        return float(struct.unpack("<f", b"\0\0" + content[:2])[0])
    if kind and content:
        return float(struct.unpack_from(f"<{kind}", content)[0])
    if isinstance(own, int):
        return float(_signed(own))
    if kind in ("i", "q") and own:
        return float(_signed(_varint(own, 0)[0]))
    return float(struct.unpack_from(f"<{kind}", own)[0]) if kind in ("f", "d") and own else None


_LAYOUTS = {1: ("f", 5), 2: ("d", 6), 3: ("i", 7), 9: ("q", 10), 14: ("bfloat16", 0), 19: ("e", 0)}
"""By the DataType of a TensorProto: how tensor_content has it, and the field that stands for it."""

# Protobuf's wire format (protobuf.dev, "Encoding").

_Message = dict[int, list[int | bytes]]


def _message(data: bytes) -> _Message:
    """The fields by number; fixed32 and fixed64 as their bytes. Raises ValueError."""
    fields: _Message = {}
    place = 0
    while place < len(data):
        key, place = _varint(data, place)
        kind = key & 7
        if kind == 0:
            value, place = _varint(data, place)
            fields.setdefault(key >> 3, []).append(value)
            continue
        if kind == 2:
            length, place = _varint(data, place)
        elif kind in (1, 5):
            length = 8 if kind == 1 else 4
        else:
            raise ValueError("not a message")
        if place + length > len(data):
            raise ValueError("not a message")
        fields.setdefault(key >> 3, []).append(data[place : place + length])
        place += length
    return fields


def _varint(data: bytes, place: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if place >= len(data):
            break
        byte = data[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
    raise ValueError("not a number")


def _signed(value: int) -> int:
    value &= (1 << 64) - 1
    return value - (1 << 64) if value >> 63 else value


def _number(message: _Message, number: int) -> int:
    last = message.get(number, [0])[-1]
    if isinstance(last, bytes):
        raise ValueError("not a number")  # noqa: TRY004 - wrong data, as elsewhere here
    return last


def _bytes(message: _Message, number: int) -> bytes:
    last = message.get(number, [b""])[-1]
    if isinstance(last, int):
        raise ValueError("not bytes")  # noqa: TRY004 - wrong data, as elsewhere here
    return last


def _all(message: _Message, number: int) -> list[bytes]:
    return [value for value in message.get(number, []) if isinstance(value, bytes)]


def _crc_table() -> tuple[int, ...]:
    table = []
    for byte in range(256):
        crc = byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)  # Castagnoli's polynomial, reflected
        table.append(crc)
    return tuple(table)


_CRC = _crc_table()


def _masked_crc(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _CRC[(crc ^ byte) & 0xFF]
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
