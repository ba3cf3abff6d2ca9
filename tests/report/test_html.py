"""report.write_html: one self-contained page that is readable without pictures."""

import base64
import json
import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import report_records
from typing_extensions import override

from gpuvm import report
from gpuvm.errors import BadInput
from gpuvm.report.format import duration, number


class Page(HTMLParser):
    """Elements with their attributes, and the text in reading order."""

    VOID = frozenset({"meta", "link", "img", "br", "path", "use"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.source = text
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    @override
    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    @override
    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    @override
    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag, f"</{tag}> closes something else"

    @override
    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] not in ("style", "script"):
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def _page(tmp_path: Path, *run_dirs: Path) -> Page:
    file = tmp_path / "report.html"
    report.write_html(report.build(run_dirs), file)
    return Page(file.read_text(encoding="utf-8"))


@pytest.fixture
def finished(tmp_path: Path) -> Page:
    return _page(tmp_path, report_records.captioning_run(tmp_path))


def test_it_refers_to_nothing_outside_itself(finished: Page) -> None:
    for tag, attributes in finished.elements:
        for name in ("src", "href", "xlink:href", "srcset", "action", "data", "poster"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:", "#")), (tag, name, value)
    assert not finished.all("script")
    assert not re.search(r"@import|url\((?!#)", finished.source)
    outside = set(re.findall(r"\w+://[^\s\"'<]+", finished.source))
    assert outside == {"https://127.0.0.1:8989/sdk"}  # the vCenter's, as text


def test_pictures_are_embedded(finished: Page, tmp_path: Path) -> None:
    pictures = finished.all("img")
    files = sorted(tmp_path.glob("*/gpuvm-01/samples/*.png"))
    assert len(pictures) == len(files) == 6
    for picture, file in zip(pictures, files, strict=True):
        head, encoded = (picture["src"] or "").split(",")
        assert head == "data:image/png;base64"
        assert base64.b64decode(encoded) == file.read_bytes()
        assert picture["alt"]


def test_it_states_first_that_tensorflow_ran_on_the_cpu(finished: Page) -> None:
    sentence = "TensorFlow ran on the CPU; the GPU in this lab is simulated."
    assert sentence in finished.text
    assert finished.text.index(sentence) < finished.text.index("BLEU-4")
    assert any("loud" in (p.get("class") or "") for p in finished.all("p"))


def test_it_shows_the_numbers(finished: Page) -> None:
    for shown in (
        "gpuvm lab: simulated vCenter Server 8.0.3",
        "BLEU-4 greedy 0.912 images shuffled: 0.413",
        "2 min 51 s",
        "400 of 400",
        "a large red circle above a small blue square",
        "none of the references",
        "Verified from the lists of ids: 4 shards of 1,200 examples",
        "All workers ended with the same weights.",
        "Clone 28.0 s 19.0 s 22.0 s 25.0 s 28.0 s",
        "Evaluate 17.5 s 17.5 s — — —",
        "--steps 400",
    ):
        assert shown in finished.text


def test_runs_that_can_be_compared_are(tmp_path: Path) -> None:
    first = report_records.captioning_run(tmp_path / "a")
    second = report_records.captioning_run(tmp_path / "b", vms=2)
    manifest = json.loads((second / "manifest.json").read_text())
    manifest["run_id"] = "captioning-20261124-023000-cd34"
    (second / "manifest.json").write_text(json.dumps(manifest))
    page = _page(tmp_path, first, second)
    assert "Comparison" in page.text
    assert "2 VMs" in page.text
    assert "no speed-up: its GPU is simulated" in page.text
    assert "Comparison" not in _page(tmp_path, first).text
    assert "Comparison" not in _page(tmp_path, first, report_records.failed_run(tmp_path)).text


def test_a_picture_without_references_is_shown_large(tmp_path: Path) -> None:
    run = report_records.RunRecords(tmp_path, "stock-20261124-013000-ab12", 1)
    run.manifest(workload="stock")
    samples = [{"caption": "the error"}, {"caption": "a circle", "references": ["a circle"]}]
    run.results("gpuvm-01", samples=samples)
    page = _page(tmp_path, run.dir)
    assert [one.get("class") for one in page.all("li")[:2]] == ["large", None]
    assert "=&#34;" not in page.source, "no attribute is escaped"


def test_charts_have_labels_and_the_pages_colours(finished: Page) -> None:
    charts = [svg for svg in finished.all("svg") if svg.get("role") == "img"]
    assert len(charts) == 12  # three timelines, two losses, one rate, each wide and narrow
    for chart in charts:
        assert chart["aria-label"]
    assert "Clone 28.0 s" in (charts[-6]["aria-label"] or "")
    drawn = finished.source.split("<svg ", 2)[2]
    assert "var(--s1)" in drawn
    assert not re.search(r"#0102[0-9a-f]{2}", finished.source)  # no stand-in is left
    assert "var(--sans)" in drawn


def test_ids_are_unique_and_every_reference_has_its_target(tmp_path: Path) -> None:
    page = _page(
        tmp_path, report_records.captioning_run(tmp_path), report_records.failed_run(tmp_path)
    )
    ids = Counter(a["id"] for _, a in page.elements if "id" in a)
    assert [name for name, times in ids.items() if times > 1] == []
    local = re.findall(r"url\(#([^)]+)\)", page.source)
    links = [a.get("href") or "" for _, a in page.elements]
    local += [link[1:] for link in links if link.startswith("#")]
    assert local
    assert set(local) <= set(ids)


def test_every_table_has_headings_with_a_scope(finished: Page) -> None:
    headings = finished.all("th")
    assert headings
    assert all(heading.get("scope") in ("col", "row", "rowgroup") for heading in headings)
    assert not finished.open


def test_light_and_dark_and_no_outside_font(finished: Page) -> None:
    assert "prefers-color-scheme: dark" in finished.source
    assert "@font-face" not in finished.source


def test_records_cannot_put_markup_into_the_page(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>"
    run = report_records.RunRecords(tmp_path, "r", 1)
    run.manifest(workload=evil, args=[evil], error=evil, status="failed", cluster=evil)
    vm = run.names[0]
    run.start(vm, device=evil, device_name=evil, tensorflow=evil)
    run.phase(evil, vm, 1, 50)
    run.timing(vm, "step", 3, phase=evil, step=1, loss=1.0)
    run.timing(vm, "score", 3, name=evil, value=1.0, decoder=evil)
    run.results(vm, notes=[evil], samples=[{"caption": evil, "references": [evil], "image": evil}])
    run.append(f"{vm}/stderr.log", evil)
    run.event(t=1, kind="warning", vm=vm, text=evil)
    page = _page(tmp_path, run.dir)
    assert not page.all("script")
    assert evil in page.text
    assert "<script" not in page.source


def test_dollar_sign_is_not_rendered_as_math(tmp_path: Path) -> None:
    run = report_records.RunRecords(tmp_path, "r", 1)
    run.names = ["price-$x^2$"]
    run.manifest()
    run.phase("push", run.names[0], 0, 5)
    assert _page(tmp_path, run.dir).source.count(">price-$x^2$</text>") == 2


def test_a_failed_run_shows_the_error_and_the_dead_workers_log(tmp_path: Path) -> None:
    page = _page(tmp_path, report_records.failed_run(tmp_path))
    assert "The run failed; 0 of 4 VMs had finished." in page.text
    assert "the worker on gpuvm-03 ended with status -9" in page.text
    assert "gpuvm-03 stopped without an end after step 180 of 400, named in the error" in page.text
    assert "Killed" in page.text
    opened = [details for details in page.all("details") if "open" in details]
    assert len(opened) == 2  # the dead worker's log and the table of shards
    assert "Train not finished not finished" in page.text


def test_a_run_with_nothing_but_a_manifest(tmp_path: Path) -> None:
    run = report_records.RunRecords(tmp_path, "r", 1)
    run.manifest(status="running", ended=None)
    page = _page(tmp_path, run.dir)
    assert "No end is recorded" in page.text
    assert "No log of this VM was fetched." in page.text
    assert not page.all("img")


def test_one_point_zero_seconds_and_losses_of_any_size_can_be_drawn(tmp_path: Path) -> None:
    run = report_records.RunRecords(tmp_path, "r", 1)
    run.manifest()
    vm = run.names[0]
    run.phase("push", vm, 0, 0.0)
    run.start(vm)
    for phase, losses in (("one", [1.0]), ("zero", [0.0, 0.0]), ("wide", [1e6, 1e-3]), ("n", [])):
        for step, loss in enumerate(losses):
            run.timing(vm, "step", step, phase=phase, step=step, loss=loss)
    run.timing(vm, "step", 1, phase="nan", step=1, loss=float("nan"))
    labels = [svg["aria-label"] for svg in _page(tmp_path, run.dir).all("svg") if "role" in svg]
    assert len(labels) == 2 * (1 + 3)


def test_an_earlier_page_survives_a_report_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "report.html"
    page.write_text("earlier", encoding="utf-8")
    run_dir = report_records.failed_run(tmp_path)
    (run_dir / "events.jsonl").write_text("{}\n{}\n", encoding="utf-8")
    with pytest.raises(BadInput):
        report.write_html(report.build([run_dir]), page)
    assert page.read_text(encoding="utf-8") == "earlier"
    assert sorted(p.name for p in tmp_path.iterdir() if p.name.startswith(".")) == []


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (None, "—"),
        (0, "0.0 s"),
        (0.0412, "0.041 s"),
        (59.94, "59.9 s"),
        (59.96, "1 min 00 s"),
        (171.4, "2 min 51 s"),
        (3725, "1 h 02 min"),
    ],
)
def test_durations(seconds: float | None, shown: str) -> None:
    assert duration(seconds) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [(None, "—"), (1200, "1,200"), (624.2, "624"), (0.14237, "0.142"), (3.0, "3")],
)
def test_numbers(value: Any, shown: str) -> None:
    assert number(value) == shown
