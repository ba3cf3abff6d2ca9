"""A virtual environment in the guest, made by uv, for packages that the VM template lacks.

It includes the packages of the template's Python, is created once for each content of the
requirements, and is shared by runs (gpuvm/guest/scripts/environment.py).
"""

import hashlib
import json
import re
from pathlib import Path

from gpuvm.errors import PreflightRefused
from gpuvm.files import read_text
from gpuvm.guest import Guest

CREATE_TIMEOUT_S = 3600.0
KEY_LENGTH = 24
LIMIT_KIB = 1024
"""Of each file of requirements."""
_INCLUDED = re.compile(r"^\s*(?:-r|-c|--requirement|--constraint)[ =]\s*(\S+)", re.MULTILINE)


def key(requirements: Path, wheelhouse: str | None) -> str:
    """Identifies the environment by the content of the file and of the files it includes.

    Raises BadInput for a file that cannot be read.
    """
    digest = hashlib.sha256(f"1 {wheelhouse}\0".encode())
    todo, seen = [requirements], set()
    while todo:
        file = todo.pop()
        if file.absolute().resolve() in seen:  # by whatever path
            continue
        seen.add(file.absolute().resolve())
        text = read_text(file, limit_kib=LIMIT_KIB)
        digest.update(f"{file.name}\0{text}\0".encode())
        if file.suffix != ".toml":
            todo += [file.parent / name for name in _INCLUDED.findall(text)]
    return digest.hexdigest()[:KEY_LENGTH]


def ensure(
    guest: Guest, python: str, run_dir: str, key: str, requirements: str, wheelhouse: str | None
) -> str:
    """Return the path of the environment's Python; create the environment if necessary.

    It stays until the last run that uses it is pruned; ``run_dir`` is one that does. It,
    ``requirements`` and ``wheelhouse`` are paths in the guest. Raises PreflightRefused with the
    last lines of the resolver, and GuestError.
    """
    more = [] if wheelhouse is None else [wheelhouse]
    arguments = (run_dir, key, requirements, *more)
    what = "make the Python environment"
    done = guest.script(python, "environment", *arguments, timeout_s=CREATE_TIMEOUT_S, what=what)
    answer = json.loads(done.stdout)
    if "problem" in answer:
        raise PreflightRefused(
            f"{guest.name}: the requirements cannot be installed:\n{answer['problem']}",
            hint="TensorFlow and its dependencies cannot be replaced; --wheelhouse DIR provides "
            "wheels to guests without a package index",
        )
    return str(answer["python"])
