"""Digests of local files are computed once, and again when a file has changed."""

import hashlib
import os
from pathlib import Path

import pytest

from gpuvm import digests


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "folder" / "file"
    file.parent.mkdir()
    file.write_bytes(b"content")
    return file


def test_file_is_hashed_once_under_any_name(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert digests.digests({"a": file}) == {"a": sha256(b"content")}

    def never(*_: object) -> None:
        raise AssertionError("read again")

    with monkeypatch.context() as patch:
        patch.setattr(hashlib, "file_digest", never)
        patch.chdir(file.parent)
        assert digests.digests({"b": Path("file")}) == {"b": sha256(b"content")}
        with pytest.raises(AssertionError, match="read again"):
            digests.digest(file, "md5")
    assert digests.digest(file, "md5") == hashlib.md5(b"content").hexdigest()  # noqa: S324
    assert digests.digest(file) == sha256(b"content")


def test_a_file_that_changed_is_read_again(file: Path) -> None:
    digests.digest(file)
    file.write_bytes(b"another")
    os.utime(file, (1, 1))
    assert digests.digest(file) == sha256(b"another")


def test_cleared_cache_detects_changes_that_size_and_time_do_not_show(file: Path) -> None:
    digests.digest(file)
    there = file.stat()
    file.write_bytes(b"another")
    os.utime(file, ns=(there.st_atime_ns, there.st_mtime_ns))
    assert digests.digest(file) == sha256(b"content")
    digests.forget(file)
    assert digests.digest(file) == sha256(b"another")


def test_what_cannot_be_read_is_raised_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        digests.digest(tmp_path / "nothing")
    assert caught.value.filename == str(tmp_path / "nothing")
