"""Records come from guests: what they say is text on the page, in Markdown and in CSV."""

import csv
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
import report_records
import untrusted
from typing_extensions import override

from gpuvm import report
from gpuvm.cli import run_summary
from gpuvm.cli.console import WIDE, PlainConsole
from gpuvm.report import ReportData
from gpuvm.text import LONGEST_WORD

messages = untrusted.names.map(lambda text: text.encode("utf-8", "ignore").decode())
vm_names = messages.map(lambda text: re.sub(r"[/\x00]", "", text)[:60]).filter(
    lambda name: name.strip(".") != ""
)
"""A VM's name is its folder's, too (results.RunVM)."""


class Page(HTMLParser):
    """The names of elements and attributes, the attributes with a URL, and the text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.urls: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()

    @override
    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names |= {tag, *(f"{tag} {name}" for name, _ in attrs)}
        self.urls += [value or "" for name, value in attrs if name in ("href", "src")]

    @override
    def handle_data(self, data: str) -> None:
        self.words.append(data)


def built(folder: Path, name: str, message: str) -> ReportData:
    """A distributed run, with the texts wherever a record has one."""
    run = report_records.RunRecords(folder, "x-20261124-013000-ab12", 2)
    run.names = [name, f"{name}-2"[-60:] or "2"]
    vms = [run.vm(i, vm, host=message, address=message) for i, vm in enumerate(run.names, 1)]
    for one in vms:
        one["gpus"][0] |= {"model": message, "pci_address": message}
    run.manifest(
        workload=message,
        args=[message],
        cluster=message,
        deployment=message,
        operator=message,
        status="failed",
        error=f"{name}: {message}",
        vms=vms,
        vcenter={"name": message, "url": f"javascript:{message}", "version": message},
        gpuvm_version=message,
        strategy="local-sgd",
    )
    incident = {"at": "2026-11-24T01:31:00Z", "vm": message, "what": "lost", "why": message}
    run.append("incidents.jsonl", json.dumps(incident) + "\n")
    run.phase("run", None, 0, 50)
    run.phase(message, name, 1, 40)
    run.phase(message, name, 45, None)
    run.event(kind="warning", text=message, vm=name)
    for vm in tuple(run.names):
        run.start(vm, device=message, device_name=message, tensorflow=message, keras=message)
        run.timing(vm, "phase", 1, name=message, state="start")
        run.timing(vm, "phase", 9, name=message, state="end", seconds=8.0)
        for step in (1, 2, 3):
            run.timing(vm, "step", step, phase=message, step=step, loss=1 / step)
            run.timing(vm, "average", step, phase=message, step=step, seconds=0.1)
        score = {"name": message, "value": 0.5, "split": message, "decoder": message}
        run.timing(vm, "score", 10, **score, of=message, means=message)
        run.results(
            vm,
            samples=[{"image": message, "caption": message, "references": [message]}],
            notes=[message],
        )
        run.append(f"{vm}/stderr.log", f"{message}\n")
    return report.build([run.dir])


def page_of(data: ReportData, folder: Path) -> str:
    report.write_html(data, folder / "report.html")
    return (folder / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory) -> Page:
    folder = tmp_path_factory.mktemp("usual")
    return Page(page_of(built(folder, "gpuvm-01", "an ordinary text"), folder))


@pytest.mark.parametrize("examples", [3, pytest.param(100, marks=pytest.mark.soak)])
def test_any_text_in_the_records(
    tmp_path_factory: pytest.TempPathFactory, usual: Page, examples: int
) -> None:
    def check(name: str, message: str) -> None:
        folder = tmp_path_factory.mktemp("run")
        data = built(folder, name, message)
        check_page(page_of(data, folder), usual)
        check_markdown(report.markdown(data))
        check_csv(report.steps_csv(data))
        check_terminal(data)
        assert json.loads(json.dumps(run_summary.as_json(data)))["runs"][0]["args"] == [message]

    untrusted.tried(examples, check, vm_names, messages)


def check_page(text: str, usual: Page) -> None:
    page = Page(text)
    assert page.names <= usual.names
    assert not [url for url in page.urls if not url.startswith(("#", "data:"))]
    assert untrusted.unprintable(text) == set()
    assert max(map(untrusted.longest_word, page.words)) <= LONGEST_WORD + 20


def check_markdown(text: str) -> None:
    assert untrusted.unprintable(text) == set()
    plain = re.sub(r"\\.", "", text)
    for table in re.findall(r"(?:^\|.*\|\n?)+", plain, re.MULTILINE):
        assert len({row.count("|") for row in table.splitlines()}) == 1
    assert "<" not in plain


def check_csv(text: str) -> None:
    assert untrusted.unprintable(text) == set()
    _, *rows = csv.reader(io.StringIO(text))
    assert len(rows) == 6
    assert not [cell for row in rows for cell in row if cell.startswith(("=", "+", "-", "@"))]


def check_terminal(data: ReportData) -> None:
    out = io.StringIO()
    PlainConsole(file=out, width=WIDE).print(run_summary.of(data, WIDE))
    assert untrusted.unprintable(out.getvalue()) == set()


def test_names_are_shown_as_they_are(tmp_path: Path) -> None:
    """A VM for each, that says it too."""
    texts = [text for text in untrusted.MARKUP if text.strip(".")]
    run = report_records.RunRecords(tmp_path, "x-20261124-013000-ab12", len(texts))
    run.names = [text.replace("/", "-") for text in texts]
    run.manifest(workload="x", status="failed")
    run.phase("run", None, 0, 50)
    for name, text in zip(run.names, texts, strict=True):
        run.event(kind="warning", text=f"<{text}>", vm=name)
        run.phase("run", name, 1, 40)
    data = report.build([run.dir])
    words = "".join(Page(page_of(data, tmp_path)).words)
    assert not [name for name in run.names if name not in words]
    assert not [text for text in texts if f"<{text}>" not in words]


def test_a_formula_in_csv_is_text(tmp_path: Path) -> None:
    rows = list(csv.reader(io.StringIO(report.steps_csv(built(tmp_path, "=cmd|x", "@y")))))
    assert rows[1][1:3] == ["'=cmd|x", "'@y"]
