"""Files are replaced as a whole; a failed write leaves nothing behind."""

from pathlib import Path

import pytest

from gpuvm.files import write_atomic


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
