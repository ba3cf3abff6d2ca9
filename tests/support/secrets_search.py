"""Where a secret is, of all that a whole path wrote, printed, started and set."""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from commands import CommandLine, Done
from typing_extensions import override

WITNESS = Path(__file__).parent / "witness"


class Recorded(CommandLine):
    """Keeps what its commands were given, what they printed and what they saw."""

    def __init__(self, other: CommandLine, folder: Path) -> None:
        super().__init__(other.home)
        self._seen = folder / "seen.jsonl"
        self.said: list[str] = []
        known = os.environ.get("PYTHONPATH", "")
        self.environment |= other.environment | {
            "GPUVM_TEST_KEYRING": str(folder / "keyring.json"),
            "GPUVM_TEST_WITNESS": str(self._seen),
            "PYTHON_KEYRING_BACKEND": "file_keyring.FileKeyring",
            "PYTHONPATH": os.pathsep.join(filter(None, (str(WITNESS), str(WITNESS.parent), known))),
        }

    @override
    def __call__(
        self, *arguments: str, timeout_s: float = 300, stdin: str = "", **environment: str
    ) -> Done:
        done = super().__call__(*arguments, timeout_s=timeout_s, stdin=stdin, **environment)
        self.said += [*arguments, done.stdout, done.stderr]
        return done

    def seen(self, kind: str) -> list[str]:
        lines = map(json.loads, self._seen.read_text().splitlines())
        return [text for found, text in lines if found == kind]


def key_lines(file: Path) -> list[str]:
    """The lines of a private key, without those that all keys of its kind have."""
    lines = file.read_text().splitlines()
    return [line for line in lines[2:] if not line.startswith("-")]


def places(secrets: Iterable[str], folder: Path, texts: Mapping[str, str]) -> dict[str, set[str]]:
    """For each: the files below the folder, and the names of the texts, that have it in them."""
    found = {secret: {name for name, text in texts.items() if secret in text} for secret in secrets}
    for file in folder.rglob("*"):
        relative = str(file.relative_to(folder))
        content = file.read_bytes() if file.is_file() and not file.is_symlink() else b""
        for secret, where in found.items():
            if secret in relative or secret.encode() in content:
                where.add(relative)
    return found


def command_lines() -> Iterator[str]:
    """Of every process of this machine that may be read."""
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            yield process.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue  # it has ended
