"""Transfers: complete or not at all, continued where they broke off, never outside the target."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import openssh
import pytest
from ssh_servers import Machine

from gpuvm import guest
from gpuvm.errors import BadInput, CommandFailed, GuestError, GuestUnreachable
from gpuvm.guest import SkippedFile, TransferProgress

MIB = 1 << 20
BIG = 24 * MIB


@pytest.fixture(params=["paramiko", "openssh"])
def carrier(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Everything that is to be sent goes over one of the two connections."""
    if request.param == "openssh":
        monkeypatch.setattr("gpuvm.guest.transfer.BULK_BYTES", 0)
    else:
        monkeypatch.setenv("PATH", "/nowhere")
    return str(request.param)


@pytest.fixture
def reports(monkeypatch: pytest.MonkeyPatch) -> list[TransferProgress]:
    """Every step of a transfer is reported, not four a second."""
    monkeypatch.setattr("gpuvm.guest.progress.REPORT_EVERY_S", 0)
    return []


@pytest.fixture
def big(tmp_path: Path) -> Path:
    file = tmp_path / "big"
    file.write_bytes(os.urandom(BIG))
    return file


def test_tree_round_trip(machine: Machine, tmp_path: Path, carrier: str) -> None:
    big = os.urandom(3_000_000)
    (tmp_path / "local").write_bytes(big)
    names = ["a/b/c.txt", "with space", "with 'quote'", 'back\\slash"', "new\nline", "é", "-dash"]
    names += [os.fsdecode(b"not \xff UTF-8"), "n" * 255, "same"]
    files = {name: os.fsencode(name) for name in names} | {"empty": b"", "same too": b"same"}
    with guest.connect(machine.endpoint) as one:
        guest.push(one, files | {"big": tmp_path / "local"}, "into/a folder")
        fetched = guest.fetch(one, "into/a folder", tmp_path / "here")
    here = {str(file.relative_to(tmp_path / "here")): file.read_bytes() for file in fetched.files}
    assert here == files | {"big": big}
    assert (machine.home / "into/a folder/big").read_bytes() == big
    for folder in (tmp_path / "here", machine.home / "into/a folder"):
        assert not list(folder.rglob(".*"))


def cut_at(
    machine: Machine, reports: list[TransferProgress], wait_for: Callable[..., None]
) -> Callable[[TransferProgress], None]:
    """Drops the connection when half has been transferred."""

    def on_progress(progress: TransferProgress) -> None:
        reports.append(progress)
        if progress.done > BIG / 2 and machine.connections:
            machine.cut()
            wait_for(lambda: not machine.connections, "every connection is cut")

    return on_progress


def test_push_continues_where_it_broke_off(
    machine: Machine,
    big: Path,
    carrier: str,
    reports: list[TransferProgress],
    wait_for: Callable[..., None],
) -> None:
    files: guest.Files = {"small": b"small", "big": big}
    with guest.connect(machine.endpoint) as one, pytest.raises(GuestUnreachable):
        guest.push(one, files, "run", on_progress=cut_at(machine, reports, wait_for))
    assert not (machine.home / "run/big").exists()
    with guest.connect(machine.endpoint) as one:
        pushed = guest.push(one, files, "run", on_progress=reports.append)
    assert (machine.home / "run/big").read_bytes() == big.read_bytes()
    assert pushed.sent + pushed.already_there == BIG + len("small")
    assert pushed.already_there > MIB, "what had arrived is not sent again"
    assert reports[-1].done == reports[-1].total == BIG + len("small")
    assert sorted(file.name for file in (machine.home / "run").iterdir()) == ["big", "small"]


def test_fetch_continues_where_it_broke_off(
    machine: Machine,
    tmp_path: Path,
    carrier: str,
    reports: list[TransferProgress],
    wait_for: Callable[..., None],
) -> None:
    (machine.home / "out").mkdir()
    content = os.urandom(BIG)
    (machine.home / "out/big").write_bytes(content)
    here = tmp_path / "here"
    with guest.connect(machine.endpoint) as one, pytest.raises(GuestUnreachable):
        guest.fetch(one, "out", here, on_progress=cut_at(machine, reports, wait_for))
    assert not (here / "big").exists()
    (begun,) = here.iterdir()
    already = begun.stat().st_size
    assert already > BIG / 4
    again: list[TransferProgress] = []
    with guest.connect(machine.endpoint) as one:
        guest.fetch(one, "out", here, on_progress=again.append)
    assert (again[0].already_there, again[-1].done) == (already, BIG)
    assert (here / "big").read_bytes() == content
    assert [file.name for file in here.iterdir()] == ["big"]


def test_partial_transfer_of_an_older_file_is_not_continued(
    machine: Machine, tmp_path: Path
) -> None:
    """The guest compares its hash with that of its own file."""
    (machine.home / "out").mkdir()
    (machine.home / "out/log").write_text("a new beginning, and a new end")
    here = tmp_path / "here"
    here.mkdir()
    (here / f".gpuvm-{hashlib.sha256(b'log').hexdigest()[:16]}").write_text("an old beginning")
    with guest.connect(machine.endpoint) as one:
        guest.fetch(one, "out", here)
    assert (here / "log").read_text() == "a new beginning, and a new end"


def test_fetching_again_brings_what_changed_and_keeps_what_is_not_there(
    machine: Machine, tmp_path: Path, reports: list[TransferProgress]
) -> None:
    here = tmp_path / "here"
    with guest.connect(machine.endpoint) as one:
        guest.push(one, {"log": b"first", "same": b"same"}, "out")
        guest.fetch(one, "out", here)
        guest.push(one, {"log": b"second"}, "out")
        (here / "mine").write_text("stays")
        again = guest.fetch(one, "out", here, on_progress=reports.append)
        (here / "same").write_text("mine, and fetched over")
        guest.fetch(one, "out", here)
    assert again.files == (here / "log", here / "same")
    assert (reports[0].already_there, reports[-1].total) == (len("same"), len("samesecond"))
    assert [(here / name).read_text() for name in ("log", "same")] == ["second", "same"]
    assert (here / "mine").read_text() == "stays"


def test_patterns_and_a_limit(machine: Machine, tmp_path: Path) -> None:
    """Below the limit the smaller files come, so that records are never lost to a checkpoint."""
    files = {"stdout.log": b"x" * 10, "ckpt/1.h5": b"x" * 500, "ckpt/2.h5": b"x" * 900, "a.h5": b""}
    with guest.connect(machine.endpoint) as one:
        guest.push(one, files, "out")
        some = guest.fetch(one, "out", tmp_path / "some", limit_bytes=600)
        matched = {
            pattern: guest.fetch(one, "out", tmp_path / f"by {i}", patterns=[pattern]).files
            for i, pattern in enumerate(("*.h5", "ckpt", "ckpt/1*", "2.h5", "nothing"))
        }
        rest = guest.fetch(
            one, "out", tmp_path / "some", patterns=[left.name for left in some.skipped]
        )
    assert some.skipped == (SkippedFile("ckpt/2.h5", 900),)
    assert [file.name for file in some.files] == ["a.h5", "1.h5", "stdout.log"]
    assert [file.name for file in rest.files] == ["2.h5"]
    names = {pattern: {file.name for file in found} for pattern, found in matched.items()}
    assert names == {
        "*.h5": {"a.h5", "1.h5", "2.h5"},
        "ckpt": {"1.h5", "2.h5"},
        "ckpt/1*": {"1.h5"},
        "2.h5": {"2.h5"},
        "nothing": set(),
    }


def answers(machine: Machine, *lines: object) -> None:
    """A guest whose Python is not to be trusted."""
    text = "".join(
        f"{line if isinstance(line, str) else json.dumps(line)}\n"
        for line in ("gpuvm-files", *lines)
    )
    (machine.home / "answers").write_text(text)
    machine.program("python3", f"cat {machine.home}/answers; cat >/dev/null")


@pytest.mark.parametrize("name", ["../x", "/etc/x", "a/../../x", "sub/x", "..", "", "a//b", "a\0b"])
def test_names_cannot_escape_the_folder(machine: Machine, tmp_path: Path, name: str) -> None:
    here = tmp_path / "here"
    here.mkdir()
    (tmp_path / "elsewhere").mkdir()
    (here / "sub").symlink_to(tmp_path / "elsewhere")
    digest = hashlib.sha256(b"kept").hexdigest()
    header = {"size": 4, "offset": 0, "time": 0}
    answers(
        machine,
        {"files": [[name, 4, 0], ["kept", 4, 0]]},
        header,
        "kept" + json.dumps({"sha256": digest}),
    )
    with guest.connect(machine.endpoint) as one, pytest.raises(GuestError) as caught:
        guest.fetch(one, "out", here)
    assert str(caught.value) == f"one: {name!r} is outside its folder"
    assert (here / "kept").read_text() == "kept", "what is right has arrived all the same"
    assert not list((tmp_path / "elsewhere").iterdir())
    assert {file.name for file in tmp_path.iterdir()} >= {"here", "elsewhere"}
    assert not (tmp_path / "x").exists()


def test_incomplete_transfer_is_refused(machine: Machine, tmp_path: Path) -> None:
    here = tmp_path / "here"
    here.mkdir()
    (here / "log").write_text("what was fetched before")
    listed = {"files": [["log", 10, 0]]}
    short, whole = ({"size": size, "offset": 0, "time": 0} for size in (5, 10))
    wrong = json.dumps({"sha256": hashlib.sha256(b"another").hexdigest()})
    changed = json.dumps({"error": "it changed while it was fetched"})
    for lines, why in (
        ((short, f"01234{wrong}"), "incomplete: 5 of 10 bytes"),
        ((whole, f"0123456789{wrong}"), "checksum mismatch (SHA-256)"),
        ((whole, f"0123456789{changed}"), "it changed while it was fetched"),
        (({"error": "Permission denied"},), "Permission denied"),
        (({"error": "\033]0;title\a\033[2JNo space\x07 left"},), r"No space\x07 left"),
    ):
        answers(machine, listed, *lines)
        with guest.connect(machine.endpoint) as one, pytest.raises(GuestError) as caught:
            guest.fetch(one, "out", here)
        assert str(caught.value) == f"one: log: {why}"
    assert [file.read_text() for file in here.iterdir()] == ["what was fetched before"]


def test_links_are_not_followed_and_a_file_may_have_two_names(
    machine: Machine, tmp_path: Path
) -> None:
    out = machine.home / "out"
    out.mkdir()
    (out / "link").symlink_to("/etc/passwd")
    (out / "folder").symlink_to("/etc")
    (out / "file").write_text("kept")
    os.mkfifo(out / "pipe")
    os.link(out / "file", out / "same")
    with guest.connect(machine.endpoint) as one:
        fetched = guest.fetch(one, "out", tmp_path / "here")
    assert [file.name for file in fetched.files] == ["file", "same"]
    assert sorted(file.name for file in (tmp_path / "here").iterdir()) == ["file", "same"]
    assert (tmp_path / "here/same").read_text() == "kept"


def test_failed_transfers_report_the_reason(machine: Machine, tmp_path: Path) -> None:
    (machine.home / "file").touch()
    with guest.connect(machine.endpoint) as one:
        with pytest.raises(GuestError, match=r"^one: fetch nowhere: nowhere: No such file or dir"):
            guest.fetch(one, "nowhere", tmp_path / "here")
        with pytest.raises(GuestError, match=r"^one: push to file/x: file.*: Not a directory"):
            guest.push(one, {"a": b""}, "file/x")
        with pytest.raises(CommandFailed, match=r"'push to x' ended with status 127: .*no-python"):
            guest.push(one, {"a": b""}, "x", python="no-python")
        guest.push(one, {"a": b"", "b/c": b""}, "out")
        (tmp_path / "here/a").mkdir(parents=True)
        with pytest.raises(GuestError, match=r"^one: a cannot be written: .*a: Is a directory$"):
            guest.fetch(one, "out", tmp_path / "here")
    assert [file.name for file in (tmp_path / "here").iterdir()] == ["a"]


def test_a_login_script_may_print(machine: Machine, tmp_path: Path) -> None:
    machine.program("python3", f'echo Welcome; exec {sys.executable} "$@"')
    with guest.connect(machine.endpoint) as one:
        guest.push(one, {"a": b"a"}, "out")
        assert guest.fetch(one, "out", tmp_path / "here").files == (tmp_path / "here/a",)


def test_unreadable_local_files_are_reported_before_anything_is_sent(
    machine: Machine, tmp_path: Path
) -> None:
    with guest.connect(machine.endpoint) as one:
        for path, why in ((tmp_path / "gone", "No such file"), (tmp_path, "Is a directory")):
            with pytest.raises(BadInput, match=f"^{path}: {why}"):
                guest.push(one, {"a": b"a", "b": path}, "out")
        for name in ("../a", "/a", "a/../../b"):
            with pytest.raises(BadInput, match=f"^'{name}' is outside the target folder"):
                guest.push(one, {name: b""}, "out")
    assert not (machine.home / "out").exists()


@pytest.mark.parametrize("change", ["shorter", "longer", "another"])
def test_a_file_that_changes_while_it_is_sent(
    machine: Machine, big: Path, carrier: str, reports: list[TransferProgress], change: str
) -> None:
    def on_progress(progress: TransferProgress) -> None:
        reports.append(progress)
        if len(reports) == 4:
            there = big.stat()
            if change == "shorter":
                os.truncate(big, BIG - 1)
            elif change == "longer":
                with big.open("ab") as file:
                    file.write(b"more")
            else:  # nothing that a look at the file would show
                with big.open("r+b") as file:
                    file.seek(BIG - 1000)
                    file.write(b"other")
                os.utime(big, ns=(there.st_atime_ns, there.st_mtime_ns))

    with guest.connect(machine.endpoint) as one:
        with pytest.raises(GuestError, match=f"^one: {big} changed while it was sent$"):
            guest.push(one, {"big": big}, "run", on_progress=on_progress)
        assert not (machine.home / "run/big").exists()
        guest.push(one, {"big": big}, "run")
    assert (machine.home / "run/big").read_bytes() == big.read_bytes()


def test_closing_the_guest_ends_its_transfer(
    machine: Machine, big: Path, carrier: str, reports: list[TransferProgress]
) -> None:
    """So that Ctrl-C need not wait for it."""

    def on_progress(progress: TransferProgress) -> None:
        reports.append(progress)
        if len(reports) == 3:
            one.close()

    with guest.connect(machine.endpoint) as one, pytest.raises(GuestUnreachable):
        guest.push(one, {"big": big}, "run", on_progress=on_progress)
    assert not (machine.home / "run/big").exists()


def test_a_write_that_fails_in_the_guest_leaves_nothing(
    machine: Machine, big: Path, carrier: str
) -> None:
    machine.program("python3", f'ulimit -f 2000; exec {sys.executable} "$@"')
    too_large = pytest.raises(GuestError, match=r"^one: push to run: .*: File too large$")
    with guest.connect(machine.endpoint) as one, too_large:
        guest.push(one, {"big": big}, "run")
    assert [file for file in (machine.home / "run").rglob("*") if file.is_file()] == []


def test_full_disk_is_reported_before_anything_is_sent(machine: Machine, big: Path) -> None:
    small_disk = f"mount -t tmpfs -o size=2m small {machine.home}/small"
    if subprocess.run(["unshare", "-rm", "true"], check=False).returncode:
        pytest.skip("no mount namespaces here")
    (machine.home / "small").mkdir()
    command = f'{small_disk} && exec {sys.executable} "$@"'
    machine.program("python3", f"exec unshare -rm sh -c '{command}' python3 \"$@\"")
    full = pytest.raises(GuestError, match=r"No space left on device \(24 MiB needed, 2 MiB free")
    with guest.connect(machine.endpoint) as one, full:
        guest.push(one, {"big": big}, "small/run")


# Memory of the process that transfers, over what it had after a small transfer.
MEMORY = """
import json, resource, sys
from pathlib import Path
from gpuvm import guest
from gpuvm.guest import Endpoint

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10

fields = json.loads(sys.argv[1])
fields["key_file"], fields["host_keys"] = Path(fields["key_file"]), tuple(fields["host_keys"])
with guest.connect(Endpoint(**fields)) as one:
    guest.push(one, {"small": b"x"}, "small")
    guest.fetch(one, "small", Path("small"))
    before = peak()
    guest.push(one, {"large": Path("large")}, "large")
    guest.fetch(one, "large", Path("fetched"))
print(peak() - before)
"""


def test_memory_does_not_grow_with_the_files(
    machine: Machine, tmp_path: Path, carrier: str
) -> None:
    with (tmp_path / "large").open("wb") as large:
        large.truncate(200 * MIB)
    fields = {**vars(machine.endpoint), "others": ()}
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, json.dumps(fields, default=str)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(guest.__file__).parents[2])},
        capture_output=True,
        check=True,
    )
    assert int(done.stdout) < 50, "MiB"
    assert (tmp_path / "fetched/large").stat().st_size == 200 * MIB


# A store of contents in the guest.


def contents(machine: Machine) -> set[str]:
    return {file.name for file in (machine.home / "store").iterdir()}


def test_only_what_changed_is_sent(machine: Machine, tmp_path: Path) -> None:
    script = tmp_path / "run.sh"
    script.write_text("echo run")
    script.chmod(0o700)
    files: dict[str, Path | bytes] = {"a.py": b"print(1)", "b/c.py": b"print(22)", "run.sh": script}
    with guest.connect(machine.endpoint) as one:
        first = guest.push_by_content(one, files, "run/1", "store")
        before = len(machine.children)
        again = guest.push_by_content(one, files, "run/2", "store")
        assert len(machine.children) == before + 1, "one round trip"
        files["a.py"] = b"print(333)"
        changed = guest.push_by_content(one, files, "run/3", "store")
    whole = len("print(1)print(22)echo run")
    assert [first.sent, again.sent, changed.sent] == [whole, 0, len("print(333)")]
    assert again.already_there == whole
    run = machine.home / "run/3"
    assert (run / "a.py").read_text() == "print(333)"
    assert os.access(run / "run.sh", os.X_OK)
    assert not (run / "a.py").stat().st_mode & 0o111
    (run / "b/c.py").write_text("mine")
    with guest.connect(machine.endpoint) as one:
        guest.push_by_content(one, files, "run/4", "store")
    assert (machine.home / "run/4/b/c.py").read_text() == "print(22)", "the store is as it was"
    assert contents(machine) == {
        hashlib.sha256(content).hexdigest()
        for content in (b"print(1)", b"print(333)", b"print(22)", b"echo run")
    }


def test_data_is_linked_and_read_only(machine: Machine) -> None:
    with guest.connect(machine.endpoint) as one:
        guest.push_by_content(one, {"a": b"a"}, "data/1", "store", fill="link")
        guest.push_by_content(one, {"a": b"a", "b": b"a"}, "data/2", "store", fill="link")
        seen = machine.home / "data/1/a"
        assert seen.stat().st_nlink == 4
        assert not seen.stat().st_mode & 0o222
        inode = seen.stat().st_ino
        guest.push_by_content(one, {"a": b"a"}, "data/1", "store", fill="link")
        assert seen.stat().st_ino == inode
        seen.chmod(0o644)
        seen.write_text("cut short or written to")
        repaired = guest.push_by_content(one, {"a": b"a"}, "data/1", "store", fill="link")
    assert (repaired.sent, seen.read_text()) == (1, "a")


def test_wrong_hash_is_refused(machine: Machine) -> None:
    """As after a crash of the guest in the middle of a file."""
    digest = hashlib.sha256(b"right").hexdigest()
    (machine.home / "store").mkdir()
    (machine.home / f"store/{digest}.part").write_bytes(b"wro")
    with guest.connect(machine.endpoint) as one:
        with pytest.raises(GuestError, match=r"^one: .*checksum mismatch"):
            guest.push_by_content(one, {"a": b"right"}, "run", "store")
        assert not (machine.home / "run").exists()
        assert contents(machine) == set()
        guest.push_by_content(one, {"a": b"right"}, "run", "store")
    assert (machine.home / "run/a").read_text() == "right"


def test_the_same_content_from_two_at_once(machine: Machine, big: Path, carrier: str) -> None:
    def push(number: int) -> None:
        with guest.connect(machine.endpoint) as one:
            guest.push_by_content(one, {"big": big}, f"run/{number}", "store")

    with ThreadPoolExecutor(3) as threads:
        list(threads.map(push, range(3)))
    for number in range(3):
        assert (machine.home / f"run/{number}/big").read_bytes() == big.read_bytes()
    assert {name for name in contents(machine) if not name.endswith(".part")} == {
        hashlib.sha256(big.read_bytes()).hexdigest()
    }


def test_pruning_removes_what_no_push_has_used(machine: Machine) -> None:
    with guest.connect(machine.endpoint) as one:
        assert guest.prune_store(one, "store", unused_days=7).files == 0, "there is none yet"
        guest.push_by_content(one, {"old": b"old", "used": b"used"}, "run/1", "store")
        guest.push_by_content(one, {"linked": b"linked"}, "data/1", "store", fill="link")
        (machine.home / "store/broken.part").write_text("off")
        for file in (machine.home / "store").iterdir():
            os.utime(file, (0, 0))
        guest.push_by_content(one, {"used": b"used"}, "run/2", "store")
        pruned = guest.prune_store(one, "store", unused_days=7)
    assert (pruned.files, pruned.bytes) == (2, len("old") + len("off"))
    kept = {hashlib.sha256(content).hexdigest() for content in (b"used", b"linked")}
    assert contents(machine) == kept
    assert (machine.home / "run/1/old").read_text() == "old"


def test_a_real_server(
    openssh_server: openssh.Server, tmp_path: Path, big: Path, carrier: str
) -> None:
    there = str(openssh_server.home / "run")
    files: guest.Files = {"big": big, "new\nline": b"x", os.fsdecode(b"\xff"): b"y"}
    with guest.connect(openssh_server.endpoint) as one:
        guest.push(one, files, there)
        guest.push_by_content(one, files, f"{there}-2", str(openssh_server.home / "store"))
        fetched = guest.fetch(one, f"{there}-2", tmp_path / "here")
    assert {file.name for file in fetched.files} == set(files)
    assert (tmp_path / "here/big").read_bytes() == big.read_bytes()
    logins = sum("Accepted publickey" in line for line in openssh_server.log)
    assert logins == (1 if carrier == "paramiko" else 4)
