"""Known files: fetched once, checked by their hash, named by @ in a workload's arguments."""

import hashlib
import http.server
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from gpuvm import data
from gpuvm.errors import BadInput, GpuvmError, NotFound
from gpuvm.events import Event, Events

CONTENT = b"weights" * 1000


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """A web server that has one file; what was asked for is in the list."""
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.send_header("Content-Length", str(len(CONTENT)))
            self.end_headers()
            self.wfile.write(CONTENT)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("GPUVM_CACHE_DIR", str(tmp_path / "cache"))
    url = f"http://127.0.0.1:{server.server_port}/file"
    digest = "sha256:" + hashlib.sha256(CONTENT).hexdigest()
    known = replace(data.KNOWN["mnist"], url=url, digest=digest)
    monkeypatch.setitem(data.KNOWN, "mnist", known)
    yield asked
    server.shutdown()
    server.server_close()


def test_it_is_fetched_once_with_progress(published: list[str]) -> None:
    seen: list[Event] = []
    file = data.fetch("mnist", Events(seen.append))
    assert file.read_bytes() == CONTENT
    assert seen[-1].fraction == 1
    assert data.fetch("mnist", Events()) == file
    assert published == ["/file"]
    assert data.resolve("@mnist") == file


def test_another_hash_is_thrown_away(published: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = replace(data.KNOWN["mnist"], digest="md5:0")
    monkeypatch.setitem(data.KNOWN, "mnist", wrong)
    with pytest.raises(GpuvmError, match="its hash is not md5:0"):
        data.fetch("mnist", Events())
    assert not list(wrong.path.parent.iterdir())


def test_offline_says_where_to_put_it(
    published: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    nobody = replace(data.KNOWN["mnist"], url="http://127.0.0.1:9/file")
    monkeypatch.setitem(data.KNOWN, "mnist", nobody)
    with pytest.raises(GpuvmError) as caught:
        data.fetch("mnist", Events())
    assert str(nobody.path) in (caught.value.hint or "")


def test_arguments_that_name_files(tmp_path: Path, published: list[str]) -> None:
    own = tmp_path / "mine.csv"
    own.write_text("x")
    assert data.resolve(f"@{own}") == own
    assert data.resolve("--data") is None
    assert data.resolve("@") is None
    with pytest.raises(BadInput, match="no such file"):
        data.resolve("@./nowhere.csv")
    with pytest.raises(BadInput) as caught:
        data.resolve("@mnist")
    assert caught.value.hint == "gpuvm data fetch mnist"
    with pytest.raises(NotFound):
        data.resolve("@vgg99")
