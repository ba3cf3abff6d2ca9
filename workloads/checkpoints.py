"""Checkpoints: the chief writes them, every worker goes on from its own copy.

``checkpoints/latest.json`` names the latest one and says what it was made with; a program that
finds one of another wish refuses it instead of training on something else.
"""

import json
from pathlib import Path
from typing import Any

from starting import BAD_INPUT, leave


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
        state = {"path": path.name, "done": done, "wish": self._wish}
        half = self._folder / ".latest.json"
        half.write_text(json.dumps(state), encoding="utf-8")
        half.replace(self._folder / "latest.json")
        for old in self._folder.glob("*-*.*"):
            if not old.name.startswith(f"{path.name}."):
                old.unlink()
        return str(path.relative_to(self._out))

    def restore(self) -> Any | None:
        """``done`` of the latest one, whose variables are set then; None when there is none."""
        latest = self._folder / "latest.json"
        if not latest.exists():
            return None
        state = json.loads(latest.read_text(encoding="utf-8"))
        if state["wish"] != self._wish:
            leave(f"{latest} is of another run ({state['wish']}, not {self._wish})", BAD_INPUT)
        self._checkpoint.read(str(self._folder / state["path"])).assert_consumed()
        return state["done"]
