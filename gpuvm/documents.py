"""Reads a YAML file into a pydantic model, with file and line in every error."""

import difflib
from pathlib import Path
from typing import TypeVar

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from gpuvm.errors import BadInput

Document = TypeVar("Document", bound=BaseModel)
Location = tuple[int | str, ...]


def read_document(file: Path, model: type[Document]) -> Document:
    """Read and validate the file.

    Raises BadInput for the first error, such as ``gpuvm.yaml:7: acelerator: unknown key``, with the
    number of further errors.
    """
    try:
        text = file.read_text(encoding="utf-8")
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        data = yaml.safe_load(text)
    except OSError as error:
        raise BadInput(f"{file}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise BadInput(f"{file}: not UTF-8 text") from None
    except yaml.YAMLError as error:
        raise _not_yaml(file, error) from None
    try:
        return model.model_validate({} if data is None else data)
    except ValidationError as error:
        raise _invalid(file, root, error, model) from None


def _not_yaml(file: Path, error: yaml.YAMLError) -> BadInput:
    mark = getattr(error, "problem_mark", None)
    line = f":{mark.line + 1}" if mark else ""
    return BadInput(f"{file}{line}: not YAML: {getattr(error, 'problem', None) or error}")


def _invalid(
    file: Path, root: yaml.Node | None, error: ValidationError, model: type[BaseModel]
) -> BadInput:
    details = error.errors()
    first = details[0]
    line = _line(root, first["loc"])
    key = ".".join(str(part) for part in _visible(root, first["loc"]))
    more = f" (and {len(details) - 1} more)" if len(details) > 1 else ""
    return BadInput(
        f"{file}:{line}: {key}: {_problem_text(first)}{more}", hint=_unknown_key_hint(first, model)
    )


def _problem_text(detail: ErrorDetails) -> str:
    if detail["type"] == "extra_forbidden":
        return "unknown key"
    message = detail["msg"].removeprefix("Value error, ")
    return message[:1].lower() + message[1:]


def _unknown_key_hint(detail: ErrorDetails, model: type[BaseModel]) -> str | None:
    """For an unknown key suggest the closest known one, or list the keys."""
    if detail["type"] != "extra_forbidden":
        return None
    known = sorted(_known_keys(model))
    close = difflib.get_close_matches(str(detail["loc"][-1]), known, n=1)
    return f"did you mean '{close[0]}'?" if close else "the keys are: " + ", ".join(known)


def _known_keys(model: type[BaseModel]) -> set[str]:
    keys = set()
    for name, field in model.model_fields.items():
        keys.add(name)
        for inner in _models_in(field.annotation):
            keys |= _known_keys(inner)
    return keys


def _models_in(annotation: object) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [m for inner in getattr(annotation, "__args__", ()) for m in _models_in(inner)]


def _line(root: yaml.Node | None, loc: Location) -> int:
    """Return the line of the deepest part of ``loc`` in the file; 1 for an empty file."""
    line = 1 if root is None else root.start_mark.line + 1
    node = root
    for part in loc:
        key, value = _child(node, part)
        if value is None:
            continue  # a union's tag is in the location but not in the file
        node = value
        line = (key or value).start_mark.line + 1
    return line


def _visible(root: yaml.Node | None, loc: Location) -> Location:
    """Return ``loc`` without pydantic's additions (union tags, ``[key]``); keep a missing key."""
    shown: list[int | str] = []
    node = root
    for position, part in enumerate(loc):
        _, value = _child(node, part)
        if value is not None:
            node = value
            shown.append(part)
        elif position == len(loc) - 1 and part != "[key]":
            shown.append(part)
    return tuple(shown)


def _child(node: yaml.Node | None, part: int | str) -> tuple[yaml.Node | None, yaml.Node | None]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if key.value == part:
                return key, value
    if isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
        return None, node.value[part]
    return None, None
