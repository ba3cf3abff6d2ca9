"""Checkpoints: the chief writes them, every worker resumes from its own copy.

``checkpoints/latest.json`` has the path of the latest checkpoint and what it was made with,
``before.json`` those of the previous one, in case the latest is damaged. A checkpoint that was made
with other data or options is refused.
"""

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from common.errors import BadInput
from common.files import write_json

LATEST, BEFORE = "latest.json", "before.json"


class Damaged(Exception):
    """Its text is one line on what is wrong with the checkpoint."""


class Checkpoints:
    """Only checkpoints with the same ``made_with``, a line of text, are used.

    ``checkpoint`` is a ``tf.train.Checkpoint``; ``warn`` prints a line for the user.
    """

    def __init__(
        self,
        checkpoint: Any,
        out: Path,
        made_with: str,
        *,
        chief: bool,
        warn: Callable[[str], None],
    ) -> None:
        self._checkpoint, self._made_with, self._chief = checkpoint, made_with, chief
        self._folder, self._out, self._warn = out / "checkpoints", out, warn

    def save(self, name: str, done: Any) -> str | None:
        """Returns its path below ``out``, or None on a worker that is not the chief.

        ``done`` is the program's progress, as JSON.
        """
        if not self._chief:
            return None
        self._folder.mkdir(exist_ok=True)
        path = Path(self._checkpoint.write(str(self._folder / name)))
        self._keep_previous(path.name)
        state = {"path": path.name, "done": done, "made_with": self._made_with}
        write_json(self._folder / LATEST, state)
        self._delete_older()
        return str(path.relative_to(self._out))

    def restore(self) -> Any | None:
        """Restores the variables from the latest usable checkpoint; returns its ``done`` or None.

        A damaged checkpoint is reported by ``warn``. Raises BadInput for one of another run.
        """
        for file in self._existing():
            try:
                state = _read(file)
                self._check_made_with(file, state["made_with"])
                self._load(state["path"])
            except Damaged as error:
                self._warn(f"{file} cannot be used: {error}; trying the previous checkpoint")
            else:
                return state["done"]
        return None

    def _existing(self) -> Iterator[Path]:
        return (file for name in (LATEST, BEFORE) if (file := self._folder / name).exists())

    def _keep_previous(self, new: str) -> None:
        with contextlib.suppress(Damaged):
            state = _read(self._folder / LATEST)
            if state["path"] != new:  # unless the same step is saved again
                write_json(self._folder / BEFORE, state)

    def _delete_older(self) -> None:
        kept = []
        for file in self._existing():
            with contextlib.suppress(Damaged):
                kept.append(f"{_read(file)['path']}.")
        for old in self._folder.glob("*-*.*"):
            if not old.name.startswith(tuple(kept)):
                old.unlink()

    def _check_made_with(self, file: Path, made_with: str) -> None:
        if made_with != self._made_with:
            raise BadInput(f"{file} belongs to another run ({made_with}, not {self._made_with})")

    def _load(self, name: str) -> None:
        """Reads all tensors first, so that a damaged checkpoint changes no variable."""
        import tensorflow as tf

        path = str(self._folder / name)
        try:
            reader = tf.train.load_checkpoint(path)
            for tensor in reader.get_variable_to_dtype_map():
                reader.get_tensor(tensor)
        except Exception as error:  # noqa: BLE001 - TensorFlow raises IndexError for a short file
            raise Damaged(" ".join(str(error).split())[:200]) from None
        self._checkpoint.read(path).assert_consumed()


def _read(file: Path) -> dict[str, Any]:
    """Returns ``path``, ``done`` and ``made_with``. Raises Damaged."""
    try:
        state = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise Damaged(str(error)) from None
    if isinstance(state, dict) and "wish" in state:  # the key in older runs
        state["made_with"] = state.pop("wish")
    if not isinstance(state, dict) or not {"path", "done", "made_with"} <= state.keys():
        raise Damaged("it lacks path, done or made_with")
    return state
