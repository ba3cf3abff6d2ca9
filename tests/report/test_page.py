"""The page in a real browser: whole at any width, light and dark, and nothing from elsewhere."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import report_records
from playwright.sync_api import Browser, Page

from gpuvm import report

WIDTHS = {"phone": 390, "desktop": 1280}


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    captioning = report_records.captioning_run(folder)
    for vm in ("gpuvm-01", "gpuvm-02"):
        for t in range(0, 100, 2):
            line = (
                f'{{"t": {t}, "gpu": 0, "utilization": 97.0, "memory_mib": 9e3, "power_w": 180.0}}'
            )
            with (captioning / vm / "gpu_samples.jsonl").open("a") as samples:
                samples.write(line + "\n")
    report_records.one_vm_run(folder)
    of = {
        "captioning": [captioning],
        "failed": [report_records.failed_run(folder)],
        "sweep": [report_records.sweep_run(folder)],
        "distributed": [report_records.local_sgd_run(folder)],
        "own": [report_records.own_run(folder)],
        "several": [report_records.style_run(folder, 1, style) for style in (5, 10)],
    }
    for name, runs in of.items():
        report.write_html(report.build(runs), folder / f"{name}.html")
    return {name: folder / f"{name}.html" for name in of}


@contextmanager
def opened(chromium: Browser, file: Path, **how: Any) -> Iterator[Page]:
    """The page; at the end nothing may have gone wrong in it."""
    context = chromium.new_context(**how)
    page = context.new_page()
    problems: list[str] = []
    page.on("console", lambda message: problems.append(message.text))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("request", lambda asked: None if _inside(asked.url) else problems.append(asked.url))
    page.goto(file.as_uri())
    yield page
    context.close()
    assert problems == []


def _inside(url: str) -> bool:
    return url.startswith(("file:", "data:"))


@pytest.mark.parametrize("name", ["captioning", "failed", "sweep", "distributed", "own", "several"])
def test_the_page_is_whole(chromium: Browser, pages: dict[str, Path], name: str) -> None:
    for width in WIDTHS.values():
        for scheme in ("light", "dark"):
            size = {"width": width, "height": 900}
            with opened(chromium, pages[name], viewport=size, color_scheme=scheme) as page:
                assert page.evaluate("document.documentElement.scrollWidth") == width
                assert _undecoded(page) == []
                ground, ink = page.evaluate(
                    "[getComputedStyle(document.body).backgroundColor,"
                    " getComputedStyle(document.body).color]"
                )
                assert (_brightness(ground) > _brightness(ink)) == (scheme == "light")
                charts = page.locator(".chart:visible svg")
                assert charts.count() == page.locator("figure .chart").count() / 2
                for n in range(charts.count()):
                    box = charts.nth(n).bounding_box()
                    assert box is not None
                    assert box["height"] > 40
                    assert box["x"] + box["width"] <= width


def _undecoded(page: Page) -> list[str]:
    broken: list[str] = page.evaluate(
        "async () => { const bad = [];"
        " for (const image of document.images) {"
        "   image.loading = 'eager'; await image.decode().catch(() => bad.push(image.alt)); }"
        " return bad; }"
    )
    return broken


def _brightness(colour: str) -> float:
    return sum(map(float, colour.removeprefix("rgb(").removesuffix(")").split(",")))


def test_the_charts_and_figures_that_must_be_there(
    chromium: Browser, pages: dict[str, Path]
) -> None:
    with opened(chromium, pages["captioning"]) as page:
        assert page.locator("figure figcaption b").all_inner_texts() == [
            "Train",
            "Encoder",
            "Train",
            "Utilisation",
            "Memory in use",
            "Power",
            "Provisioning",
            "Run",
            "Inside the workload",
        ]
    with opened(chromium, pages["sweep"]) as page:
        assert page.locator("table.gallery thead th").all_inner_texts() == [
            "style 0",
            "style 2.5",
            "style 5",
            "style 10",
        ]
        assert page.locator("table.gallery tbody th").all_inner_texts() == [
            "content 0",
            "content 1",
            "content 2",
        ]
        assert page.locator("table.gallery img").count() == page.locator("img").count() == 12
    with opened(chromium, pages["several"]) as page:
        assert page.locator("table.gallery img").count() == page.locator("img").count() == 2
    with opened(chromium, pages["own"]) as page:
        assert page.locator(".pictures img").count() == 2
        assert "<script>alert(1)</script>" in page.locator("pre").inner_text()
        assert page.get_by_text("4 files, 12").is_visible()


def test_an_opened_card_leaves_the_others_as_they_are(
    chromium: Browser, pages: dict[str, Path]
) -> None:
    for width in WIDTHS.values():
        size = {"width": width, "height": 900}
        with opened(chromium, pages["captioning"], viewport=size) as page:
            before = page.evaluate(_CARDS)
            page.locator(".samples summary").first.click()
            assert page.locator(".samples details[open] li").first.is_visible()
            assert page.evaluate(_CARDS) == before


_CARDS = (
    "[...document.querySelectorAll('.samples, .samples > li')]"
    ".map(card => { const box = card.getBoundingClientRect(); return [box.top, box.height]; })"
)


def test_it_prints_on_white_without_cutting_anything(
    chromium: Browser, pages: dict[str, Path]
) -> None:
    with opened(chromium, pages["failed"], color_scheme="dark") as page:
        page.emulate_media(media="print", color_scheme="dark")
        page.set_viewport_size({"width": 794, "height": 1123})
        assert (
            page.evaluate("getComputedStyle(document.querySelector('pre')).overflow") == "visible"
        )
        assert _brightness(page.evaluate("getComputedStyle(document.body).color")) < 200
        assert page.pdf()[:5] == b"%PDF-"
