"""Where records of runs are: one folder for a project, whichever of its folders one is in."""

from pathlib import Path

import pytest

from gpuvm import paths


@pytest.fixture(autouse=True)
def mine(tmp_path: Path, own_directories: None, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder."""
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.delenv("GPUVM_RUNS_DIR", raising=False)
    return folder


def at(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    monkeypatch.chdir(folder)
    return paths.runs_dir()


def record(folder: Path) -> None:
    (folder / "runs/one").mkdir(parents=True)
    (folder / "runs/one/manifest.json").touch()


@pytest.mark.parametrize("mark", ["gpuvm.yaml", "runs/one/manifest.json"])
def test_the_nearest_folder_that_is_a_project(
    mine: Path, monkeypatch: pytest.MonkeyPatch, mark: str
) -> None:
    for project in (mine / "all", mine / "all/one"):
        (project / mark).parent.mkdir(parents=True)
        (project / mark).touch()
    assert at(mine / "all/one/src/deep", monkeypatch) == mine / "all/one/runs"
    assert at(mine / "all/one", monkeypatch) == mine / "all/one/runs"
    assert at(mine / "all/two", monkeypatch) == mine / "all/runs"


def test_the_working_directory_where_there_is_no_project(
    mine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (mine / "other/runs/exp1").mkdir(parents=True)  # another program's
    assert at(mine / "other/src", monkeypatch) == mine / "other/src/runs"


def test_not_above_the_home_folder(mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record(mine.parent)
    assert at(mine / "src", monkeypatch) == mine / "src/runs"
    record(mine)
    assert at(mine / "src", monkeypatch) == mine / "runs"


def test_not_in_a_folder_that_anybody_may_write_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = tmp_path / "shared"
    record(shared)
    shared.chmod(0o1777)
    assert at(shared / "sub", monkeypatch) == shared / "sub/runs"
    assert at(shared, monkeypatch) == shared / "runs"


def test_the_variable_comes_first(mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record(mine)
    monkeypatch.setenv("GPUVM_RUNS_DIR", "~/elsewhere")
    assert at(mine / "src", monkeypatch) == mine / "elsewhere"


def test_paths_are_shown_as_they_are_typed_here(
    mine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at(mine / "src", monkeypatch)
    assert paths.shown(mine / "src/runs/one") == "runs/one"
    assert paths.shown(mine / "runs/one") == "../runs/one"
    assert paths.shown(Path("/usr")) == "/usr"
