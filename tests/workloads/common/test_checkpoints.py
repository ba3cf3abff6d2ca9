"""A damaged file of the latest checkpoint is reported, and training starts all the same."""

import json
from pathlib import Path

import pytest

from common.checkpoints import Checkpoints
from common.errors import BadInput


class Written:
    """Saves nothing but a file of the right name."""

    def write(self, path: str) -> str:
        Path(f"{path}.index").write_text("")
        return path


@pytest.fixture
def warnings() -> list[str]:
    return []


@pytest.fixture
def kept(tmp_path: Path, warnings: list[str]) -> Checkpoints:
    return Checkpoints(Written(), tmp_path, "data a", chief=True, warn=warnings.append)


def test_the_latest_and_the_one_before_are_kept(kept: Checkpoints, tmp_path: Path) -> None:
    for step in (10, 20, 30, 30):
        kept.save(f"train-{step}", step)
    names = sorted(file.name for file in (tmp_path / "checkpoints").iterdir())
    assert names == ["before.json", "latest.json", "train-20.index", "train-30.index"]


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"path": "train-10"}', "\x00\xff"])
def test_a_damaged_file_is_reported_in_a_line(
    kept: Checkpoints, tmp_path: Path, warnings: list[str], content: str
) -> None:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "latest.json").write_bytes(content.encode("latin-1"))
    assert kept.restore() is None
    (line,) = warnings
    assert "latest.json cannot be used" in line
    kept.save("train-10", 10)


def test_missing_checkpoint_restores_nothing(kept: Checkpoints) -> None:
    assert kept.restore() is None


@pytest.mark.parametrize("key", ["made_with", "wish"])
def test_one_of_another_run_is_refused(kept: Checkpoints, tmp_path: Path, key: str) -> None:
    """Older runs have what it was made with under another name."""
    (tmp_path / "checkpoints").mkdir()
    state = {"path": "train-10", "done": 10, key: "data b"}
    (tmp_path / "checkpoints" / "latest.json").write_text(json.dumps(state))
    with pytest.raises(
        BadInput, match=r"latest\.json belongs to another run \(data b, not data a\)"
    ):
        kept.restore()
