"""Packages that a project needs beyond the VM template's: an environment in the guest, by uv.

It lies above the template's own Python and sees its packages, is made once for each content of the
requirements, and is shared by the runs that use it (gpuvm/guest/scripts/environment.py).
"""

import hashlib
import json
import re
from pathlib import Path

from gpuvm.errors import BadInput, PreflightRefused
from gpuvm.guest import Guest

MAKE_S = 3600.0
KEY_LENGTH = 24
_INCLUDED = re.compile(r"^\s*(?:-r|-c|--requirement|--constraint)[ =]\s*(\S+)", re.MULTILINE)


def key(requirements: Path, wheelhouse: str | None) -> str:
    """What the environment is known by: the file's content, and that of the files it includes.

    Raises BadInput for a file that cannot be read.
    """
    digest = hashlib.sha256(f"1 {wheelhouse}\0".encode())
    todo, seen = [requirements], set()
    while todo:
        file = todo.pop()
        if file in seen:
            continue
        seen.add(file)
        try:
            text = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise BadInput(f"{file}: {error}") from None
        digest.update(f"{file.name}\0{text}\0".encode())
        if file.suffix != ".toml":
            todo += [file.parent / name for name in _INCLUDED.findall(text)]
    return digest.hexdigest()[:KEY_LENGTH]


def ensure(
    guest: Guest, python: str, run_dir: str, key: str, requirements: str, wheelhouse: str | None
) -> str:
    """Return the path of the environment's Python, made if it is not there.

    It stays until the last run that uses it is pruned; ``run_dir`` is one that does. It,
    ``requirements`` and ``wheelhouse`` are paths in the guest. Raises PreflightRefused with the
    last lines of the resolver, and GuestError.
    """
    more = [] if wheelhouse is None else [wheelhouse]
    arguments = (run_dir, key, requirements, *more)
    what = "make the Python environment"
    done = guest.script(python, "environment", *arguments, timeout_s=MAKE_S, what=what)
    answer = json.loads(done.stdout)
    if "problem" in answer:
        raise PreflightRefused(
            f"{guest.name}: the requirements cannot be installed:\n{answer['problem']}",
            hint="TensorFlow and what it needs stay as the VM template has them; --wheelhouse DIR "
            "brings wheels to guests without a package index",
        )
    return str(answer["python"])
