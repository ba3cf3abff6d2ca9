"""Backends of the library keyring, for tests: chosen by PYTHON_KEYRING_BACKEND or set_keyring."""

import json
import os
import threading
from pathlib import Path

from keyring import errors
from keyring.backend import KeyringBackend
from typing_extensions import override


class FileKeyring(KeyringBackend):
    """Its passwords are in the file that GPUVM_TEST_KEYRING names."""

    priority = 1
    name = "file of a test"

    @override
    def get_password(self, service: str, username: str) -> str | None:
        return self._read().get(f"{service}/{username}")

    @override
    def set_password(self, service: str, username: str, password: str) -> None:
        self._write(self._read() | {f"{service}/{username}": password})

    @override
    def delete_password(self, service: str, username: str) -> None:
        kept = self._read()
        if kept.pop(f"{service}/{username}", None) is None:
            raise errors.PasswordDeleteError("not found")
        self._write(kept)

    @property
    def _file(self) -> Path:
        return Path(os.environ["GPUVM_TEST_KEYRING"])

    def _read(self) -> dict[str, str]:
        return dict(json.loads(self._file.read_text())) if self._file.exists() else {}

    def _write(self, kept: dict[str, str]) -> None:
        self._file.write_text(json.dumps(kept))


class LockedKeyring(FileKeyring):
    """As a desktop's keyring when nobody unlocks it."""

    @override
    def get_password(self, service: str, username: str) -> str | None:
        raise errors.KeyringLocked("Failed to unlock the collection!")


class ForgetfulKeyring(FileKeyring):
    """Takes a password and has none."""

    @override
    def _write(self, kept: dict[str, str]) -> None:
        pass


class SilentKeyring(FileKeyring):
    """Never answers."""

    @override
    def get_password(self, service: str, username: str) -> str | None:
        threading.Event().wait()
        return None
