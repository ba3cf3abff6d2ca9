"""Which file a workload is, what goes with it to the guests, and what it imports.

Modules that it cannot do without are looked for in the guests before anything is sent.
"""

import ast
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from gpuvm.errors import BadInput, NotFound, PreflightRefused
from gpuvm.guest import Guest, scripts
from gpuvm.paths import resource

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
    found = {name for file in files for name in needed(file)}
    return Workload(program.stem, program, files, tuple(sorted(found - siblings)))


def _is_program(file: Path) -> bool:
    return "__main__" in file.read_text(encoding="utf-8")


def _with_siblings(program: Path, shipped: dict[str, Path]) -> tuple[Path, ...]:
    """The program and the shipped modules that it imports, directly or through another."""
    wanted, todo = {program.stem}, [program]
    while todo:
        for name in named(todo.pop()) & shipped.keys() - wanted:
            wanted.add(name)
            todo.append(shipped[name])
    return tuple(shipped[name] for name in sorted(wanted))


_CATCHES = {"ImportError", "ModuleNotFoundError", "Exception", "BaseException"}
_ASKS = {"TYPE_CHECKING", "sys", "os", "platform"}
"""An ``if`` that asks these decides by where it runs, which cannot be known here."""


def named(file: Path) -> set[str]:
    """Every module, by the first part of its name; raises BadInput with file and line."""
    return {name for node in ast.walk(_parsed(file)) for name in _of(node)}


def needed(file: Path) -> set[str]:
    """Without those that the program says it can do without; raises BadInput."""
    return {name for node in _certain(_parsed(file)) for name in _of(node)}


def _parsed(file: Path) -> ast.Module:
    try:
        return ast.parse(file.read_bytes())
    except (SyntaxError, ValueError) as error:
        line = getattr(error, "lineno", None) or 1
        raise BadInput(f"{file}:{line}: not a Python program: {error}") from None


def _of(node: ast.AST) -> set[str]:
    if isinstance(node, ast.Import):
        return {alias.name.split(".")[0] for alias in node.names}
    if isinstance(node, ast.ImportFrom) and node.module and not node.level:
        return {node.module.split(".")[0]}
    return set()


def _certain(tree: ast.Module) -> Iterator[ast.AST]:
    """Its nodes, but not those that a missing module or a question decides about."""
    todo: list[ast.AST] = [tree]
    while todo:
        node = todo.pop()
        yield node
        todo += _children(node)


def _children(node: ast.AST) -> Iterator[ast.AST]:
    if isinstance(node, ast.Try) and any(map(_catches, node.handlers)):
        yield from (*node.orelse, *node.finalbody)
    elif not (isinstance(node, ast.If) and _asks(node.test)):
        yield from ast.iter_child_nodes(node)


def _catches(handler: ast.ExceptHandler) -> bool:
    return handler.type is None or bool(_names(handler.type) & _CATCHES)


def _asks(test: ast.expr) -> bool:
    return bool(_names(test) & _ASKS)


def _names(expression: ast.expr) -> set[str]:
    found = {node.id for node in ast.walk(expression) if isinstance(node, ast.Name)}
    return found | {n.attr for n in ast.walk(expression) if isinstance(n, ast.Attribute)}


def check_imports(guest: Guest, python: str, modules: Sequence[str]) -> None:
    """Raises PreflightRefused with the modules that are missing, or why this Python is no use."""
    command = scripts.command(python, "missing_imports", *modules)
    done = guest.run(command, timeout_s=120, check=False, what=f"ask {python} for modules")
    missing = done.stdout.split()
    if done.exit_status == 0 and not missing:
        return
    lacks = f"{python} has no module {', '.join(missing)}"
    said = (done.stderr.strip().splitlines() or ["no message"])[-1]
    raise PreflightRefused(
        f"{guest.name}: {lacks if missing else f'{python} does not work: {said}'}",
        hint="install it in the VM template (workloads/requirements.txt), or name another "
        "interpreter with guest.python in the context",
    )
