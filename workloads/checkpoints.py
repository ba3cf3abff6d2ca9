"""Checkpoints: the chief writes them, every worker goes on from its own copy.

``checkpoints/latest.json`` names the latest one and says what it was made with, ``before.json`` the
one before it, for when the latest is damaged. A program that finds one of another wish refuses it
instead of training on something else.
"""

import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from starting import BAD_INPUT, exit_with

LATEST, BEFORE = "latest.json", "before.json"


class Damaged(Exception):
    """One line that says what is wrong with it."""


class Checkpoints:
    """``wish`` is what a checkpoint must have been made with to go on from it."""

    def __init__(self, checkpoint: Any, out: Path, wish: str, *, chief: bool) -> None:
        self._checkpoint, self._wish, self._chief = checkpoint, wish, chief
        self._folder, self._out = out / "checkpoints", out

    def save(self, name: str, done: Any) -> str | None:
        """Where it is, below ``out``; None for a worker that is not the chief.

        ``done`` is how far the program has come, as JSON.
        """
        if not self._chief:
            return None
        self._folder.mkdir(exist_ok=True)
        path = Path(self._checkpoint.write(str(self._folder / name)))
        self._keep_the_one_before(path.name)
        self._write(LATEST, {"path": path.name, "done": done, "wish": self._wish})
        self._drop_older()
        return str(path.relative_to(self._out))

    def restore(self) -> Any | None:
        """``done`` of the latest good one, whose variables are set then; None when there is none.

        What is damaged is said on standard error.
        """
        for file in self._kept():
            try:
                state = _read(file)
                self._refuse_another(file, state["wish"])
                self._set(state["path"])
            except Damaged as error:
                _say(f"{file} cannot be used: {error}; going on from the one before, or anew")
            else:
                return state["done"]
        return None

    def _kept(self) -> Iterator[Path]:
        return (file for name in (LATEST, BEFORE) if (file := self._folder / name).exists())

    def _keep_the_one_before(self, new: str) -> None:
        with contextlib.suppress(Damaged):
            state = _read(self._folder / LATEST)
            if state["path"] != new:  # a step that is saved twice is not its own predecessor
                self._write(BEFORE, state)

    def _write(self, name: str, state: dict[str, Any]) -> None:
        half = self._folder / f".{name}"
        half.write_text(json.dumps(state), encoding="utf-8")
        half.replace(self._folder / name)

    def _drop_older(self) -> None:
        kept = []
        for file in self._kept():
            with contextlib.suppress(Damaged):
                kept.append(f"{_read(file)['path']}.")
        for old in self._folder.glob("*-*.*"):
            if not old.name.startswith(tuple(kept)):
                old.unlink()

    def _refuse_another(self, file: Path, wish: str) -> None:
        if wish != self._wish:
            exit_with(f"{file} is of another run ({wish}, not {self._wish})", BAD_INPUT)

    def _set(self, name: str) -> None:
        """All of it is read before any variable is set: half of one would be worse than none."""
        import tensorflow as tf

        path = str(self._folder / name)
        try:
            reader = tf.train.load_checkpoint(path)
            for tensor in reader.get_variable_to_dtype_map():
                reader.get_tensor(tensor)
        except Exception as error:  # noqa: BLE001 - TensorFlow has IndexError for a short file
            raise Damaged(" ".join(str(error).split())[:200]) from None
        self._checkpoint.read(path).assert_consumed()


def _read(file: Path) -> dict[str, Any]:
    """``path``, ``done`` and ``wish``. Raises Damaged."""
    try:
        state = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise Damaged(str(error)) from None
    if not isinstance(state, dict) or not {"path", "done", "wish"} <= state.keys():
        raise Damaged("it does not say path, done and wish")
    return state


def _say(line: str) -> None:
    print(f"{Path(sys.argv[0]).name}: {line}", file=sys.stderr, flush=True)
