"""workload.toml: what a shipped workload declares about itself (workloads/README.md)."""

import tomllib
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from gpuvm.errors import BadInput

FILE = "workload.toml"


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Axis(_Model):
    """``option`` takes the ``values`` of an axis of the grid; ``single`` takes one value."""

    option: str
    single: str
    values: str


class Sweep(_Model):
    """A grid that VMs can share out: ``share`` takes I/N, ``gather`` the folders of all shares.

    With ``gather`` the program prints the path of what it made of them.
    """

    share: str
    gather: str
    axes: tuple[Axis, ...]


class CaptionData(_Model):
    """Where the model has ``field``, ``option`` takes the known file ``name`` (gpuvm data)."""

    field: str
    option: str
    name: str


class Caption(_Model):
    """The program captions pictures with a fetched run that has the JSON file ``model``.

    ``files`` are patterns of what it reads there.
    """

    model: str
    files: tuple[str, ...]
    data: tuple[CaptionData, ...] = ()


class Reference(_Model):
    """What others measured with the like of it, and where they say so."""

    text: str
    source: str


class Declaration(_Model):
    """``contract``: the program takes gpuvm's own arguments and writes its records.

    ``aliases`` are names that it had, under which older runs are recorded.
    """

    contract: bool = False
    aliases: tuple[str, ...] = ()
    sweep: Sweep | None = None
    caption: Caption | None = None
    references: tuple[Reference, ...] = ()


def read(folder: Path) -> Declaration:
    """Nothing is declared where there is no file. Raises BadInput for one that is wrong."""
    file = folder / FILE
    if not file.is_file():
        return Declaration()
    try:
        return Declaration.model_validate(tomllib.loads(file.read_text(encoding="utf-8")))
    except tomllib.TOMLDecodeError as error:
        raise BadInput(f"{file}: {error}") from None
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise BadInput(f"{file}: {key}: {first['msg']}") from None
