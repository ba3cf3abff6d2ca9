"""Files that are replaced as a whole."""

import os
import secrets
from pathlib import Path


def write_atomic(file: Path, content: str | bytes, mode: int | None = None) -> None:
    """Replaces ``file``: a reader sees the old content or the new one, never a part of either.

    ``mode`` are its exact permissions; without it the umask decides, as for any new file.
    """
    new = file.with_name(f".{file.name}.{secrets.token_hex(4)}")
    descriptor = os.open(
        new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666 if mode is None else 0o600
    )
    try:
        with os.fdopen(descriptor, "wb") as opened:
            opened.write(content.encode() if isinstance(content, str) else content)
            if mode is not None:
                os.fchmod(descriptor, mode)
        new.replace(file)
    except BaseException:
        new.unlink(missing_ok=True)
        raise
