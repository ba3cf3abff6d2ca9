"""project_files COMMAND DIR: the files that a program wrote in its copy of the user's project.

mark DIR        record the files of DIR/project before the run, in DIR/files.json
collect DIR     link files that are new or changed since then into DIR/out/project
"""

from __future__ import annotations

import json
import os
import stat
import sys
from pathlib import Path

MARKED = "files.json"


def main() -> None:
    command, directory = sys.argv[1:]
    {"mark": mark, "collect": collect}[command](directory)


def stamps(project: Path) -> dict[str, list[int]]:
    """Size, time of change and inode of each regular file, without bytecode caches."""
    found = {}
    for folder, folders, names in os.walk(os.fsencode(project)):
        folders[:] = [name for name in folders if name != b"__pycache__"]
        for name in names:
            path = os.path.join(folder, name)  # noqa: PTH118 - bytes
            entry = os.lstat(path)
            if stat.S_ISREG(entry.st_mode):
                below = os.fsdecode(os.path.relpath(path, os.fsencode(project)))
                found[below] = [entry.st_size, entry.st_mtime_ns, entry.st_ino]
    return found


def mark(directory: str) -> None:
    folder = Path(directory)
    (folder / MARKED).write_text(json.dumps(stamps(folder / "project")), encoding="utf-8")


def collect(directory: str) -> None:
    folder = Path(directory)
    if not (folder / MARKED).exists():
        return
    before = json.loads((folder / MARKED).read_text(encoding="utf-8"))
    for name, stamp in stamps(folder / "project").items():
        if before.get(name) != stamp:
            link = folder / "out" / "project" / name
            link.parent.mkdir(parents=True, exist_ok=True)
            link.unlink(missing_ok=True)
            os.link(folder / "project" / name, link)


main()
