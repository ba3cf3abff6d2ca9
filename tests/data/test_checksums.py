"""Known files: fetched once, checked by their hash, named by @ in a workload's arguments."""

import hashlib
import http.server
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from typing_extensions import override

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

        @override
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
    named = data.resolve("@mnist")
    assert named is not None
    assert named.source == file
    assert named.place == f"{hashlib.sha256(CONTENT).hexdigest()[:24]}/mnist.npz"


def test_file_with_a_wrong_hash_is_deleted(
    published: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = replace(data.KNOWN["mnist"], digest="md5:0")
    monkeypatch.setitem(data.KNOWN, "mnist", wrong)
    with pytest.raises(GpuvmError, match="checksum mismatch, expected md5:0"):
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
    named = data.resolve(f"@{own}")
    assert named is not None
    assert (named.source, named.option) == (own, "")
    for nothing in ("--data", "@", "--data=", "--data=@", "a=@b", "me@home"):
        assert data.resolve(nothing) is None
    with pytest.raises(BadInput, match="no such file"):
        data.resolve("@./nowhere.csv")
    with pytest.raises(BadInput) as caught:
        data.resolve("@mnist")
    assert caught.value.hint == "'gpuvm data fetch mnist' fetches it"
    with pytest.raises(NotFound):
        data.resolve("@vgg99")


def test_an_option_and_its_file_in_one_word(tmp_path: Path, published: list[str]) -> None:
    own = tmp_path / "a=b.csv"
    own.write_text("x")
    named = data.resolve(f"--data=@{own}")
    assert named is not None
    assert (named.source, named.option) == (own, "--data=")
    with pytest.raises(BadInput, match="no such file"):
        data.resolve("--data=@./nowhere.csv")


def test_folder_hash_depends_on_names_and_contents(tmp_path: Path, published: list[str]) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "a.jpg").write_text("a")
    folder = tmp_path / "flickr"
    folder.mkdir()
    (folder / "captions.txt").write_text("image,caption")
    (folder / "Images").symlink_to(elsewhere)
    (elsewhere / "round").symlink_to(folder)

    def named() -> data.Named:
        found = data.resolve(f"--data=@{folder}/")
        assert found is not None
        return found

    first = named()
    assert first.place.endswith("/flickr")
    assert isinstance(first.source, dict)
    assert sorted(first.source) == ["Images/a.jpg", "captions.txt"]
    assert named() == first
    (elsewhere / "a.jpg").write_text("another")
    second = named()
    assert second.place != first.place
    (elsewhere / "a.jpg").rename(elsewhere / "b.jpg")
    assert named().place not in {first.place, second.place}
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInput, match="the folder is empty"):
        data.resolve(f"@{tmp_path / 'empty'}")


def test_manually_placed_file_is_checked_once(
    published: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    known = data.KNOWN["mnist"]
    assert data.here(known) == "no"
    known.path.parent.mkdir(parents=True)
    known.path.write_bytes(b"something else")
    assert data.here(known) == "wrong"
    with pytest.raises(BadInput, match=r"hash of .*mnist\.npz is not sha256:") as caught:
        data.resolve("@mnist")
    assert caught.value.hint == "'gpuvm data fetch mnist' fetches it"
    known.path.write_bytes(CONTENT)
    assert data.here(known) == "yes"

    def never(*_: object) -> None:
        raise AssertionError("hashed again")

    with monkeypatch.context() as patch:
        patch.setattr(hashlib, "file_digest", never)
        assert data.here(known) == "yes"
    assert data.fetch("mnist", Events()) == known.path
    assert published == [], "it is right, so nothing is asked for"


def test_corrupt_hash_cache_is_rebuilt(published: list[str], tmp_path: Path) -> None:
    file = data.fetch("mnist", Events())
    for note in (tmp_path / "cache" / "digests").iterdir():
        note.write_text("[1, 2")
    assert data.here(data.KNOWN["mnist"]) == "yes"
    assert file.exists()


def test_data_that_cannot_be_downloaded_explains_how_to_get_it(published: list[str]) -> None:
    for name, own in data.BY_HAND.items():
        with pytest.raises(BadInput, match=f"{name} cannot be fetched") as caught:
            data.fetch(name, Events())
        assert own.layout in (caught.value.hint or "")
        with pytest.raises(BadInput, match=f"@{name} is missing") as caught:
            data.resolve(f"@{name}")
        assert str(own.path) in (caught.value.hint or "")
    coco = data.BY_HAND["coco"].path
    (coco / "annotations").mkdir(parents=True)
    (coco / "annotations" / "captions_val2017.json").write_text("{}")
    named = data.resolve("--data=@coco")
    assert named is not None
    assert named.place.endswith("/coco")


def test_every_workload_is_listed_with_what_it_takes_instead() -> None:
    every = (*data.KNOWN.values(), *data.BY_HAND.values())
    assert {one.workload for one in every} == {"stock", "style", "captioning", "mnist"}
    assert all(one.without and one.name in one.use for one in every)
    assert data.names(None) == list(data.KNOWN)
