"""environment RUN KEY REQUIREMENTS [WHEELHOUSE]: make a Python environment above this Python.

REQUIREMENTS is a requirements file or a pyproject.toml. The environment is RUN/../envs/KEY; one
that is there already is used as it is, and RUN/environment says that the run uses it. Its packages
come before those of this Python, all of which it sees: so TensorFlow is not installed again, and
neither it nor what it needs may be replaced. With WHEELHOUSE only wheels in that folder are
installed, and no index is asked.

Prints one JSON object: {"python": PATH, "made": true} or {"problem": the resolver's last lines}.
"""

from __future__ import annotations

import fcntl
import importlib.metadata
import json
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

LAST_LINES = 15
FRAMEWORK = "tensorflow"


class Failed(Exception):
    """Its text is the last lines of output."""


def main() -> None:
    run, key, requirements = Path(sys.argv[1]).absolute(), sys.argv[2], Path(sys.argv[3])
    wheelhouse = Path(sys.argv[4]) if len(sys.argv) > 4 else None
    folder = run.parent / "envs" / key
    folder.parent.mkdir(parents=True, exist_ok=True)
    with Path(f"{folder}.lock").open("w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # runs that start together make it once
        (run / "environment").write_text(key, encoding="ascii")
        whole = folder / ".whole"
        there = whole.exists()
        if not there:
            shutil.rmtree(folder, ignore_errors=True)
            try:
                make(folder, requirements, wheelhouse)
            except Failed as error:
                shutil.rmtree(folder, ignore_errors=True)
                answer(problem=str(error))
                return
            whole.touch()
    answer(python=str(folder / "bin" / "python"), made=not there)


def make(folder: Path, requirements: Path, wheelhouse: Path | None) -> None:
    uv = find_uv()
    call([*uv, "venv", "--quiet", "--python", sys.executable, str(folder)])
    python = str(folder / "bin" / "python")
    # Not --system-site-packages: if this Python is a virtual environment, those are the base's.
    site = Path(subprocess.check_output([python, "-c", SITE], text=True).strip())
    own = dict.fromkeys(sysconfig.get_paths()[kind] for kind in ("purelib", "platlib"))
    (site / "template.pth").write_text("".join(f"{path}\n" for path in own), encoding="utf-8")
    installed = distributions()
    for one in installed.values():
        write_metadata(one, site)
    kept = folder / "kept.txt"
    kept.write_text(pins(installed, closure(installed)), encoding="utf-8")
    source = ["--no-index", "--find-links", str(wheelhouse)] if wheelhouse else []
    install = [*uv, "pip", "install", "--quiet", "--python", python, *source, "-c", str(kept)]
    call([*install, "-r", str(requirements)])


def write_metadata(one: importlib.metadata.Distribution, site: Path) -> None:
    """Make uv see a package of this Python as installed, by metadata without files."""
    folder = site / f"{normal(one.metadata['Name']).replace('-', '_')}-{one.version}.dist-info"
    folder.mkdir(exist_ok=True)
    for name, text in (
        ("METADATA", one.read_text("METADATA") or one.read_text("PKG-INFO") or ""),
        ("WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"),
        ("INSTALLER", "gpuvm\n"),
    ):
        (folder / name).write_text(text, encoding="utf-8")
    names = ("METADATA", "WHEEL", "INSTALLER", "RECORD")
    record = "".join(f"{folder.name}/{name},,\n" for name in names)
    (folder / "RECORD").write_text(record, encoding="utf-8")


SITE = "import sysconfig; print(sysconfig.get_paths()['purelib'])"


def find_uv() -> list[str]:
    beside = Path(sys.executable).with_name("uv")
    found = shutil.which("uv") or (str(beside) if beside.exists() else None)
    if found is None:
        raise Failed("uv is not installed in this guest: install it in the VM template")
    return [found]


def distributions() -> dict[str, importlib.metadata.Distribution]:
    """Distributions by name; the first of a name is the one that is imported."""
    found: dict[str, importlib.metadata.Distribution] = {}
    for one in importlib.metadata.distributions():
        if one.metadata["Name"]:
            found.setdefault(normal(one.metadata["Name"]), one)
    return found


def closure(installed: dict[str, importlib.metadata.Distribution]) -> set[str]:
    """TensorFlow, also as tensorflow-cpu and the like, and its dependencies."""
    todo = [name for name in installed if name.split("-")[0] == FRAMEWORK]
    found: set[str] = set()
    while todo:
        name = todo.pop()
        if name in found or name not in installed:
            continue
        found.add(name)
        for line in installed[name].requires or []:
            match = re.match(r"[A-Za-z0-9._-]+", line)
            if match and "extra ==" not in line:
                todo.append(normal(match[0]))
    return found


def pins(installed: dict[str, importlib.metadata.Distribution], names: set[str]) -> str:
    lines = [f"{name}=={installed[name].version}\n" for name in sorted(names)]
    return "".join(line for line in lines if "+" not in line)


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def call(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        lines = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()
        raise Failed("\n".join(lines[-LAST_LINES:]))


def answer(**fields: Any) -> None:
    sys.stdout.write(json.dumps(fields) + "\n")


main()
