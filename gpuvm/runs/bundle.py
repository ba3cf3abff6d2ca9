"""Which program a workload is, what goes with it to the guests, and what it imports.

Modules that it cannot do without are looked for in the guests before anything is sent.
"""

import ast
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from gpuvm import digests
from gpuvm.errors import BadInput, NotFound, PreflightRefused
from gpuvm.guest import Guest
from gpuvm.paths import resource
from gpuvm.runs import declaration, project
from gpuvm.runs.declaration import Declaration
from gpuvm.runs.project import PYTHONS

COMMON = "common"
"""The package that the shipped workloads share."""
PROJECT = "project"
"""The copy of a user's project, in the run's folder in a guest."""
SAFE_PATH = "PYTHONSAFEPATH"
"""Set, it keeps ``python -m NAME`` from finding a package in the folder where it is run."""


@dataclass(frozen=True)
class Workload:
    """``command`` runs in ``cwd``, below which ``files`` lie, by their paths there.

    It follows the interpreter if ``python``, else it is the whole command. ``root`` is the folder
    on this machine that ``cwd`` is a copy of. ``requires`` are the modules that the guest's Python
    must have, its standard library included, since it may be an older one. They are read here and
    once: CPython's parser is not safe to call from several threads (python/cpython issue 106905).
    ``requirements`` is a file that says which packages are needed beyond the guest's.
    """

    name: str
    root: Path
    command: tuple[str, ...]
    files: Mapping[str, Path]
    requires: tuple[str, ...]
    declaration: Declaration
    cwd: str = "."
    python: bool = True
    requirements: Path | None = None

    @property
    def own(self) -> bool:
        """Whether it is a project of the user's, in whose copy everything new is a result."""
        return self.cwd != "."

    @property
    def size(self) -> int:
        """Bytes that travel when the guest has none of it."""
        return sum(file.stat().st_size for file in self.files.values())

    def hashes(self) -> dict[str, str]:
        """The SHA-256 of each file, by its path."""
        return digests.digests(self.files)

    @property
    def program(self) -> str:
        """What messages call it: ``captioning``, ``mine.py``."""
        return self.command[-1]

    def run_here(self, arguments: Sequence[str]) -> "subprocess.CompletedProcess[str]":
        """Runs it to its end on this machine, in the working directory, with this Python.

        Raises PreflightRefused for a module that is missing here.
        """
        # -P: else a folder of the same name in the working directory would be run instead.
        command = [sys.executable, "-P", *self.command, *arguments]
        path = os.pathsep.join(filter(None, (str(self.root), os.environ.get("PYTHONPATH"))))
        environment = os.environ | {"PYTHONPATH": path}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode != 0 and "No module named" in done.stderr:
            raise PreflightRefused(
                f"{self.name} needs more here: {last_line(done.stderr)}",
                hint="pip install 'gpuvm[lab]'",
            )
        return done

    def error(self, stderr: str) -> str:
        """The last line that it wrote, without its name before it."""
        return last_line(stderr).removeprefix(f"{self.name}: ")


def find(name: str) -> Workload:
    """A shipped workload by its name or an alias, or a script of one's own and what is beside it.

    Raises NotFound with what there is, BadInput for a file that is not there or no Python program.
    """
    if name.endswith(".py") or "/" in name:
        return _own(project.of_script(Path(name)))
    folders = _shipped()
    declared = {folder.name: declaration.read(folder) for folder in folders}
    for folder in folders:
        if name in (folder.name, *declared[folder.name].aliases):
            root = folder.parent
            files = [file for part in (folder, root / COMMON) for file in _files_below(part)]
            return _workload(folder.name, root, ("-m", folder.name), files, declared[folder.name])
    raise NotFound("workload", name, sorted(declared))


def of_project(root: Path, command: Sequence[str]) -> Workload:
    """Any command in a copy of a folder; raises BadInput."""
    return _own(project.of_folder(root, command))


def shipped() -> list[Workload]:
    """All that gpuvm ships, by name."""
    return [find(folder.name) for folder in _shipped()]


def _shipped() -> list[Path]:
    return sorted(file.parent for file in resource("workloads").glob("*/__main__.py"))


def _files_below(folder: Path) -> list[Path]:
    return [
        file
        for file in sorted(folder.rglob("*"))
        if file.is_file() and "__pycache__" not in file.parts
    ]


def _own(found: project.Project) -> Workload:
    command, python = found.command, found.command[0] in PYTHONS
    script = found.root / command[1] if python and command[1:] else None
    requires: set[str] = set()
    if script is not None and script.is_file() and found.requirements is None:
        beside = {name.partition("/")[0].removesuffix(".py") for name in found.files}
        requires = needed(script) - beside
    return Workload(
        name=found.name,
        root=found.root,
        command=command[1:] if python else command,
        files=found.files,
        requires=tuple(sorted(requires)),
        declaration=Declaration(contract=found.contract),
        cwd=PROJECT,
        python=python,
        requirements=found.requirements,
    )


def _workload(
    name: str, root: Path, command: tuple[str, ...], files: Sequence[Path], declared: Declaration
) -> Workload:
    by_path = {file.relative_to(root).as_posix(): file for file in files}
    own = {path.partition("/")[0].removesuffix(".py") for path in by_path}
    found = {module for file in files if file.suffix == ".py" for module in needed(file)}
    return Workload(name, root, command, by_path, tuple(sorted(found - own)), declared)


_CATCHES = {"ImportError", "ModuleNotFoundError", "Exception", "BaseException"}
_ASKS = {"TYPE_CHECKING", "sys", "os", "platform"}
"""An ``if`` that asks these decides by where it runs, which cannot be known here."""


def needed(file: Path) -> set[str]:
    """The modules that it imports, without those that it can do without.

    By the first part of their names. Raises BadInput with file and line.
    """
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
    """Its nodes, but not those that run only under a condition on modules or on the machine."""
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
    what = f"ask {python} for modules"
    done = guest.script(python, "missing_imports", *modules, timeout_s=120, check=False, what=what)
    missing = done.stdout.split()
    if done.exit_status == 0 and not missing:
        return
    lacks = f"{python} has no module {', '.join(missing)}"
    broken = f"{python} does not work: {last_line(done.stderr)}"
    raise PreflightRefused(
        f"{guest.name}: {lacks if missing else broken}",
        hint="install it in the VM template (workloads/requirements.txt), or name another "
        "interpreter with guest.python in the context",
    )


def last_line(stderr: str) -> str:
    return (stderr.strip().splitlines() or ["no message"])[-1]
