"""Files to a guest: files that it already has are not sent, interrupted transfers are resumed."""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from gpuvm import digests
from gpuvm.errors import BadInput, GuestError
from gpuvm.guest import openssh, scripts, transfer
from gpuvm.guest.progress import Meter, OnProgress
from gpuvm.guest.ssh import Guest
from gpuvm.guest.streams import CHUNK
from gpuvm.guest.transfer import TransferChannel, is_inside, portable

Files = Mapping[str, Path | bytes]
"""Files by their paths below the target folder."""


@dataclass(frozen=True)
class Pushed:
    """Bytes sent, and bytes that the guest already had."""

    sent: int
    already_there: int


def push(
    guest: Guest,
    files: Files,
    remote_dir: str,
    *,
    python: str = "python3",
    on_progress: OnProgress | None = None,
) -> Pushed:
    """Writes the files below ``remote_dir``, each atomically.

    Another push of the same files resumes an interrupted one.
    Raises BadInput for a local file that cannot be read or a name outside the folder, GuestError
    (a full disk, a file that changed while it was sent), GuestUnreachable.
    """
    store = f"{remote_dir.rstrip('/')}/{PARTIAL_STORE}"
    return _Push(guest, files, remote_dir, store, "move", python, on_progress).run()


PARTIAL_STORE = ".gpuvm-push"
"""Where a push without a store keeps partial files."""


def push_by_content(
    guest: Guest,
    files: Files,
    remote_dir: str,
    store: str,
    *,
    fill: Literal["copy", "link"] = "copy",
    python: str = "python3",
    on_progress: OnProgress | None = None,
) -> Pushed:
    """Writes the files to ``remote_dir``, sending only contents that ``store`` does not have.

    A store is a folder in the guest with a file for each SHA-256. When nothing is missing, this
    takes one round trip. Copies are writable, and executable if the local file is; links are
    read-only and take no space. Raises as ``push`` does.
    """
    return _Push(guest, files, remote_dir, store, fill, python, on_progress).run()


@dataclass(frozen=True)
class Pruned:
    files: int
    bytes: int


def prune_store(guest: Guest, store: str, *, unused_days: float, python: str = "python3") -> Pruned:
    """Removes files from the store that no push has used since then, except those linked from a
    folder. Raises CommandFailed and GuestUnreachable.
    """
    seconds, what = f"{unused_days * 86400:g}", f"prune {store}"
    done = guest.script(python, "prune_store", store, seconds, timeout_s=600, what=what)
    return Pruned(**json.loads(done.stdout))


@dataclass(frozen=True)
class _Source:
    """A file's content; ``mode`` is the mode of its copy."""

    content: Path | bytes
    size: int
    digest: str
    mode: int


@dataclass(frozen=True)
class _Push:
    guest: Guest
    files: Files
    remote_dir: str
    store: str
    fill: Literal["copy", "link", "move"]
    python: str
    on_progress: OnProgress | None

    def run(self) -> Pushed:
        stats = _stats(self.files)
        total = sum(stat.st_size for stat in stats.values())
        total += sum(len(content) for content in self.files.values() if isinstance(content, bytes))
        ssh = total >= transfer.BULK_BYTES and openssh.available(self.guest.endpoint)
        command = scripts.command(self.python, "receive")
        what = f"push to {self.remote_dir}"
        with ThreadPoolExecutor(1) as thread:  # files are hashed while connecting
            reading = thread.submit(_sources, self.files, stats)
            # A store may have all of it: ask over the open connection first.
            for bulk in (True,) if ssh and self.fill == "move" else (False, True):
                with transfer.opened(self.guest, command, what, bulk=bulk) as channel:
                    sources = reading.result()
                    contents = {source.digest: source for source in sources.values()}
                    channel.send_json(self._request(sources))
                    missing = [(contents[d], at) for d, at in channel.read_answer()["missing"]]
                    left = sum(source.size - offset for source, offset in missing)
                    if bulk or not ssh or left < transfer.BULK_BYTES:
                        whole = sum(source.size for source in contents.values())
                        _send(channel, missing, Meter(self.on_progress, whole, whole - left))
                        return Pushed(left, whole - left)
        raise AssertionError("the last attempt returns or raises")

    def _request(self, sources: Mapping[str, _Source]) -> dict[str, object]:
        return {
            "folder": portable(self.remote_dir),
            "store": portable(self.store),
            "fill": self.fill,
            "files": [(portable(n), s.size, s.digest, s.mode) for n, s in sources.items()],
        }


def _stats(files: Files) -> dict[str, os.stat_result]:
    for name in files:
        if not is_inside(name):
            raise BadInput(f"{name!r} is outside the target folder")
    with _readable():
        return {name: file.stat() for name, file in files.items() if isinstance(file, Path)}


def _sources(files: Files, stats: Mapping[str, os.stat_result]) -> dict[str, _Source]:
    """Sources by name. Digests are computed here, before anything is sent."""
    with _readable():
        found = digests.digests({n: file for n, file in files.items() if isinstance(file, Path)})
    return {
        name: _Source(file, len(file), hashlib.sha256(file).hexdigest(), 0o644)
        if isinstance(file, bytes)
        else _Source(file, stats[name].st_size, found[name], 0o644 | stats[name].st_mode & 0o111)
        for name, file in files.items()
    }


def _send(channel: TransferChannel, missing: Sequence[tuple[_Source, int]], meter: Meter) -> None:
    with contextlib.suppress(BrokenPipeError):  # the answer has the reason
        for source, offset in missing:
            for chunk in _chunks(source, offset, channel.guest.name):
                channel.send(chunk)
                meter.count(len(chunk))
    answer = channel.read_answer()
    if "changed" in answer:
        raise _checksum_error(
            next(source for source, _ in missing if source.digest == answer["changed"]),
            channel.guest.name,
        )
    meter.finish()


def _checksum_error(source: _Source, guest: str) -> GuestError:
    """The file has changed, or the guest's partial file is not its beginning."""
    name = "a file"
    if isinstance(source.content, Path):
        name = str(source.content)
        digests.forget(source.content)
        with _readable():
            if digests.digest(source.content) != source.digest:
                return _changed(source.content, guest)
    return GuestError(
        f"{guest}: {name}: checksum mismatch (SHA-256)",
        hint="run the command again",
    )


def _chunks(source: _Source, offset: int, guest: str) -> Iterator[bytes | memoryview]:
    """Yields exactly the rest of the file, since another follows in the stream."""
    if isinstance(source.content, bytes):
        yield memoryview(source.content)[offset:]
        return
    with _readable(), source.content.open("rb", buffering=0) as file:
        file.seek(offset)
        left = source.size - offset
        while left:
            chunk = file.read(min(CHUNK, left))
            left -= len(chunk)
            # Checked before the last chunk is sent, which completes the file in the guest.
            grown = not left and os.fstat(file.fileno()).st_size != source.size
            if not chunk or grown:
                raise _changed(source.content, guest)
            yield chunk


def _changed(file: Path, guest: str) -> GuestError:
    return GuestError(f"{guest}: {file} changed while it was sent", hint="run the command again")


@contextlib.contextmanager
def _readable() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise BadInput(f"{error.filename}: {error.strerror}") from None
