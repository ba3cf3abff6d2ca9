"""Arguments of workloads that refer to data: ``@vgg19``, ``--data=@./flickr8k/``."""

from dataclasses import dataclass
from pathlib import Path

from gpuvm.data import checksums
from gpuvm.data.catalogue import BY_HAND, KNOWN, ByHand, Known
from gpuvm.data.checksums import is_right
from gpuvm.errors import BadInput, NotFound


@dataclass(frozen=True)
class Named:
    """``place`` is HASH/NAME, ``source`` a file, or a folder's files by their paths below it.

    ``option`` precedes the name in the argument, such as ``--data=``.
    """

    place: str
    source: Path | dict[str, Path]
    option: str = ""


def resolve(argument: str) -> Named | None:
    """The local data that the argument refers to, or None.

    Raises NotFound and BadInput.
    """
    option, equals, value = argument.partition("=")
    if not (equals and option.startswith("-")):
        option, equals, value = "", "", argument
    if not value.startswith("@") or len(value) == 1:
        return None
    return _named(_path(value), value, f"{option}{equals}")


def folder(files: dict[str, Path], name: str, option: str = "") -> Named:
    """Files by their paths, which become a folder of that name in the guest."""
    return Named(f"{checksums.content_of_folder(files)}/{name}", files, option)


def file(path: Path, option: str = "") -> Named:
    return Named(f"{checksums.content(path)}/{path.name}", path, option)


def known_file(name: str) -> Path:
    """The path of a file or folder of the catalogue. Raises NotFound and BadInput."""
    if name in BY_HAND:
        return _by_hand(BY_HAND[name])
    if name not in KNOWN:
        raise NotFound("data", name, [*KNOWN, *BY_HAND])
    return _fetched(KNOWN[name])


def _path(value: str) -> Path:
    name = value[1:]
    path = Path(name)
    if "/" not in name and not path.exists():
        return known_file(name)
    if not path.exists():
        raise BadInput(f"{value}: no such file or folder")
    return path


def _named(source: Path, value: str, option: str) -> Named:
    if not source.is_dir():
        return file(source, option)
    files = checksums.files_below(source)
    if not files:
        raise BadInput(f"{value}: the folder is empty")
    return folder(files, source.resolve().name or "data", option)


def _fetched(known: Known) -> Path:
    command = f"'gpuvm data fetch {known.name}' fetches it"
    if not known.path.exists():
        raise BadInput(f"@{known.name} has not been fetched", hint=command)
    if not is_right(known, known.path):
        raise BadInput(
            f"@{known.name}: the hash of {known.path} is not {known.digest}", hint=command
        )
    return known.path


def _by_hand(own: ByHand) -> Path:
    if not own.path.exists():
        raise BadInput(
            f"@{own.name} is missing", hint=f"put {own.layout} at {own.path}; {own.source}"
        )
    return own.path
