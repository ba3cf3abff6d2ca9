"""The studio's page in a headless Chromium, which notes what a page must not do."""

import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import browser
from commands import CommandLine

DESKTOP, PHONE = (1280, 900), (390, 844)
SLOW_MS = 120_000
"""A deadline, not a duration: a machine with other work renders slowly."""


@contextmanager
def studio(lab: CommandLine, *options: str) -> Iterator[str]:
    """`gpuvm studio` until Ctrl-C; yields the address with its token."""
    process = lab.start("studio", "--port", "0", "--json", *options)
    try:
        assert process.stdout is not None
        text = ""
        while not text.endswith("\n}\n"):
            line = process.stdout.readline()
            assert line, process.communicate()[1]
            text += line
        yield str(json.loads(text)["data"]["url"])
    finally:
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=120)
    assert "Traceback" not in errors, errors
    assert process.returncode == 0, errors


@dataclass
class Visit:
    """A page; ``problems`` are errors in its console, and requests to other hosts."""

    page: Any
    problems: list[str] = field(default_factory=list)

    def upload(self, label: str, file: Path) -> None:
        self.page.locator(f"#picture-{label} input[type=file]").set_input_files(str(file))

    def uploaded(self, label: str, file: Path) -> None:
        """Uploads it, and waits until it is shown."""
        self.upload(label, file)
        shown = self.page.locator(f"#picture-{label} img[src*='{file.name}']")
        shown.wait_for(timeout=SLOW_MS)

    def says(self, text: str) -> None:
        self.page.get_by_text(text).first.wait_for(timeout=SLOW_MS)

    def fits(self) -> bool:
        """Nothing is wider than the window."""
        width = "document.documentElement.scrollWidth <= window.innerWidth"
        return bool(self.page.evaluate(width))


class Browser:
    def __init__(self, browser: Any) -> None:
        self._browser = browser

    @contextmanager
    def visit(self, url: str, size: tuple[int, int] = DESKTOP) -> Iterator[Visit]:
        """Fails at the end if the page had a problem."""
        viewport = {"width": size[0], "height": size[1]}
        with self._browser.new_context(viewport=viewport, accept_downloads=True) as context:
            visit = Visit(context.new_page())
            visit.page.set_default_timeout(SLOW_MS)
            own = url.partition("?")[0]

            def request(asked: Any) -> None:
                if not asked.url.startswith((own, "data:", "blob:")):
                    visit.problems.append(f"request: {asked.url}")

            def console(message: Any) -> None:
                if message.type == "error":
                    visit.problems.append(f"console: {message.text}")

            visit.page.on("request", request)
            visit.page.on("console", console)
            visit.page.on("pageerror", lambda error: visit.problems.append(f"error: {error}"))
            visit.page.goto(url)
            visit.page.locator("#progress").wait_for()
            yield visit
            assert visit.problems == []


@contextmanager
def chromium() -> Iterator[Browser]:
    with browser.launched() as program:
        yield Browser(program)
