"""The shell completes names from this machine's own files; nothing is asked, little imported."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from gpuvm import settings
from gpuvm.cli import completion
from gpuvm.settings import Context


@pytest.fixture
def known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("lab", "site"):
        settings.save(Context(name=name, vcenter="vc.example", user="a"))
    for run, vm in (
        ("mnist-20261126-100000-aa", "gpuvm-01"),
        ("stock-20261127-100000-bb", "cpu-01"),
    ):
        folder = tmp_path / "runs" / run
        folder.mkdir(parents=True)
        (folder / "manifest.json").write_text(json.dumps({"vms": [{"name": vm}]}))
    record = tmp_path / "state/provisioning/uuid/gpuvm.jsonl"
    record.parent.mkdir(parents=True)
    record.write_text('{"vm": "gpuvm-02", "name": "clone"}\nnot json\n{"name": "plan"}\n[1]\n')


def completed(*words: str) -> list[str]:
    """As bash asks, the last word being incomplete."""
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys; sys.argv[0] = 'gpuvm'\nfrom gpuvm.cli.main import main\nmain()",
        ],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ
        | {
            "_GPUVM_COMPLETE": "complete_bash",
            "COMP_WORDS": " ".join(("gpuvm", *words)),
            "COMP_CWORD": str(len(words)),
        },
    )
    return done.stdout.split()


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (("run", "m"), ["mnist"]),
        (("context", "use", "s"), ["site"]),
        (("status", "-c", "l"), ["lab"]),
        (("attach", "mn"), ["mnist-20261126-100000-aa"]),
        (("report", "stock"), ["stock-20261127-100000-bb"]),
        (("ssh", "gpuvm-"), ["gpuvm-01", "gpuvm-02"]),
        (("stop", "c"), ["cpu-01"]),
        (("exec", "--vm", "gpuvm-02"), ["gpuvm-02"]),
    ],
)
def test_names_are_completed(known: None, words: tuple[str, ...], names: list[str]) -> None:
    assert completed(*words) == names


def test_the_latest_run_comes_first(known: None) -> None:
    assert completion.runs("")[0].startswith("stock")


def test_every_workload_is_offered() -> None:
    assert completion.workloads("") == ["captioning", "mnist", "stock", "style"]


def test_without_any_file() -> None:
    assert (completion.contexts(""), completion.runs(""), completion.vms("")) == ([], [], [])


def test_completion_itself_imports_nothing_that_takes_long() -> None:
    code = "import sys, gpuvm.cli.completion; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert not loaded & {"pydantic", "pyVmomi", "paramiko", "yaml", "rich", "numpy"}
