"""Files are replaced as a whole; a failed write leaves nothing behind."""

import os
from pathlib import Path

import pytest

from gpuvm.errors import BadInput
from gpuvm.files import read_text, write_atomic, write_new, write_output


def test_replaces_the_content_and_sets_the_exact_mode(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("old and longer", encoding="utf-8")
    file.chmod(0o644)

    write_atomic(file, "new", 0o600)

    assert file.read_text(encoding="utf-8") == "new"
    assert file.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [file]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    folder = tmp_path / "taken"
    folder.mkdir()

    with pytest.raises(IsADirectoryError):
        write_atomic(folder, b"content")

    assert list(tmp_path.iterdir()) == [folder]
    assert folder.is_dir()


def test_a_new_file_never_replaces_another(tmp_path: Path) -> None:
    file = tmp_path / "gpuvm.yaml"
    write_new(file, "first", 0o600)
    with pytest.raises(FileExistsError):
        write_new(file, "second")
    assert file.read_text() == "first"
    assert file.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [file]


def test_output_goes_through_a_link_and_keeps_permissions(tmp_path: Path) -> None:
    file, link = tmp_path / "report.md", tmp_path / "latest.md"
    file.write_text("old")
    file.chmod(0o640)
    link.symlink_to(file.name)
    write_output(link, "new")
    assert link.is_symlink()
    assert file.read_text() == "new"
    assert file.stat().st_mode & 0o777 == 0o640
    assert sorted(tmp_path.iterdir()) == [link, file]


def test_output_is_written_to_a_pipe(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    write_output(Path(f"/dev/fd/{writing}"), "shown")
    os.close(writing)
    with os.fdopen(reading, encoding="utf-8") as read:
        assert read.read() == "shown"


def test_a_person_s_file_is_read_to_a_limit(tmp_path: Path) -> None:
    file = tmp_path / "vars"
    file.write_text("ü" * 512)
    assert read_text(file, limit_kib=1) == "ü" * 512
    file.write_text("ü" * 513)
    for path, problem in (
        (file, "larger than 1 KiB"),
        (Path("/dev/zero"), "larger than 1 KiB"),
        (tmp_path, "Is a directory"),
        (tmp_path / "none", "No such file or directory"),
        (tmp_path / ("n" * 300), "File name too long"),
    ):
        with pytest.raises(BadInput) as refused:
            read_text(path, limit_kib=1, option="--env-file")
        assert str(refused.value) == f"--env-file {path}: {problem}"
    file.write_bytes(b"\xff")
    with pytest.raises(BadInput, match="not UTF-8 text"):
        read_text(file, limit_kib=1)
