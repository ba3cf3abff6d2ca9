"""Which file a workload is, what goes with it to the guests, and what it imports."""

from dataclasses import dataclass
from pathlib import Path

from gpuvm.errors import BadInput, NotFound
from gpuvm.resources import resource
from gpuvm.workload import imports

_SHORT = {"stock": "stock_prediction", "style": "style_transfer"}


@dataclass(frozen=True)
class Workload:
    """``files`` are pushed side by side; ``program`` is the one that is run.

    ``requires`` are the modules that the guest's Python must have, its standard library included,
    since it may be an older one. They are read here and once: CPython's parser is not safe to call
    from several threads (python/cpython issue 106905).
    """

    name: str
    program: Path
    files: tuple[Path, ...]
    requires: tuple[str, ...]


def find(name: str) -> Workload:
    """A shipped workload by name, or a file of one's own, which goes alone.

    Raises NotFound with what there is, BadInput for a file that is not there or no Python program.
    """
    if name.endswith(".py") or "/" in name:
        own = Path(name)
        if not own.is_file():
            raise BadInput(f"workload {name}: no such file")
        return _workload(own, (own,))
    shipped = {file.stem: file for file in sorted(resource("workloads").glob("*.py"))}
    programs = {stem for stem, file in shipped.items() if _is_program(file)}
    chosen = _SHORT.get(name, name)
    if chosen not in programs:
        raise NotFound("workload", name, sorted(programs))
    return _workload(shipped[chosen], _with_siblings(shipped[chosen], shipped))


def _workload(program: Path, files: tuple[Path, ...]) -> Workload:
    siblings = {file.stem for file in files}
    found = {name for file in files for name in imports.needed(file)}
    return Workload(program.stem, program, files, tuple(sorted(found - siblings)))


def _is_program(file: Path) -> bool:
    return "__main__" in file.read_text(encoding="utf-8")


def _with_siblings(program: Path, shipped: dict[str, Path]) -> tuple[Path, ...]:
    """The program and the shipped modules that it imports, directly or through another."""
    wanted, todo = {program.stem}, [program]
    while todo:
        for name in imports.named(todo.pop()) & shipped.keys() - wanted:
            wanted.add(name)
            todo.append(shipped[name])
    return tuple(shipped[name] for name in sorted(wanted))
