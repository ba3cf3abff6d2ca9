"""environment WORK KEY REQUIREMENTS [WHEELHOUSE]: make a Python environment above this Python's own.

REQUIREMENTS is a requirements file or a pyproject.toml. The environment is WORK/envs/KEY; one that is
there already is used as it is. Its packages come before those of this Python, all of which it sees:
so TensorFlow is not installed again, and neither it nor anything that it needs may be replaced.
With WHEELHOUSE only wheels in that folder are installed, and no index is asked.

Prints one JSON object: {"python": PATH, "made": true} or {"problem": the resolver's last lines}.
"""

from __future__ import annotations

import fcntl
import importlib.metadata
import json
import os
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
    """Its text are the last lines of what failed."""


def main() -> None:
    work, key, requirements = Path(sys.argv[1]).absolute(), sys.argv[2], Path(sys.argv[3])
    wheelhouse = Path(sys.argv[4]) if len(sys.argv) > 4 else None
    folder = work / "envs" / key
    folder.parent.mkdir(parents=True, exist_ok=True)
    with Path(f"{folder}.lock").open("w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # runs that start together make it once
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
        os.utime(whole)  # when it was last used
    answer(python=str(folder / "bin" / "python"), made=not there)


def make(folder: Path, requirements: Path, wheelhouse: Path | None) -> None:
    uv = find_uv()
    call([*uv, "venv", "--quiet", "--python", sys.executable, str(folder)])
    python = str(folder / "bin" / "python")
    # Not --system-site-packages: of a virtual environment those would be the base Python's.
    site = Path(subprocess.check_output([python, "-c", SITE], text=True).strip())
    own = dict.fromkeys(sysconfig.get_paths()[kind] for kind in ("purelib", "platlib"))
    (site / "template.pth").write_text("".join(f"{path}\n" for path in own), encoding="utf-8")

    kept, fixed, wanted = (folder / name for name in ("kept.txt", "fixed.txt", "wanted.txt"))
    installed = distributions()
    kept.write_text(pins(installed, closure(installed)), encoding="utf-8")
    source = ["--no-index", "--find-links", str(wheelhouse)] if wheelhouse else []
    resolve = [*uv, "pip", "compile", "--quiet", "--no-header", "--no-annotate", *source]
    call([*resolve, "--python", python, "-c", str(kept), str(requirements), "-o", str(fixed)])
    there = {f"{normal(name)}=={version}" for name, version in installed.items()}
    lines = fixed.read_text(encoding="utf-8").splitlines()
    new = [line for line in lines if line.partition(" ")[0].lower() not in there]
    wanted.write_text("".join(f"{line}\n" for line in new), encoding="utf-8")
    call([*uv, "pip", "install", "--quiet", "--no-deps", *source, "--python", python]
         + ["-r", str(wanted)])  # fmt: skip


SITE = "import sysconfig; print(sysconfig.get_paths()['purelib'])"


def find_uv() -> list[str]:
    beside = Path(sys.executable).with_name("uv")
    found = shutil.which("uv") or (str(beside) if beside.exists() else None)
    if found is None:
        raise Failed("uv is not installed in this guest; it belongs in the VM template")
    return [found]


def distributions() -> dict[str, str]:
    found = {}
    for one in importlib.metadata.distributions():
        name = one.metadata["Name"]
        if name:
            found.setdefault(normal(name), one.version)
    return found


def closure(installed: dict[str, str]) -> set[str]:
    """TensorFlow, under whatever name, and all that it needs."""
    todo = [name for name in installed if name.split("-")[0] == FRAMEWORK]
    found: set[str] = set()
    while todo:
        name = todo.pop()
        if name in found or name not in installed:
            continue
        found.add(name)
        for line in importlib.metadata.requires(name) or []:
            match = re.match(r"[A-Za-z0-9._-]+", line)
            if match and "extra ==" not in line:
                todo.append(normal(match[0]))
    return found


def pins(installed: dict[str, str], names: set[str]) -> str:
    lines = [f"{name}=={installed[name]}\n" for name in sorted(names)]
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
