"""gpuvm studio, driven in a browser: pictures made on guests of the lab, shown and cancelled.

One story in one module, in order; each test is a chapter that stands on the one before.
"""

import json
import os
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw
from studio_page import PHONE, Browser, chromium, studio

Lab = Any

pytestmark = pytest.mark.tensorflow


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as made:
        yield made


@pytest.fixture(scope="module")
def url(lab: Lab) -> Iterator[str]:
    done = lab("provision", "--hosts", "2")
    assert done.exit_code == 0, done.stderr
    with studio(lab) as address:
        yield address


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    content, style = Image.new("RGB", (160, 120), "skyblue"), Image.new("RGB", (120, 120), "navy")
    ImageDraw.Draw(content).polygon([(10, 110), (80, 20), (150, 110)], fill="firebrick")
    for n in range(0, 120, 12):
        ImageDraw.Draw(style).line([(0, n), (120, n + 20)], fill="gold", width=5)
    content.save(folder / "house.png")
    style.save(folder / "lines.jpg")
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"x" * 100)
    (folder / "large.png").write_bytes(os.urandom(21 << 20))
    return folder


def test_the_page_is_only_for_who_has_the_token(url: str) -> None:
    bare = url.partition("?")[0]
    assert bare.startswith("http://127.0.0.1:")
    for path in ("", "config", "gradio_api/upload", "?token=guessed"):
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(bare + path)
        assert refused.value.code == 403
        refused.value.close()


def test_pictures_are_made_side_by_side_shown_and_cancelled(
    url: str, browser: Browser, pictures: Path, lab: Lab
) -> None:
    with browser.visit(url) as visit:
        page = visit.page
        visit.upload("content", pictures / "large.png")
        visit.says("exceed the maximum allowed size of 20.0 Mb")
        visit.upload("content", pictures / "broken.png")
        visit.says("broken.png is damaged")
        page.locator("#picture-content img").wait_for(state="detached")

        visit.uploaded("content", pictures / "house.png")
        visit.uploaded("style", pictures / "lines.jpg")
        page.get_by_label("number input for Content weight").fill("0.5")
        page.get_by_label("number input for Style weight").fill("7.5")
        page.get_by_label("number input for Rounds").fill("3")
        page.get_by_label("Longer side, pixels").click()
        page.get_by_role("option", name="64", exact=True).click()
        make = page.get_by_role("button", name="Make the picture")
        make.click()
        page.locator(".job[data-number='1'].running").wait_for()
        page.get_by_label("number input for Rounds").fill("50")
        make.click()
        page.locator(".job[data-number='2'].running").wait_for()
        make.click()
        page.locator(".job[data-number='3'].queued").wait_for()
        page.locator("button[data-job='3']").click()
        page.locator(".job[data-number='3'].cancelled").wait_for()

        first, second = (page.locator(f".job[data-number='{n}']") for n in (1, 2))
        assert "content 0.5, style 7.5" in first.inner_text()
        second.locator("img").wait_for()
        assert "loss" in second.inner_text()
        page.locator("button[data-job='2']").click()
        page.locator(".job[data-number='2'].cancelled").wait_for()
        page.locator(".job[data-number='1'].succeeded").wait_for()
        assert "step 120 of 120" in first.inner_text()
        assert first.locator("img").evaluate("image => image.naturalWidth") == 64

    by_status = {one["status"]: one for one in _manifests(lab)}
    assert set(by_status) == {"succeeded", "cancelled"}
    vms = {by_status[status]["vms"][0]["name"] for status in by_status}
    assert vms == {"gpuvm-01", "gpuvm-02"}, "both at once"
    done = by_status["succeeded"]
    assert done["args"][:2] == ["--size", "64"]
    assert done["warnings"] == []


def test_what_was_made_is_compared_and_downloaded(
    url: str, browser: Browser, tmp_path: Path
) -> None:
    with browser.visit(url) as visit:
        page = visit.page
        page.locator("#made li").nth(1).wait_for()
        assert page.locator("#made li").count() == 2
        for number in (0, 1):
            page.locator("#made li button").nth(number).click()
            page.locator("#beside figure").nth(number).wait_for()
        shown = page.locator("#beside").inner_text()
        assert shown.count("content 0.5, style 7.5") == 2
        assert "cancelled before its end" in shown
        with page.expect_download() as downloading:
            page.locator("#beside a").first.click()
        downloading.value.save_as(tmp_path / downloading.value.suggested_filename)
    (file,) = tmp_path.glob("style-*-content0.5-style7.5.png")
    with Image.open(file) as picture:
        assert max(picture.size) == 64


def test_the_cluster_at_a_glance_on_a_phone(url: str, browser: Browser) -> None:
    with browser.visit(url, PHONE) as visit:
        assert visit.fits()
        visit.page.get_by_role("tab", name="Cluster").click()
        table = visit.page.locator("#cluster")
        table.locator("table").nth(2).wait_for()
        shown = table.inner_text()
        assert "gpuvm-01" in shown
        assert "0000:3b:00.0" in shown
        assert "cancelled" in shown
        assert visit.fits()
        visit.page.get_by_role("tab", name="Captions").click()
        visit.says("No trained run is here")
        assert visit.fits()


def test_without_a_vcenter_on_this_machine(gpuvm: Any, browser: Browser) -> None:
    refused = gpuvm("studio")
    assert refused.exit_code == 2
    assert "--local makes pictures on this machine" in refused.stderr
    assert gpuvm("studio", "--local", "--vm", "gpuvm-01").exit_code == 2
    with studio(gpuvm, "--local") as address, browser.visit(address) as visit:
        page = visit.page
        page.get_by_label("Longer side, pixels").click()
        page.get_by_role("option", name="64", exact=True).click()
        page.get_by_role("button", name="Make the picture").click()
        page.locator(".job.succeeded").wait_for()
        page.locator("#made li img").wait_for()
        page.get_by_role("tab", name="Cluster").click()
        visit.says("There is no cluster")
    (made,) = _manifests(gpuvm)
    assert made["vcenter"]["name"] == "this machine, without a vCenter"
    assert [(vm["name"], vm["gpus"]) for vm in made["vms"]] == [("this-machine", [])]
    (timings,) = gpuvm.home.glob("runs/style-*/this-machine/timings.jsonl")
    assert '"device": "/device:CPU:0"' in timings.read_text()


def _manifests(lab: Lab) -> list[dict[str, Any]]:
    return [json.loads(file.read_text()) for file in lab.home.glob("runs/style-*/manifest.json")]
