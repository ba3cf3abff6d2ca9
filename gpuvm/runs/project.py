"""A user's project: the files that are sent to guests, and the command to run.

    of_script(Path("train.py"))                               # python train.py
    of_folder(Path("."), ["python", "-m", "mine.train"])

Files that git tracks, and new ones that it does not ignore, are sent; without git, all files. A
``.gpuvmignore`` excludes more, in the syntax of .gitignore. ``.git`` is never sent.
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
from gpuvm.files import read_text

IGNORE = ".gpuvmignore"
ALWAYS_IGNORED = (".git", "__pycache__")
PYTHONS = ("python", "python3")
REQUIREMENTS = ("requirements.txt", "pyproject.toml")
LIMIT_KIB = 1024
"""Of a file about a program; of the program itself, where its metadata is looked for."""


@dataclass(frozen=True)
class Project:
    """``files`` are by their paths below ``root``; ``command`` runs in the copy of it.

    A first word ``python`` or ``python3`` is replaced by the guest's interpreter. ``contract`` is
    whether the program keeps gpuvm's contract (workloads/README.md), and so takes ``--out``.
    ``requirements`` is its requirements file.
    """

    name: str
    root: Path
    files: Mapping[str, Path]
    command: tuple[str, ...]
    contract: bool = False
    requirements: Path | None = None


def of_script(script: Path) -> Project:
    """A Python file and the files beside it.

    It keeps the contract if its inline metadata (PEP 723) declares it: ``[tool.gpuvm]`` with
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
    """Any command in a copy of a folder. Raises BadInput."""
    if not root.is_dir():
        raise BadInput(f"--project {root}: no such folder")
    if not command:
        raise BadInput(
            f"--project {root}: no command",
            hint="for example: 'gpuvm run --project . -- python -m mine.train'",
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
    """The name of its runs: the module, else the script, else the program."""
    words = [word for word in command[1:] if not word.startswith("-")]
    if Path(command[0]).name in PYTHONS and words:
        return words[0].removesuffix(".py").rpartition("/")[2]
    return Path(command[0]).stem


def _files(root: Path) -> dict[str, Path]:
    """The regular files to send, also through links, by their paths below ``root``."""
    ignored = _ignored(root)
    results = paths.runs_dir().absolute()
    found = {}
    for name in _listed_by_git(root) or _walk(root):
        file = root / name
        skip = ignored.match_file(name) or set(Path(name).parts) & set(ALWAYS_IGNORED)
        if not skip and file.is_file() and not file.is_relative_to(results):
            found[name] = file
    return dict(sorted(found.items()))


def _listed_by_git(root: Path) -> list[str] | None:
    """Files below ``root`` that git tracks or would add; None without git or a work tree."""
    command = ["git", "-C", str(root), "ls-files", "-z", "--cached", "--others"]
    try:
        done = subprocess.run([*command, "--exclude-standard"], capture_output=True, check=False)
    except FileNotFoundError:
        return None
    if done.returncode != 0:
        return None
    return [os.fsdecode(name) for name in done.stdout.split(b"\0") if name]


def _walk(root: Path) -> Iterator[str]:
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if name not in ALWAYS_IGNORED]
        for name in names:
            yield str((Path(folder) / name).relative_to(root))


def _ignored(root: Path) -> GitIgnoreSpec:
    file = root / IGNORE
    lines = read_text(file, limit_kib=LIMIT_KIB).splitlines() if file.is_file() else []
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
        data = tomllib.loads(read_text(pyproject, limit_kib=LIMIT_KIB))
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise BadInput(f"{pyproject}: {error}") from None
    project = data.get("project", {})
    listed = project.get("dependencies") if isinstance(project, dict) else None
    return list(map(str, listed)) if isinstance(listed, list) else []


_BLOCK = re.compile(r"(?m)^# /// script$\s(?P<content>(^#(| .*)$\s)+)^# ///$")
"""Inline script metadata as the packaging user guide specifies it (PEP 723)."""


def _inline_metadata(script: Path) -> dict[str, Any]:
    try:
        with script.open("rb") as stream:
            text = stream.read(LIMIT_KIB * 1024).decode("utf-8", errors="replace")
    except OSError as error:
        raise BadInput(f"{script}: {error.strerror}") from None
    match = _BLOCK.search(text)
    if match is None:
        return {}
    lines = match["content"].splitlines()
    content = "\n".join(line[2:] if line.startswith("# ") else line[1:] for line in lines)
    try:
        return tomllib.loads(content)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise BadInput(f"{script}: inline script metadata: {error}") from None


def _contract(metadata: Mapping[str, Any], script: Path) -> bool:
    declared: Any = metadata
    for key in ("tool", "gpuvm", "contract"):
        declared = declared.get(key) if isinstance(declared, dict) else None
    if declared not in (None, 1):
        raise BadInput(f"{script}: [tool.gpuvm] contract is {declared!r}; only 1 is supported")
    return bool(declared == 1)
