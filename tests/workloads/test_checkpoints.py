"""Whatever became of the file that names the latest checkpoint, a program says it and goes on."""

from pathlib import Path
from typing import Any

import pytest
from programs import WORKLOADS


class Written:
    """Saves nothing but a file of the right name."""

    def write(self, path: str) -> str:
        Path(f"{path}.index").write_text("")
        return path


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    monkeypatch.syspath_prepend(WORKLOADS)
    from checkpoints import Checkpoints

    return Checkpoints(Written(), tmp_path, "wish", chief=True)


def test_the_latest_and_the_one_before_are_kept(kept: Any, tmp_path: Path) -> None:
    for step in (10, 20, 30, 30):
        kept.save(f"train-{step}", step)
    names = sorted(file.name for file in (tmp_path / "checkpoints").iterdir())
    assert names == ["before.json", "latest.json", "train-20.index", "train-30.index"]


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"path": "train-10"}', "\x00\xff"])
def test_what_says_nothing_is_said_in_a_line(
    kept: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str
) -> None:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "latest.json").write_bytes(content.encode("latin-1"))
    assert kept.restore() is None
    (line,) = capsys.readouterr().err.splitlines()
    assert "latest.json cannot be used" in line
    kept.save("train-10", 10)


def test_there_may_be_none(kept: Any) -> None:
    assert kept.restore() is None
