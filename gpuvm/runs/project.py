"""A project of the user's own: which of its files travel, and what runs in their copy.

    of_script(Path("train.py"))                               # python train.py
    of_folder(Path("."), ["python", "-m", "mine.train"])

What travels is what git tracks and what is new and not ignored; without git, everything. A file
``.gpuvmignore`` takes out more, in the syntax of .gitignore. ``.git`` never travels.
"""

import os
import re
import subprocess
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pathspec import GitIgnoreSpec

from gpuvm import paths
from gpuvm.errors import BadInput

IGNORE = ".gpuvmignore"
ALWAYS_LEFT = (".git", "__pycache__")
PYTHONS = ("python", "python3")
REQUIREMENTS = ("requirements.txt", "pyproject.toml")


@dataclass(frozen=True)
class Project:
    """``files`` are by their paths below ``root``; ``command`` is what runs in the copy of it.

    A first word ``python`` or ``python3`` stands for the guest's own interpreter. ``contract`` says
    that the program keeps gpuvm's contract (workloads/README.md) and so takes ``--out``.
    ``requirements`` is the file that says which packages it needs.
    """

    name: str
    root: Path
    files: Mapping[str, Path]
    command: tuple[str, ...]
    contract: bool = False
    requirements: Path | None = None


def of_script(script: Path) -> Project:
    """A Python file and what lies beside it.

    It keeps the contract if its inline metadata (PEP 723) says so: ``[tool.gpuvm]`` with
    ``contract = 1``. Raises BadInput.
    """
    if not script.is_file():
        raise BadInput(f"workload {script}: no such file")
    root = script.absolute().parent
    files = _files(root)
    files[script.name] = root / script.name  # even if it is ignored
    return Project(
        name=script.stem,
        root=root,
        files=files,
        command=("python", script.name),
        contract=_contract(_inline_metadata(script), script),
        requirements=_requirements(root),
    )


def of_folder(root: Path, command: Sequence[str]) -> Project:
    """Any command in a copy of a folder; raises BadInput."""
    if not root.is_dir():
        raise BadInput(f"--project {root}: no such folder")
    if not command:
        raise BadInput(
            f"--project {root}: no command", hint="gpuvm run --project . -- python -m mine.train"
        )
    root = root.absolute()
    return Project(
        name=_name(command),
        root=root,
        files=_files(root),
        command=tuple(command),
        requirements=_requirements(root),
    )


def _name(command: Sequence[str]) -> str:
    """What a run of the command is called: the module, else the script, else the program."""
    words = [word for word in command[1:] if not word.startswith("-")]
    if Path(command[0]).name in PYTHONS and words:
        return words[0].removesuffix(".py").rpartition("/")[2]
    return Path(command[0]).stem


def _files(root: Path) -> dict[str, Path]:
    """Every regular file that travels, links to files included, by its path below ``root``."""
    ignored = _ignored(root)
    results = paths.runs_dir().absolute()
    found = {}
    for name in _listed_by_git(root) or _below(root):
        file = root / name
        left = ignored.match_file(name) or set(Path(name).parts) & set(ALWAYS_LEFT)
        if not left and file.is_file() and not file.is_relative_to(results):
            found[name] = file
    return dict(sorted(found.items()))


def _listed_by_git(root: Path) -> list[str] | None:
    """What git tracks below ``root`` or would add; None where there is no git or no work tree."""
    command = ["git", "-C", str(root), "ls-files", "-z", "--cached", "--others"]
    try:
        done = subprocess.run([*command, "--exclude-standard"], capture_output=True, check=False)
    except FileNotFoundError:
        return None
    if done.returncode != 0:
        return None
    return [os.fsdecode(name) for name in done.stdout.split(b"\0") if name]


def _below(root: Path) -> Iterator[str]:
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if name not in ALWAYS_LEFT]
        for name in names:
            yield str((Path(folder) / name).relative_to(root))


def _ignored(root: Path) -> GitIgnoreSpec:
    file = root / IGNORE
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    try:
        return GitIgnoreSpec.from_lines(lines)
    except ValueError as error:
        raise BadInput(f"{file}: {error}") from None


def _requirements(root: Path) -> Path | None:
    """requirements.txt, else a pyproject.toml that has dependencies."""
    for name in REQUIREMENTS:
        file = root / name
        if file.is_file() and (name == REQUIREMENTS[0] or _dependencies(file)):
            return file
    return None


def _dependencies(pyproject: Path) -> list[str]:
    try:
        data = tomllib.loads(pyproject.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadInput(f"{pyproject}: {error}") from None
    project = data.get("project", {})
    return list(project.get("dependencies", [])) if isinstance(project, dict) else []


_BLOCK = re.compile(r"(?m)^# /// script$\s(?P<content>(^#(| .*)$\s)+)^# ///$")
"""Inline script metadata as the packaging user guide specifies it (PEP 723)."""


def _inline_metadata(script: Path) -> dict[str, Any]:
    try:
        text = script.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return {}  # Python itself says what is wrong with it
    match = _BLOCK.search(text)
    if match is None:
        return {}
    lines = match["content"].splitlines()
    content = "\n".join(line[2:] if line.startswith("# ") else line[1:] for line in lines)
    try:
        return tomllib.loads(content)
    except tomllib.TOMLDecodeError as error:
        raise BadInput(f"{script}: inline script metadata: {error}") from None


def _contract(metadata: Mapping[str, Any], script: Path) -> bool:
    declared: Any = metadata
    for key in ("tool", "gpuvm", "contract"):
        declared = declared.get(key) if isinstance(declared, dict) else None
    if declared not in (None, 1):
        raise BadInput(f"{script}: [tool.gpuvm] contract is {declared!r}; only 1 is known")
    return bool(declared == 1)
