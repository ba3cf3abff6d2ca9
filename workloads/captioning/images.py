"""Real images with captions: COCO's layout, or that of Flickr8k and Flickr30k.

DIR/captions.json, or DIR/annotations/captions_*.json:
    {"images": [{"id": 1, "file_name": "images/a.jpg"}],
     "annotations": [{"image_id": 1, "caption": "a red bus"}]}

DIR/captions.txt (a CSV with the header image,caption), DIR/Flickr8k.token.txt or
DIR/results_20130124.token (image.jpg#0, a tab, the caption), images in DIR/Images or similar.
"""

import csv
import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from common.errors import BadInput

HELD_OUT_SHARE = 0.1

_FLICKR = ("captions.txt", "Flickr8k.token.txt", "results_20130124.token")
_FOLDERS = ("images", "Images", "Flicker8k_Dataset", "flickr30k_images", "train2017", "val2017")


@dataclass(frozen=True)
class Picture:
    id: str
    file: Path
    texts: tuple[str, ...]

    def captions(self) -> tuple[str, ...]:
        return self.texts


def read_pictures(folder: Path) -> tuple[list[Picture], list[Picture]]:
    """Training and held-out pictures, split by a hash of their ids. Raises BadInput."""
    file = _captions_file(folder)
    found = _coco(folder, file) if file.suffix == ".json" else _flickr(folder, file)
    held_out = [picture for picture in found if _is_held_out(picture.id)]
    train = [picture for picture in found if not _is_held_out(picture.id)]
    if not train or not held_out:
        raise BadInput(f"{file}: {len(found)} images are too few for a held-out set")
    return train, held_out


def load(file: Path, size: int) -> np.ndarray:
    """uint8 [size, size, 3]; raises BadInput."""
    try:
        with Image.open(file) as image:
            small = image.convert("RGB").resize((size, size), Image.Resampling.BOX)
            return np.asarray(small, np.uint8)
    except FileNotFoundError:
        raise BadInput(f"{file}: no such file") from None
    except (OSError, UnidentifiedImageError) as error:
        raise BadInput(f"{file}: not an image: {error}") from None


def resized(pixels: np.ndarray, size: int) -> np.ndarray:
    """uint8 [n, n, 3] -> uint8 [size, size, 3]."""
    if pixels.shape[0] == size:
        return pixels
    return np.asarray(Image.fromarray(pixels).resize((size, size)), np.uint8)


def _captions_file(folder: Path) -> Path:
    if not folder.is_dir():
        raise BadInput(f"--data {folder}: no such folder")
    found = [folder / "captions.json", *sorted(folder.glob("annotations/captions_*.json"))]
    found += [folder / name for name in _FLICKR]
    for file in found:
        if file.is_file():
            return file
    there = ", ".join(sorted(entry.name for entry in folder.iterdir())[:8]) or "nothing"
    raise BadInput(
        f"--data {folder}: no captions.json, {', '.join(_FLICKR)} in it (there is: {there})"
    )


def _coco(folder: Path, file: Path) -> list[Picture]:
    data = _json(file)
    texts: dict[Any, list[str]] = {}
    for number, note in enumerate(_list(data, "annotations", file)):
        caption = _words(str(note.get("caption", "")))
        if not caption or "image_id" not in note:
            raise BadInput(f"{file}: annotations[{number}] has no caption or no image_id")
        texts.setdefault(note["image_id"], []).append(caption)
    return [_picture(image, texts, folder, file) for image in _list(data, "images", file)]


def _flickr(folder: Path, file: Path) -> list[Picture]:
    """``image.jpg#0<TAB>caption``, or with a header ``image,caption`` the same as CSV."""
    texts: dict[str, list[str]] = {}
    for line, (name, caption) in enumerate(_pairs(file), 1):
        if not name or not _words(caption):
            raise BadInput(f"{file}:{line}: not an image and its caption")
        texts.setdefault(name, []).append(_words(caption))
    if not texts:
        raise BadInput(f"{file}: it is empty")
    return [
        Picture(name, _image(folder, name, file), tuple(captions))
        for name, captions in texts.items()
    ]


def _pairs(file: Path) -> list[tuple[str, str]]:
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        raise BadInput(f"{file}: not UTF-8 text") from None
    if lines and lines[0].strip().lower() == "image,caption":
        rows = list(csv.reader(lines[1:]))
        return [(row[0].strip(), ",".join(row[1:])) for row in rows if row]
    parts = [line.partition("\t") for line in lines if line.strip()]
    return [(name.partition("#")[0].strip(), caption) for name, _, caption in parts]


def _json(file: Path) -> dict[str, Any]:
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BadInput(f"{file}: not JSON: {error}") from None
    if not isinstance(data, dict):
        raise BadInput(f"{file}: not an object with 'images' and 'annotations'")
    return data


def _list(data: dict[str, Any], key: str, file: Path) -> list[dict[str, Any]]:
    found = data.get(key)
    if not isinstance(found, list) or not found:
        raise BadInput(f"{file}: '{key}' is missing or empty")
    return found


def _picture(
    image: dict[str, Any], texts: dict[Any, list[str]], folder: Path, file: Path
) -> Picture:
    name = str(image.get("file_name", ""))
    path = _image(folder, name, file)
    captions = texts.get(image.get("id"))
    if not captions:
        raise BadInput(f"{file}: image '{name}' has no caption")
    return Picture(str(image["id"]), path, tuple(captions))


def _image(folder: Path, name: str, file: Path) -> Path:
    places = (folder / name, *(folder / below / name for below in _FOLDERS))
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        raise BadInput(f"{file}: image '{name}' is not there")
    return path


def _words(text: str) -> str:
    return " ".join(re.findall(r"[a-z0-9']+", text.lower()))


def _is_held_out(name: str) -> bool:
    return hashlib.sha256(name.encode()).digest()[0] < HELD_OUT_SHARE * 256
