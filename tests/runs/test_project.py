"""Which files of a user's project are sent, and what is run in their copy."""

import subprocess
from pathlib import Path

import pytest

from gpuvm.errors import BadInput
from gpuvm.runs import project


def write(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"of {name}")


def git(root: Path, *arguments: str) -> None:
    subprocess.run(["git", "-C", str(root), *arguments], check=True, capture_output=True)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "mine"
    write(folder, "train.py", "helpers/layers.py", "data/x.csv", "new\nline")
    return folder


def names(found: project.Project) -> list[str]:
    return sorted(found.files)


def test_without_git_all_files_are_sent(root: Path) -> None:
    write(root, ".git/config", "helpers/__pycache__/layers.pyc", ".env")
    found = project.of_script(root / "train.py")
    assert names(found) == [".env", "data/x.csv", "helpers/layers.py", "new\nline", "train.py"]
    assert found.command == ("python", "train.py")
    assert found.name == "train"


def test_with_git_tracked_and_new_files_are_sent(root: Path) -> None:
    git(root, "init")
    (root / ".gitignore").write_text("data/\n*.log\n")
    write(root, "gone.py", "train.log")
    git(root, "add", "train.py", "gone.py", ".gitignore")
    (root / "gone.py").unlink()
    found = project.of_folder(root, ["python", "-m", "helpers.layers"])
    assert names(found) == [".gitignore", "helpers/layers.py", "new\nline", "train.py"]
    assert found.name == "helpers.layers"


def test_a_folder_within_a_work_tree(root: Path) -> None:
    git(root, "init")
    git(root, "add", ".")
    assert names(project.of_folder(root / "helpers", ["make"])) == ["layers.py"]


def test_gpuvmignore_excludes_more(root: Path) -> None:
    write(root, "data/keep/y.csv")
    (root / ".gpuvmignore").write_text("# big\ndata/*\n!data/keep/\n/helpers\n")
    found = project.of_script(root / "train.py")
    assert names(found) == [".gpuvmignore", "data/keep/y.csv", "new\nline", "train.py"]


def test_ignored_script_is_sent_nevertheless(root: Path) -> None:
    (root / ".gpuvmignore").write_text("*.py\n")
    assert "train.py" in names(project.of_script(root / "train.py"))


def test_fetched_results_stay_here(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPUVM_RUNS_DIR", str(root / "runs"))
    write(root, "runs/mine-1/manifest.json")
    assert not [name for name in names(project.of_folder(root, ["make"])) if "runs" in name]


def test_links_to_files_are_sent_as_files(root: Path, tmp_path: Path) -> None:
    write(tmp_path, "outside.bin")
    (root / "linked.bin").symlink_to(tmp_path / "outside.bin")
    (root / "folder").symlink_to(tmp_path)
    (root / "broken").symlink_to(tmp_path / "nothing")
    found = names(project.of_folder(root, ["make"]))
    assert "linked.bin" in found
    assert not {"folder", "broken"} & set(found)


def test_requirements(root: Path) -> None:
    assert project.of_folder(root, ["make"]).requirements is None
    (root / "pyproject.toml").write_text('[project]\nname = "mine"\n')
    assert project.of_folder(root, ["make"]).requirements is None
    (root / "pyproject.toml").write_text('[project]\ndependencies = ["tqdm"]\n')
    assert project.of_folder(root, ["make"]).requirements == root / "pyproject.toml"
    write(root, "requirements.txt")
    assert project.of_folder(root, ["make"]).requirements == root / "requirements.txt"


CONTRACT = """# /// script
# [tool.gpuvm]
# contract = {}
# ///
print("hi")
"""


def test_a_script_declares_the_contract_in_its_inline_metadata(root: Path) -> None:
    script = root / "train.py"
    assert not project.of_script(script).contract
    script.write_text(CONTRACT.format(1))
    assert project.of_script(script).contract
    script.write_text(CONTRACT.format(2))
    with pytest.raises(BadInput, match=r"train\.py: \[tool\.gpuvm\] contract is 2; only 1"):
        project.of_script(script)
    script.write_text(CONTRACT.format("="))
    with pytest.raises(BadInput, match=r"train\.py: inline script metadata: "):
        project.of_script(script)


@pytest.mark.parametrize(
    ("command", "name"),
    [
        (["python", "-m", "mine.train"], "mine.train"),
        (["python3", "-u", "src/train.py", "--x"], "train"),
        (["./run.sh"], "run"),
        (["make", "all"], "make"),
    ],
)
def test_run_names(root: Path, command: list[str], name: str) -> None:
    assert project.of_folder(root, command).name == name


def test_programs_that_cannot_be_run(root: Path) -> None:
    with pytest.raises(BadInput, match="no such file"):
        project.of_script(root / "none.py")
    with pytest.raises(BadInput, match="no such folder"):
        project.of_folder(root / "none", ["make"])
    with pytest.raises(BadInput, match="no command"):
        project.of_folder(root, [])
    (root / "pyproject.toml").write_text("= 1")
    with pytest.raises(BadInput, match=r"pyproject\.toml: "):
        project.of_folder(root, ["make"])
    (root / "pyproject.toml").write_text("[project]\ndependencies = 5")
    assert project.of_folder(root, ["make"]).requirements is None
    (root / "pyproject.toml").write_text("#" * 2_000_000)
    with pytest.raises(BadInput, match=r"pyproject\.toml: larger than 1024 KiB"):
        project.of_folder(root, ["make"])
