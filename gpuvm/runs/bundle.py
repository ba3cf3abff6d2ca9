"""Finds a workload: its command, its files, and the modules that it imports.

The guests are checked for required modules before anything is sent.
"""

import ast
import os
import re
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
"""The package that all shipped workloads use."""
PROJECT = "project"
"""The folder of a user's project, in the run's folder in a guest."""
PARSED_KIB = 256
SAFE_PATH = "PYTHONSAFEPATH"
"""If set, ``python -m NAME`` does not find packages in the working directory."""
MISSING_HERE = "pip install '.[lab]' in gpuvm's source folder"
"""The hint where this machine lacks what a workload imports."""


@dataclass(frozen=True)
class Workload:
    """``command`` runs in ``cwd``; ``files`` are by their paths below it.

    If ``python``, the command are arguments of the interpreter. ``root`` is the local folder that
    ``cwd`` is a copy of. ``requires`` are the modules that the guest's Python must have, also of
    the standard library, since it may be an older one. They are read once, here: CPython's parser
    is not thread-safe (python/cpython issue 106905). ``requirements`` is a file of packages to
    install in addition to the guest's.
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
        """Whether it is the user's project, where every new file is a result."""
        return self.cwd != "."

    @property
    def size(self) -> int:
        """The size of all files in bytes."""
        return sum(file.stat().st_size for file in self.files.values())

    def hashes(self) -> dict[str, str]:
        """The SHA-256 of each file, by its path."""
        return digests.digests(self.files)

    @property
    def program(self) -> str:
        """Its name in messages: ``captioning``, ``mine.py``."""
        return self.command[-1]

    def run_here(self, arguments: Sequence[str]) -> "subprocess.CompletedProcess[str]":
        """Runs it on this machine, in the working directory, with this Python, and waits.

        Raises PreflightRefused for a missing module.
        """
        command, environment = self.command_here(arguments)
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode != 0 and "No module named" in done.stderr:
            raise PreflightRefused(
                f"{self.name} cannot run on this machine: {last_line(done.stderr)}",
                hint=MISSING_HERE,
            )
        return done

    def command_here(self, arguments: Sequence[str]) -> tuple[list[str], dict[str, str]]:
        """The command line with this Python, and its environment."""
        # -P: a folder of that name in the working directory must not be run.
        command = [sys.executable, "-P", *self.command, *arguments]
        path = os.pathsep.join(filter(None, (str(self.root), os.environ.get("PYTHONPATH"))))
        return command, os.environ | {"PYTHONPATH": path}

    def error(self, stderr: str) -> str:
        """The last line of its standard error, without its name."""
        return last_line(stderr).removeprefix(f"{self.name}: ")


def find(name: str) -> Workload:
    """Finds a shipped workload by name or alias, or a user's script with the files beside it.

    Raises NotFound, which lists the workloads, and BadInput for a missing or invalid file.
    """
    if name.endswith(".py") or "/" in name:
        return _user_project(project.of_script(Path(name)))
    folders = _shipped()
    declared = {folder.name: declaration.read(folder) for folder in folders}
    for folder in folders:
        if name in (folder.name, *declared[folder.name].aliases):
            root = folder.parent
            files = [file for part in (folder, root / COMMON) for file in _files_below(part)]
            return _workload(folder.name, root, ("-m", folder.name), files, declared[folder.name])
    raise NotFound("workload", name, sorted(declared))


def of_project(root: Path, command: Sequence[str]) -> Workload:
    """Any command in a copy of a folder. Raises BadInput."""
    return _user_project(project.of_folder(root, command))


def shipped() -> list[Workload]:
    """All workloads that gpuvm ships."""
    return [find(folder.name) for folder in _shipped()]


def _shipped() -> list[Path]:
    return sorted(file.parent for file in resource("workloads").glob("*/__main__.py"))


def _files_below(folder: Path) -> list[Path]:
    return [
        file
        for file in sorted(folder.rglob("*"))
        if file.is_file() and "__pycache__" not in file.parts
    ]


def _user_project(found: project.Project) -> Workload:
    command, python = found.command, found.command[0] in PYTHONS
    script = found.root / command[1] if python and command[1:] else None
    common = _common_for(found, script)
    requires: set[str] = set()
    if script is not None and script.is_file() and found.requirements is None:
        beside = {name.partition("/")[0].removesuffix(".py") for name in found.files}
        requires = imported_modules(script) - beside - ({COMMON} if common else set())
    declared = Declaration(contract=found.contract)
    if common:  # it is there for the sake of AverageWeights
        declared = Declaration(contract=found.contract, strategies=("local-sgd",))
    return Workload(
        name=found.name,
        root=found.root,
        command=command[1:] if python else command,
        files={**found.files, **common},
        requires=tuple(sorted(requires)),
        declaration=declared,
        cwd=PROJECT,
        python=python,
        requirements=found.requirements,
    )


_IMPORTS_COMMON = re.compile(rf"^[ \t]*(?:from|import)[ \t]+{COMMON}\b".encode(), re.MULTILINE)


def _common_for(found: project.Project, script: Path | None) -> dict[str, Path]:
    """The package of the shipped workloads, beside the script, for a project that imports it and
    has none of that name.
    """
    folder = script.parent if script is not None and script.is_file() else found.root
    if not folder.is_relative_to(found.root) or any(
        (folder / name).exists() for name in (COMMON, f"{COMMON}.py")
    ):
        return {}
    programs = [file for name, file in found.files.items() if name.endswith(".py")]
    if not any(_IMPORTS_COMMON.search(_begin_of(file)) for file in programs):
        return {}
    shipped, below = resource("workloads"), folder.relative_to(found.root)
    return {
        (below / file.relative_to(shipped)).as_posix(): file
        for file in _files_below(shipped / COMMON)
    }


def _begin_of(file: Path) -> bytes:
    try:
        with file.open("rb") as stream:
            return stream.read(PARSED_KIB * 1024)
    except OSError as error:
        raise BadInput(f"{file}: {error.strerror}") from None


def _workload(
    name: str, root: Path, command: tuple[str, ...], files: Sequence[Path], declared: Declaration
) -> Workload:
    by_path = {file.relative_to(root).as_posix(): file for file in files}
    own = {path.partition("/")[0].removesuffix(".py") for path in by_path}
    found = {module for file in files if file.suffix == ".py" for module in imported_modules(file)}
    return Workload(name, root, command, by_path, tuple(sorted(found - own)), declared)


_CAUGHT_IMPORT_ERRORS = {"ImportError", "ModuleNotFoundError", "Exception", "BaseException"}
_ENVIRONMENT_NAMES = {"TYPE_CHECKING", "sys", "os", "platform"}
"""An ``if`` on these depends on the machine, so its imports are not required."""


def imported_modules(file: Path) -> set[str]:
    """Returns the top-level modules that it imports unconditionally.

    Those of a very long program are not known, since CPython's parser takes 600 times its size.
    Raises BadInput with file and line.
    """
    return {name for node in _unconditional(_parse(file)) for name in _imports_of(node)}


def _parse(file: Path) -> ast.Module:
    try:
        with file.open("rb") as stream:
            program = stream.read(PARSED_KIB * 1024 + 1)
        return ast.parse(program if len(program) <= PARSED_KIB * 1024 else b"")
    except OSError as error:
        raise BadInput(f"{file}: {error.strerror}") from None
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        line = getattr(error, "lineno", None) or 1
        what = getattr(error, "msg", None) or str(error) or "nested too deeply"
        raise BadInput(f"{file}:{line}: not a Python program: {what}") from None


def _imports_of(node: ast.AST) -> set[str]:
    if isinstance(node, ast.Import):
        return {alias.name.split(".")[0] for alias in node.names}
    if isinstance(node, ast.ImportFrom) and node.module and not node.level:
        return {node.module.split(".")[0]}
    return set()


def _unconditional(tree: ast.Module) -> Iterator[ast.AST]:
    """Yields the nodes that do not depend on installed modules or on the machine."""
    todo: list[ast.AST] = [tree]
    while todo:
        node = todo.pop()
        yield node
        todo += _children(node)


def _children(node: ast.AST) -> Iterator[ast.AST]:
    if isinstance(node, ast.Try) and any(map(_catches_import_error, node.handlers)):
        yield from (*node.orelse, *node.finalbody)
    elif not (isinstance(node, ast.If) and _tests_environment(node.test)):
        yield from ast.iter_child_nodes(node)


def _catches_import_error(handler: ast.ExceptHandler) -> bool:
    return handler.type is None or bool(_names(handler.type) & _CAUGHT_IMPORT_ERRORS)


def _tests_environment(test: ast.expr) -> bool:
    return bool(_names(test) & _ENVIRONMENT_NAMES)


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
    without = f"{python} has no module {', '.join(missing)}"
    broken = f"{python} does not work: {last_line(done.stderr)}"
    raise PreflightRefused(
        f"{guest.name}: {without if missing else broken}",
        hint="install it in the VM template (workloads/requirements.txt), or set guest.python in "
        "the context to another interpreter",
    )


def last_line(stderr: str) -> str:
    return (stderr.strip().splitlines() or ["no message"])[-1]
