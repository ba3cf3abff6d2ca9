"""Whatever a guest answers to a fetch: nothing outside the folder is made or changed.

The answers are generated, and read through the protocol's own channel, without a connection.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import untrusted
from hypothesis import strategies as st

from gpuvm.errors import GpuvmError, GuestError
from gpuvm.guest import Guest, download, openssh, transfer
from gpuvm.guest.transfer import TransferChannel

MACHINE = cast("Guest", SimpleNamespace(name="one", endpoint=None))
MOST_BYTES = 1 << 20


@dataclass
class Answers:
    """A stream whose other end has written its answers already."""

    data: bytes
    written: bytearray = field(default_factory=bytearray)

    def write(self, data: bytes | memoryview) -> None:
        self.written += data

    def read(self) -> bytes:
        chunk, self.data = self.data[:4096], self.data[4096:]
        return chunk

    def status(self) -> int:
        return 0

    def errors(self) -> str:
        return ""


parts = st.sampled_from(["..", ".", "", "a", "b", "out", "link", "n" * 300, ".gpuvm-x", "A", "\0"])
paths = st.lists(parts | untrusted.texts, min_size=1, max_size=5).map("/".join)
absolute = st.sampled_from(["/etc/x", "//x", "/", "~/x", "\ud800", "a\nb", "a\\..\\b", "link/x"])
numbers: st.SearchStrategy[Any] = st.integers(0, 9) | st.sampled_from(
    [-1, 1 << 62, None, "4", 1.5, [], {}]
)
contents = st.binary(max_size=9)


@st.composite
def hostile(draw: Any) -> bytes:
    """A listing and what is to be its files: mostly right, but for the names and some numbers."""
    files, stream = [], b""
    for name in draw(st.lists(paths | absolute, max_size=5)):
        content = draw(contents)
        honest = draw(st.integers(0, 3))
        size = len(content) if honest else draw(numbers)
        files.append([name, size, 0])
        header = {"size": len(content) if honest else draw(numbers), "offset": 0, "time": 0}
        header |= {} if honest else {"offset": draw(numbers), "time": draw(numbers)}
        trailer = {"sha256": hashlib.sha256(content).hexdigest()}
        stream += _line(header) + content + _line(trailer)
    more: bytes = draw(st.binary(max_size=20))
    return _line({"files": files}) + stream + more


def _line(answer: Any) -> bytes:
    return json.dumps(answer).encode() + b"\n"


@pytest.mark.parametrize("examples", [60, pytest.param(3000, marks=pytest.mark.soak)])
def test_nothing_outside_the_folder(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, examples: int
) -> None:
    monkeypatch.setattr(openssh, "available", lambda _: False)
    monkeypatch.setattr(download, "MOST_GROWTH_BYTES", MOST_BYTES)

    def check(answers: bytes) -> None:
        around = tmp_path_factory.mktemp("around")
        here = around / "runs/here"
        (around / "elsewhere").mkdir()
        (around / "elsewhere/x").write_text("mine")
        (here / "a").mkdir(parents=True)
        (here / "link").symlink_to(around / "elsewhere")
        before = seen(around, but=here)
        with monkeypatch.context() as patch, contextlib.suppress(GpuvmError, EOFError):
            patch.setattr(transfer, "opened", _opened(answers))
            download.fetch(MACHINE, "out", here)
        assert seen(around, but=here) == before
        assert (here / "link").is_symlink()
        assert sum(size for _, size, _ in seen(here)) < 2 * MOST_BYTES

    untrusted.tried(examples, check, hostile())


def _opened(answers: bytes) -> Any:
    @contextlib.contextmanager
    def opened(*_: object, **__: object) -> Iterator[TransferChannel]:
        with transfer._understood(MACHINE, "fetch"):
            yield TransferChannel(MACHINE, "fetch", Answers(answers))

    return opened


def seen(folder: Path, *, but: Path | None = None) -> list[tuple[str, int, bytes]]:
    found = []
    for root, folders, files in os.walk(folder):
        if but is not None and Path(root) == but:
            folders.clear()
            continue
        for name in (*folders, *files):
            file = Path(root) / name
            if file != but and not file.is_symlink():
                content = file.read_bytes() if file.is_file() else b""
                found.append((str(file), len(content), content[:100]))
    return sorted(found)


@pytest.mark.parametrize(
    "lines",
    [
        ["not JSON"],
        ["[" * 100_000],
        [{"files": 3}],
        [{"files": [["a", "4", 0]]}],
        [{"files": [["a", -1, 0]]}],
        [{"files": [["a", 4]]}],
        [{"files": [["a", 4, 0]]}, {"size": 4, "offset": 3, "time": 0}],
        [{"files": [["a", 4, 0]]}, {"size": 4, "offset": -1, "time": 0}],
        [{"files": [["a", 4, 0]]}, {"offset": 0}],
        [{"files": [["a", 4, 0]]}, {"size": 1 << 50, "offset": 0, "time": 0}],
    ],
)
def test_an_answer_without_sense_is_an_error_of_the_guest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: Sequence[Any]
) -> None:
    monkeypatch.setattr(openssh, "available", lambda _: False)
    text = b"".join(
        line.encode() + b"\n" if isinstance(line, str) else _line(line) for line in lines
    )
    monkeypatch.setattr(transfer, "opened", _opened(text))
    with pytest.raises(GuestError, match=r"makes no sense|has grown by more than"):
        download.fetch(MACHINE, "out", tmp_path)
    assert not list(tmp_path.iterdir())
