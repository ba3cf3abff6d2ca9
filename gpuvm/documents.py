"""Reads a YAML file into a pydantic model, with file and line in every error."""

import difflib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails
from typing_extensions import override

from gpuvm.errors import BadInput, Mistakes
from gpuvm.files import read_text
from gpuvm.text import counted
from gpuvm.validation import problem_text, shown

Document = TypeVar("Document", bound=BaseModel)
Location = tuple[int | str, ...]

LIMIT_KIB = 128
MOST_MISTAKES, MOST_PLACES = 20, 100
"""That are shown, and that are looked up in the file."""
DEEPEST = 20
"""How deeply a document may be nested: PyYAML reads by recursion."""


def read_document(
    file: Path,
    model: type[Document],
    *,
    limit_kib: int = LIMIT_KIB,
    check_version: Callable[[Path, object], None] | None = None,
) -> Document:
    """The file as ``model``.

    ``check_version`` sees the file's ``version`` before anything in it is judged.

    Raises BadInput with one line, ``gpuvm.yaml:7: acelerator: unknown key``, and Mistakes with
    such a line for each of several things that are wrong, in their order in the file.
    """
    text = read_text(file, limit_kib=limit_kib)
    try:
        loader = _Loader(text)
        root = _composed(file, loader, limit_kib)
        twice = list(_given_twice(file, root))
        data = None if root is None else loader.construct_document(root)
    except yaml.YAMLError as error:
        raise _not_yaml(file, text, error) from None
    if check_version is not None and isinstance(data, Mapping):
        check_version(file, data.get("version"))
    try:
        read = model.model_validate({} if data is None else data)
    except ValidationError as error:
        complaints = [*twice, *_complaints(file, root, error, model)]
        raise _in_one(complaints, more=max(0, error.error_count() - MOST_PLACES)) from None
    if twice:
        raise _in_one(twice)
    return read


def _in_one(complaints: Sequence[tuple[int, BadInput]], more: int = 0) -> BadInput:
    """Of (line, complaint): the only one as it is, several as one error that has them all.

    ``more`` were not looked at.
    """
    errors = [error for _, error in sorted(complaints, key=lambda one: one[0])]
    once = list({str(error): error for error in errors}.values())
    more += max(0, len(once) - MOST_MISTAKES)
    if more:
        once[MOST_MISTAKES:] = [BadInput(f"and {counted(more, 'more mistake')}")]
    return once[0] if len(once) == 1 else Mistakes(once)


_PLAIN_NUMBER = re.compile(r"[-+]?(0|[1-9][0-9]*|0x[0-9a-fA-F]+)")


class _Refused(yaml.MarkedYAMLError):
    """What is YAML, and nothing that gpuvm reads."""


class _Loader(yaml.SafeLoader):
    """Refuses what PyYAML would end in a RecursionError or a ValueError for, with its line."""

    depth = 0

    @override
    def compose_node(self, parent: Any, index: Any) -> Any:
        self.depth += 1
        if self.depth > DEEPEST:
            problem = f"nested more than {DEEPEST} deep"
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise _Refused(problem=problem, problem_mark=mark)
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    @override
    def construct_object(self, node: Any, deep: bool = False) -> Any:
        """Such as 2026-99-99, which looks like a date; 010 and 1:30 are 8 and 90 to YAML 1.1."""
        if node.tag.endswith(":int") and not _PLAIN_NUMBER.fullmatch(node.value):
            problem = f"{shown(str(node.value))} is no plain number: write it in decimal digits"
            raise _Refused(problem=problem, problem_mark=node.start_mark)
        try:
            return super().construct_object(node, deep)
        except (ValueError, OverflowError):
            problem = f"{shown(str(node.value))} cannot be read: put it in quotes"
            raise _Refused(problem=problem, problem_mark=node.start_mark) from None


def _composed(file: Path, loader: _Loader, limit_kib: int) -> yaml.Node | None:
    """The document's nodes, which are not too many, through aliases, either."""
    root: yaml.Node | None = loader.get_single_node()
    if root is not None and _size(file, root, {}) > limit_kib * 1024:
        raise BadInput(f"{file}: its aliases (*name) stand for too much: write it out")
    return root


def _size(file: Path, node: yaml.Node, known: dict[int, int | None]) -> int:
    """How many nodes it stands for when its aliases are written out."""
    if id(node) in known:
        size = known[id(node)]
        if size is None:
            raise BadInput(f"{file}:{_at(node)}: it contains itself")
        return size
    known[id(node)] = None
    inner = node.value if isinstance(node, yaml.SequenceNode) else ()
    if isinstance(node, yaml.MappingNode):
        inner = [one for pair in node.value for one in pair]
    known[id(node)] = size = 1 + sum(_size(file, one, known) for one in inner)
    return size


def _at(where: yaml.Node) -> int:
    """Its line."""
    return where.start_mark.line + 1 if where.start_mark else 1


def _given_twice(
    file: Path, node: yaml.Node | None, above: Location = ()
) -> Iterator[tuple[int, BadInput]]:
    """A key that is there twice: YAML's readers take the last one and say nothing."""
    if isinstance(node, yaml.SequenceNode):
        for number, item in enumerate(node.value):
            yield from _given_twice(file, item, (*above, number))
    if not isinstance(node, yaml.MappingNode):
        return
    first: dict[str, int] = {}
    for key, value in node.value:
        name, line = str(key.value), _at(key)
        if isinstance(key, yaml.ScalarNode) and name in first:
            shown = ".".join(map(str, (*above, name)))
            yield (
                line,
                BadInput(f"{file}:{line}: {shown}: given twice, first on line {first[name]}"),
            )
        first.setdefault(name, line)
        yield from _given_twice(file, value, (*above, name))


def _not_yaml(file: Path, text: str, error: yaml.YAMLError) -> BadInput:
    """A character that YAML does not allow has a position and no mark."""
    if isinstance(error, yaml.reader.ReaderError):
        line = text.count("\n", 0, error.position) + 1
        return BadInput(f"{file}:{line}: not YAML: the character U+{ord(text[error.position]):04X}")
    mark = getattr(error, "problem_mark", None)
    where = f":{mark.line + 1}" if mark else ""
    what = "" if isinstance(error, _Refused) else "not YAML: "
    return BadInput(f"{file}{where}: {what}{getattr(error, 'problem', None) or error}")


def _complaints(
    file: Path, root: yaml.Node | None, error: ValidationError, model: type[BaseModel]
) -> Iterator[tuple[int, BadInput]]:
    """One for each place: the kinds that a value may be of are each tried, and each complains."""
    places: set[Location] = set()
    for detail in error.errors()[:MOST_PLACES]:
        place = _visible(root, detail["loc"])
        if place in places:
            continue
        places.add(place)
        line = _line(root, detail["loc"])
        key = "".join(f"{part}: " for part in [".".join(map(str, place))] if part)
        text, hint = described(detail, model)
        yield line, BadInput(f"{file}:{line}: {key}{text}", hint=hint)


def described(detail: ErrorDetails, model: type[BaseModel]) -> tuple[str, str | None]:
    """What is wrong; and for an unknown key a likely spelling, or the keys that there are."""
    text, loc = problem_text(detail), detail["loc"]
    if detail["type"] == "union_tag_not_found":
        kinds = _models_at(model, loc)[0]
        return text, "it is one of " + ", ".join(tag for one in kinds for tag in _tags(one))
    if detail["type"] != "extra_forbidden":
        return text, None
    (around, *_), siblings = _models_at(model, loc[:-1])
    key, known = str(loc[-1]), sorted(around.model_fields)
    if any(key in one.model_fields for one in siblings):
        name, kind = next((n, tag) for tag, n in _tags(around).items())
        others = ", ".join(other for other in known if other != name)
        hint = f"{name} {kind} takes {others}" if others else f"leave {key} out"
        return f"{name} {kind} takes no {key}", hint
    close = difflib.get_close_matches(key, known, n=1)
    close = close or difflib.get_close_matches(key, sorted(_known_keys(model)), n=1)
    return text, f"did you mean '{close[0]}'?" if close else "the keys are: " + ", ".join(known)


def _models_at(
    model: type[BaseModel], loc: Location
) -> tuple[list[type[BaseModel]], list[type[BaseModel]]]:
    """The models that may stand at this place; and of one of a union's kinds all kinds."""
    there, siblings = [model], list[type[BaseModel]]()
    for part in loc:
        chosen = [one for one in there if len(there) > 1 and part in _tags(one)]
        if chosen:
            there, siblings = chosen, there
        elif isinstance(part, str) and part in there[0].model_fields:
            there, siblings = _models_in(there[0].model_fields[part].annotation) or [model], []
    return there, siblings


def _tags(model: type[BaseModel]) -> dict[str, str]:
    """The model's value of the key that tells a union's kinds apart, and that key."""
    return {
        field.default: name
        for name, field in model.model_fields.items()
        if get_origin(field.annotation) is Literal
        and get_args(field.annotation) == (field.default,)
    }


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
