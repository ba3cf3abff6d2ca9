"""Counts in sentences: "1 VM" and "2 VMs", never "1 VMs" or "VM(s)"."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from gpuvm.cli import lab, power, teardown
from gpuvm.errors import PortsBlocked
from gpuvm.lab.lab_status import LabStatus
from gpuvm.lifecycle import ApplyResult
from gpuvm.lifecycle.result import Outcome
from gpuvm.text import counted

ROOT = Path(__file__).parents[1]
SOURCES = ("gpuvm", "workloads", "vcsim", "templates", "playbooks", "docs", "benchmarks")
TEXTS = {".py", ".go", ".j2", ".md", ".yaml", ".yml", ".html"}
OPTIONAL_PLURAL = re.compile(r"[a-z]\(e?s\)(?!\.[A-Z]| for s in )")
NOUNS = (
    "VMs GPUs hosts runs files changes snapshots CPUs workers environments addresses records "
    "images rows examples steps shards NVSwitches clones mistakes scalars pictures columns"
)
COUNTED = re.compile(rf" ([a-z]+ )?({'|'.join(NOUNS.split())})\b")
NEVER_ONE = {
    ("gpuvm/planner/plan.py", " GPUs of the HGX board of "),  # only where a VM has several
    ("gpuvm/report/shards.py", " examples, none in two of them, together the whole data set of "),
    ("gpuvm/report/shards.py", " examples."),  # a whole data set
    ("workloads/captioning/images.py", " images of "),  # a held-out set
    ("gpuvm/studio/cards.py", " pictures, content 0 to 2, style 0 to 10"),  # a grid
    ("workloads/captioning/caption.py", " pictures of "),  # that it was trained with
    ("workloads/captioning/train.py", " examples ("),
    ("workloads/captioning/train.py", " steps of "),
    ("gpuvm/cli/progress.py", " examples/s"),  # a rate
    ("gpuvm/cli/provision.py", " VMs match"),  # the other branch is for one
    ("gpuvm/lab/description.py", " GPUs at most"),  # the room in a host
    ("gpuvm/selection.py", " runs virtual hardware up to version "),  # a verb
}


def files(*suffixes: str) -> Iterator[Path]:
    for folder in SOURCES:
        found = (ROOT / folder).rglob("*")
        yield from (file for file in sorted(found) if file.is_file() and file.suffix in suffixes)


def test_no_source_has_a_plural_in_brackets() -> None:
    found = [
        f"{file.relative_to(ROOT)}: {line.strip()}"
        for file in files(*TEXTS)
        for line in file.read_text(encoding="utf-8").splitlines()
        if OPTIONAL_PLURAL.search(line)
    ]
    assert not found


def after_values(tree: ast.AST) -> Iterator[str]:
    """The text after each value in a formatted string."""
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            for value, text in zip(node.values, node.values[1:], strict=False):
                if isinstance(value, ast.FormattedValue) and isinstance(text, ast.Constant):
                    yield str(text.value)


def test_counts_are_followed_by_a_noun_in_its_number() -> None:
    """Not exhaustive: formatted strings only, and the usual nouns."""
    found = {
        (str(file.relative_to(ROOT)), text)
        for file in files(".py")
        if file.parts[len(ROOT.parts)] != "benchmarks"
        for text in after_values(ast.parse(file.read_text(encoding="utf-8")))
        if COUNTED.match(text)
    }
    assert found <= NEVER_ONE, found - NEVER_ONE


@pytest.mark.parametrize(
    ("number", "vms", "switches"),
    [(0, "0 VMs", "0 NVSwitches"), (1, "1 VM", "1 NVSwitch"), (2000, "2,000 VMs", None)],
)
def test_counted(number: int, vms: str, switches: str | None) -> None:
    assert counted(number, "VM") == vms
    assert switches is None or counted(number, "NVSwitch", "NVSwitches") == switches


@pytest.mark.parametrize(("number", "vms"), [(1, "1 VM"), (2, "2 VMs")])
def test_messages_with_one_and_two(
    number: int, vms: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    stopped = [Outcome(f"gpuvm-0{n}", "esx-01", "stopped", changed=True) for n in range(number)]
    off = [Outcome(f"gpuvm-1{n}", "esx-01", "stopped", changed=False) for n in range(number)]
    power._show_stopped(ApplyResult((*stopped, *off)))
    were = "was" if number == 1 else "were"
    assert capsys.readouterr().out == f"stopped: {vms}; {number} {were} already off\n"
    assert teardown._question(number, []) == f"Destroy {vms}?"
    status = LabStatus("lab", running=True, state_dir=tmp_path, hosts=number, gpus=number)
    lab._print_lab(status)
    s = "" if number == 1 else "s"
    assert f"{number} host{s}, {number} GPU{s};" in capsys.readouterr().out
    pairs = [("gpuvm-01", "gpuvm-02", 2222)] * (number + 1)
    assert f"(and {number} more pair{s})" in str(PortsBlocked(pairs))
