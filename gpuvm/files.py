"""Files that are written as a whole, the versions of gpuvm's own, and files of a person's.

write_atomic(file, text, 0o600)    # replaces it
write_new(file, text)              # FileExistsError if it is there
write_output(file, text)           # what the user named: a pipe or a device is written to
read_text(file, limit_kib=128)     # what the user named or wrote, to a limit
"""

import contextlib
import errno
import os
import secrets
from dataclasses import dataclass
from pathlib import Path

import gpuvm
from gpuvm.errors import BadInput


@dataclass(frozen=True)
class Format:
    """A kind of file that gpuvm writes and reads again; ``version`` is the newest that it knows."""

    what: str
    version: int

    def check(self, file: Path, found: object) -> None:
        """Refuse a newer one. Older ones are read: what they lack has defaults. Raises BadInput."""
        if isinstance(found, int) and found > self.version:
            raise BadInput(
                f"{file}: written by a newer gpuvm (version {found} of a {self.what}; gpuvm "
                f"{gpuvm.__version__} reads up to {self.version})",
                hint="update gpuvm on this machine; the file is left as it is",
            )


CONTEXT = Format("context", 1)
RUN = Format("run's manifest", 1)
LAB = Format("lab's state", 1)
DIGESTS = Format("cache of digests", 1)
FORMATS = (CONTEXT, RUN, LAB, DIGESTS)
"""Beside them there are files in formats of others: OpenSSH's keys, known hosts and configuration;
and logs of one JSON object per line, of which a line that is not understood is left out."""

_NO_LINKS_HERE = {errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP}


def read_text(file: Path, *, limit_kib: int, option: str = "") -> str:
    """The UTF-8 text of a file that a person wrote or named, ``option`` being what named it.

    No more than ``limit_kib`` is read, so that a device or a wrong file cannot fill the memory.
    Raises BadInput.
    """
    shown = f"{option} {file}" if option else str(file)
    try:
        with file.open("rb") as stream:
            content = stream.read(limit_kib * 1024 + 1)
        if len(content) > limit_kib * 1024:
            raise BadInput(f"{shown}: larger than {limit_kib} KiB")
        return content.decode("utf-8")
    except OSError as error:
        raise BadInput(f"{shown}: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise BadInput(f"{shown}: not UTF-8 text") from None


def write_atomic(file: Path, content: str | bytes, mode: int | None = None) -> None:
    """Replaces ``file``: a reader sees the old content or the new one, never a part of either.

    ``mode`` are its exact permissions; without it the umask decides, as for any new file.
    """
    new = _written(file, content, mode)
    try:
        new.replace(file)
    except BaseException:
        new.unlink(missing_ok=True)
        raise


def write_new(file: Path, content: str | bytes, mode: int | None = None) -> None:
    """As ``write_atomic``, and never replaces a file. Raises FileExistsError."""
    new = _written(file, content, mode)
    try:
        os.link(new, file)
    except OSError as error:
        if error.errno not in _NO_LINKS_HERE or file.exists():
            raise
        new.replace(file)
    finally:
        new.unlink(missing_ok=True)


def write_output(file: Path, text: str) -> None:
    """Writes what the user asked for: to a file of theirs, through a link, or to a pipe."""
    if file.exists() and not file.is_file():
        with file.open("w", encoding="utf-8") as opened:
            opened.write(text)
    else:
        target = file.resolve()
        write_atomic(target, text, _mode(target))


def _mode(file: Path) -> int | None:
    """Permissions that somebody gave the file stay."""
    with contextlib.suppress(FileNotFoundError):
        return file.stat().st_mode & 0o777
    return None


def _written(file: Path, content: str | bytes, mode: int | None) -> Path:
    """A new file beside it, with the content."""
    new = file.with_name(f".{file.name}.{secrets.token_hex(4)}")
    descriptor = os.open(
        new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666 if mode is None else 0o600
    )
    try:
        with os.fdopen(descriptor, "wb") as opened:
            opened.write(content.encode() if isinstance(content, str) else content)
            if mode is not None:
                os.fchmod(descriptor, mode)
    except BaseException:
        new.unlink(missing_ok=True)
        raise
    return new
