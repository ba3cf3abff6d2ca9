"""Real images with captions: a folder with images and a COCO-style captions file.

DIR/captions.json, or DIR/annotations/captions_*.json:
    {"images": [{"id": 1, "file_name": "images/a.jpg"}],
     "annotations": [{"image_id": 1, "caption": "a red bus"}]}
"""

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

HELD_OUT_SHARE = 0.1


class BadData(Exception):
    """One line for the user: which file, and what is wrong with it."""


@dataclass(frozen=True)
class Picture:
    id: str
    file: Path
    texts: tuple[str, ...]

    def captions(self) -> tuple[str, ...]:
        return self.texts


def read_pictures(folder: Path) -> tuple[list[Picture], list[Picture]]:
    """Training and held-out pictures, split by a hash of the id; raises BadData."""
    file = _captions_file(folder)
    data = _json(file)
    texts: dict[Any, list[str]] = {}
    for number, note in enumerate(_list(data, "annotations", file)):
        caption = _words(str(note.get("caption", "")))
        if not caption or "image_id" not in note:
            raise BadData(f"{file}: annotations[{number}] has no caption or no image_id")
        texts.setdefault(note["image_id"], []).append(caption)
    pictures = [_picture(image, texts, folder, file) for image in _list(data, "images", file)]
    held = [picture for picture in pictures if _is_held_out(picture.id)]
    train = [picture for picture in pictures if not _is_held_out(picture.id)]
    if not train or not held:
        raise BadData(f"{file}: {len(pictures)} images are too few to hold some out")
    return train, held


def load(picture: Picture, size: int) -> np.ndarray:
    """uint8 [size, size, 3]; raises BadData."""
    try:
        with Image.open(picture.file) as image:
            return np.asarray(image.convert("RGB").resize((size, size)), np.uint8)
    except (OSError, UnidentifiedImageError) as error:
        raise BadData(f"{picture.file}: not an image: {error}") from None


def _captions_file(folder: Path) -> Path:
    if not folder.is_dir():
        raise BadData(f"--data {folder}: no such folder")
    found = [folder / "captions.json", *sorted(folder.glob("annotations/captions_*.json"))]
    for file in found:
        if file.is_file():
            return file
    there = ", ".join(sorted(entry.name for entry in folder.iterdir())[:8]) or "nothing"
    raise BadData(f"--data {folder}: no captions.json in it (there is: {there})")


def _json(file: Path) -> dict[str, Any]:
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BadData(f"{file}: not JSON: {error}") from None
    if not isinstance(data, dict):
        raise BadData(f"{file}: not an object with 'images' and 'annotations'")
    return data


def _list(data: dict[str, Any], key: str, file: Path) -> list[dict[str, Any]]:
    found = data.get(key)
    if not isinstance(found, list) or not found:
        raise BadData(f"{file}: '{key}' is missing or empty")
    return found


def _picture(
    image: dict[str, Any], texts: dict[Any, list[str]], folder: Path, file: Path
) -> Picture:
    name = str(image.get("file_name", ""))
    path = next((p for p in (folder / name, folder / "images" / name) if p.is_file()), None)
    if path is None:
        raise BadData(f"{file}: image '{name}' is not there")
    captions = texts.get(image.get("id"))
    if not captions:
        raise BadData(f"{file}: image '{name}' has no caption")
    return Picture(str(image["id"]), path, tuple(captions))


def _words(text: str) -> str:
    return " ".join(re.findall(r"[a-z0-9']+", text.lower()))


def _is_held_out(name: str) -> bool:
    return hashlib.sha256(name.encode()).digest()[0] < HELD_OUT_SHARE * 256
