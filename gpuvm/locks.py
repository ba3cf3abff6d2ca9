"""One command at a time, on this machine, for what a file stands for.

The lock is the kernel's (flock), on a file that says who holds it: it ends with its process,
however that ends, so that a lock is never stale. The file goes with it.
"""

import errno
import fcntl
import getpass
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from typing_extensions import override

from gpuvm.errors import BadInput

_NO_LOCKS_HERE = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}
"""From some network file systems."""


@dataclass(frozen=True)
class Holder:
    """``since`` is its local time."""

    command: str
    pid: int
    user: str
    since: str

    @override
    def __str__(self) -> str:
        return f"{self.command} (pid {self.pid}, {self.user}, since {self.since})"


@contextmanager
def held(file: Path, command: str, busy: Callable[[Holder | None], None]) -> Iterator[None]:
    """Hold the lock during the block.

    ``busy`` is called once if another process holds it, with that one if it is known. If it does
    not raise, the lock is waited for. Raises BadInput for a file that cannot be written.
    """
    try:
        descriptor = _locked(file, busy)
    except OSError as error:
        if error.errno not in _NO_LOCKS_HERE:
            raise BadInput(f"cannot lock {file}: {error.strerror}") from None
        yield
        return
    try:
        holder = Holder(command, os.getpid(), _user(), f"{datetime.now():%Y-%m-%d %H:%M:%S}")  # noqa: DTZ005 - for a person here
        os.truncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(asdict(holder)).encode(), 0)
        yield
    finally:
        file.unlink(missing_ok=True)  # before it is released: see _locked
        os.close(descriptor)
        with suppress(OSError):  # other locks are there
            file.parent.rmdir()


def _locked(file: Path, busy: Callable[[Holder | None], None]) -> int:
    """Lock the file that has this name: its last holder may have removed the one we opened."""
    told = False
    while True:
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o600)
        except FileNotFoundError:  # the folder went with the last holder
            continue
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if not told:
                    told = True
                    busy(_holder(descriptor))
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            if _is_named(descriptor, file):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _holder(descriptor: int) -> Holder | None:
    """None in the moment before it has written who it is."""
    try:
        return Holder(**json.loads(os.pread(descriptor, 4096, 0)))
    except (ValueError, TypeError):
        return None


def _is_named(descriptor: int, file: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), file.stat())
    except FileNotFoundError:
        return False


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # an account without a name, as in some containers
        return str(os.getuid())
