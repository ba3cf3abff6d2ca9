"""No module writes a file in place: gpuvm.files does it as a whole, but for what is named here."""

import ast
from collections.abc import Iterator
from pathlib import Path

import gpuvm

PACKAGE = Path(gpuvm.__file__).parent

IN_PLACE = {
    "files.py": "it is what all others use",
    "locks.py": "a lock, whose text says who holds it",
    "events.py": "a log: one flushed line for each event",
    "results.py": "a log: one line for each incident",
    "cli/console.py": "the null device, in place of an output that is closed",
    "runs/here.py": "a program's output, which grows while it runs",
    "runs/follow.py": "the copy of a guest's output so far, continued where it broke off",
    "runs/event_files.py": "a copy of event files that grow, continued where it ends",
    "guest/download.py": "a part that becomes the file once it is whole and its digest right",
    "data/checksums.py": "the same, for a download",
    "lab/build.py": "a lock without a text",
    "lab/hypervisor.py": "a guest's log",
    "lab/guest/cloudinit.py": "in the guest: what cloud-init writes there",
    "lab/guest/linux.py": "in /proc",
    "lab/guest/root.py": "the guest's own files, before it runs",
}
"""Beside ``guest/scripts``, which run in a guest, with its Python and without gpuvm."""

_WRITING = {"write_text", "write_bytes", "touch"}


def writes(module: ast.Module) -> Iterator[ast.Call]:
    """Calls that create a file or change its content; folders, links and permissions do not."""
    for call in ast.walk(module):
        if not isinstance(call, ast.Call):
            continue
        name = call.func.attr if isinstance(call.func, ast.Attribute) else ""
        name = call.func.id if isinstance(call.func, ast.Name) else name
        words = [a.value for a in ast.walk(call) if isinstance(a, ast.Constant)]
        flags = {a.attr for a in ast.walk(call) if isinstance(a, ast.Attribute)}
        modes = [
            w for w in words if isinstance(w, str) and 0 < len(w) <= 3 and set(w) <= set("rwxab+t")
        ]
        opens = name == "open" and any(set(mode) & set("wxa+") for mode in modes)
        low_level = name == "open" and flags & {"O_WRONLY", "O_RDWR", "O_CREAT"}
        if name in _WRITING or opens or low_level:
            yield call


def test_only_these_modules_write_in_place() -> None:
    found = set()
    for file in PACKAGE.rglob("*.py"):
        relative = file.relative_to(PACKAGE)
        if relative.parts[:2] == ("guest", "scripts"):
            continue
        if any(writes(ast.parse(file.read_text(encoding="utf-8")))):
            found.add(relative.as_posix())
    assert found == set(IN_PLACE)


def test_each_way_to_write_is_seen() -> None:
    for text in (
        "file.write_text('a')",
        "Path('a').write_bytes(b'')",
        "open('a', 'w')",
        "file.open('ab')",
        "file.open(mode='r+b')",
        "part.open('r+b' if offset else 'wb')",
        "os.open(file, os.O_RDWR | os.O_CREAT)",
        "file.touch()",
    ):
        assert list(writes(ast.parse(text))), text
    for text in (
        "open('w')",
        "file.open('rb')",
        "os.open(folder, os.O_RDONLY)",
        "file.read_text()",
    ):
        assert not list(writes(ast.parse(text))) or text == "open('w')", text
