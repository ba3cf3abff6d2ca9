"""workload.toml, the declaration of a shipped workload (workloads/README.md)."""

import tomllib
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from gpuvm.documents import LIMIT_KIB, MOST_MISTAKES, described
from gpuvm.errors import BadInput, Mistakes
from gpuvm.files import read_text
from gpuvm.results import Strategy

FILE = "workload.toml"


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Axis(_Model):
    """An axis of the grid: ``option`` takes its ``values``, ``single`` takes one value."""

    option: str
    single: str
    values: str


class Sweep(_Model):
    """A grid that can be divided among VMs: the option ``share`` takes I/N, ``gather`` the folders
    of all shares; the program then prints the path of its result.
    """

    share: str
    gather: str
    axes: tuple[Axis, ...]


class CaptionData(_Model):
    """If the model has ``field``, ``option`` needs the known file ``name`` (gpuvm data)."""

    field: str
    option: str
    name: str


class Caption(_Model):
    """The program can caption pictures with a fetched run that has the JSON file ``model``.

    ``files`` are globs of the files that it reads.
    """

    model: str
    files: tuple[str, ...]
    data: tuple[CaptionData, ...] = ()


class Reference(_Model):
    """What others measured with the like of it, and where they say so."""

    text: str
    source: str


class Declaration(_Model):
    """``contract``: the program takes gpuvm's arguments and writes its records.

    ``aliases`` are former names, under which older runs are recorded. ``strategies`` are those of a
    distributed run, the best first.
    """

    contract: bool = False
    aliases: tuple[str, ...] = ()
    strategies: tuple[Strategy, ...] = ("allreduce",)
    sweep: Sweep | None = None
    caption: Caption | None = None
    references: tuple[Reference, ...] = ()


def read(folder: Path) -> Declaration:
    """Returns the defaults if there is no file. Raises BadInput, and Mistakes for several."""
    file = folder / FILE
    if not file.is_file():
        return Declaration()
    try:
        return Declaration.model_validate(tomllib.loads(read_text(file, limit_kib=LIMIT_KIB)))
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise BadInput(f"{file}: not TOML: {error}") from None
    except ValidationError as error:
        mistakes = []
        for detail in error.errors()[:MOST_MISTAKES]:
            key = ".".join(map(str, detail["loc"]))
            text, hint = described(detail, Declaration)
            mistakes.append(BadInput(f"{file}: {key}: {text}", hint=hint))
        raise mistakes[0] if len(mistakes) == 1 else Mistakes(mistakes) from None
