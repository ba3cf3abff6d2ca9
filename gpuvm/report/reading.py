"""Reads JSON and JSON lines into pydantic models, with file and line in every complaint."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import yaml
from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from gpuvm.errors import BadInput

Record = TypeVar("Record")


@dataclass(frozen=True)
class Lines(Generic[Record]):
    """``torn``: the last line was cut off in the middle and left out, as a dying writer leaves it.

    ``there``: the file exists.
    """

    records: tuple[Record, ...]
    torn: bool = False
    there: bool = True


def read_json(file: Path, kind: TypeAdapter[Record]) -> Record:
    """Raises BadInput with file and line when it is not JSON or not what it should be."""
    text = file.read_bytes()
    try:
        return kind.validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        line = _json_line(text, first)
        raise BadInput(f"{file}:{line}: {_said(first, first['loc'])}") from None


def read_lines(file: Path, kind: TypeAdapter[Record]) -> Lines[Record]:
    """One record a line, of a union told apart by a tag; lines with an unknown tag are skipped.

    Raises BadInput with file and line for anything else that is wrong, except a last line that was
    cut off.
    """
    if not file.is_file():
        return Lines((), there=False)
    lines = file.read_bytes().split(b"\n")
    records: list[Record] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            records.append(kind.validate_json(line))
        except ValidationError as error:
            first = error.errors()[0]
            if first["type"] == "union_tag_invalid":
                continue
            if first["type"] == "json_invalid" and number == len(lines):
                return Lines(tuple(records), torn=True)
            # A union's location begins with the tag, which is not a field.
            raise BadInput(f"{file}:{number}: {_said(first, first['loc'][1:])}") from None
    return Lines(tuple(records))


def _said(detail: ErrorDetails, loc: Sequence[int | str]) -> str:
    where = ".".join(str(part) for part in loc)
    if detail["type"] == "json_invalid":
        return f"not JSON: {detail['ctx']['error']}"
    if detail["type"] == "union_tag_not_found":
        return f"{detail['ctx']['discriminator']} is missing".replace("'", "")
    if detail["type"] == "missing":
        return f"{where} is missing"
    message = detail["msg"][:1].lower() + detail["msg"][1:]
    return f"{where}: {message}" if where else message


def _json_line(text: bytes, detail: ErrorDetails) -> int:
    """The line where the JSON breaks, or of the deepest part of the location that is there."""
    if detail["type"] == "json_invalid":
        broken = re.search(r"line (\d+)", detail["ctx"]["error"])
        return int(broken[1]) if broken else 1
    line, node = 1, yaml.compose(text, Loader=yaml.SafeLoader)  # JSON is YAML, with line numbers
    for part in detail["loc"]:
        child = _child(node, part)
        if child is None:
            break
        line, node = child.start_mark.line + 1, child
    return line


def _child(node: yaml.Node | None, part: int | str) -> yaml.Node | None:
    if isinstance(node, yaml.MappingNode):
        return next((value for key, value in node.value if key.value == part), None)
    if isinstance(node, yaml.SequenceNode) and isinstance(part, int):
        return node.value[part] if part < len(node.value) else None
    return None
