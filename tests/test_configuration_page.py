"""docs/configuration.md has every key of a context and every variable, and no others."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Union, get_args, get_origin

import pytest
from pydantic import BaseModel

from gpuvm import paths, settings, variables
from gpuvm.settings import Context

PAGE = (Path(__file__).parents[1] / "docs/configuration.md").read_text(encoding="utf-8")


def keys(model: type[BaseModel], before: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        below = [one for one in _members(field.annotation) if isinstance(one, type)]
        below = [one for one in below if issubclass(one, BaseModel)]
        if below:
            for one in below:
                yield from keys(one, f"{before}{name}.")
        else:
            yield f"{before}{name}"


def _members(annotation: object) -> tuple[object, ...]:
    if get_origin(annotation) is Annotated:
        return _members(get_args(annotation)[0])
    several = get_origin(annotation) is Union or type(annotation).__name__ == "UnionType"
    return get_args(annotation) if several else (annotation,)


def section(title: str) -> str:
    return PAGE.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def test_every_key_of_a_context() -> None:
    described = re.findall(r"^\| `([a-z_.0-9]+)` \|", section("Contexts"), re.MULTILINE)
    assert sorted(described) == sorted(set(keys(Context)))


@pytest.mark.parametrize("key", ["ssh.user", "ssh.port", "guest.python", "guest.work_dir"])
def test_defaults(key: str) -> None:
    group, name = key.split(".")
    default = getattr(getattr(Context(name="a", vcenter="b", user="c"), group), name)
    assert f"| `{key}` | `{default}` |" in PAGE


def test_every_variable() -> None:
    sources = [Path(module.__file__ or "").read_text() for module in (paths, settings)]
    own = {name for text in sources for name in re.findall(r'"(GPUVM_[A-Z_]+)"', text)}
    described = set(re.findall(r"^\| `([A-Z_]+)` \|", section("gpuvm's variables"), re.MULTILINE))
    assert described == own | {"SSH_AUTH_SOCK"}


def test_every_variable_of_other_tools() -> None:
    described = set(re.findall(r"`([A-Z]+_[A-Z_]+)`", section("Variables of other tools")))
    assert described == set(variables.NAMES)
