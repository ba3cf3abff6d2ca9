"""Real images with captions: Karpathy's split file, COCO's layout, or Flickr8k's and Flickr30k's.

DIR/dataset.json, or dataset_coco.json, dataset_flickr8k.json and so on:
    {"images": [{"filename": "a.jpg", "split": "train", "sentences": [{"raw": "A red bus."}]}]}

DIR/captions.json, or DIR/annotations/captions_*.json:
    {"images": [{"id": 1, "file_name": "images/a.jpg"}],
     "annotations": [{"image_id": 1, "caption": "a red bus"}]}

DIR/captions.txt (a CSV with the header image,caption), DIR/Flickr8k.token.txt or
DIR/results_20130124.token (image.jpg#0, a tab, the caption), images in DIR/Images and the like.

What is held out is what the data set itself holds out, so that scores can be compared with others':
Karpathy's test images, captions_val*.json beside captions_train*.json, Flickr_8k.testImages.txt.
Without any of these it is a tenth of the images, by a hash of their ids.
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

_FLICKR = (
    "captions.txt",
    "Flickr8k.token.txt",
    "Flickr8k_text/Flickr8k.token.txt",
    "results_20130124.token",
)
_LISTS = ("", "Flickr8k_text")
_LIST = "Flickr_8k.{}Images.txt"
_FOLDERS = (
    "images",
    "Images",
    "Flicker8k_Dataset",
    "flickr30k_images",
    "train2017",
    "val2017",
    "train2014",
    "val2014",
)
_TRAIN, _TEST, _VAL = ("train", "restval"), "test", "val"
"""Karpathy's splits: restval is what of COCO's val2014 is left to train on."""


@dataclass(frozen=True)
class Picture:
    id: str
    file: Path
    texts: tuple[str, ...]

    def captions(self) -> tuple[str, ...]:
        return self.texts


@dataclass(frozen=True)
class Pictures:
    """``split`` says in words which are held out."""

    train: list[Picture]
    held_out: list[Picture]
    split: str


def read_pictures(folder: Path) -> Pictures:
    """Training and held-out pictures, by the data set's own split. Raises BadInput."""
    file = _captions_file(folder)
    if file.name.startswith("dataset"):
        found = _karpathy(folder, file)
    elif file.suffix == ".json":
        found = _coco_split(folder, file)
    else:
        found = _flickr_split(folder, file)
    if not found.train or not found.held_out:
        number = len(found.train) + len(found.held_out)
        raise BadInput(f"{file}: too few images for a held-out set: {number}")
    return found


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
    notes = sorted(folder.glob("annotations/captions_*.json"), key=_train_first)
    found = [folder / "dataset.json", *sorted(folder.glob("dataset_*.json"))]
    found += [folder / "captions.json", *notes]
    found += [folder / name for name in _FLICKR]
    for file in found:
        if file.is_file():
            return file
    there = ", ".join(sorted(entry.name for entry in folder.iterdir())[:8]) or "nothing"
    raise BadInput(
        f"--data {folder}: no dataset.json, captions.json, {', '.join(_FLICKR)} in it "
        f"(there is: {there})"
    )


def _train_first(file: Path) -> tuple[bool, str]:
    return "train" not in file.name, file.name


def _by_hash(found: list[Picture], why: str = "") -> Pictures:
    held = [picture for picture in found if _is_held_out(picture.id)]
    train = [picture for picture in found if not _is_held_out(picture.id)]
    return Pictures(train, held, f"a tenth of the images, by a hash of their id{why}")


def _karpathy(folder: Path, file: Path) -> Pictures:
    parts: dict[str, list[Picture]] = {}
    for number, image in enumerate(_list(_json(file), "images", file)):
        where = f"{file}: images[{number}]"
        name, part, raw = image.get("filename"), image.get("split"), image.get("sentences")
        if not (isinstance(name, str) and name and isinstance(raw, list)):
            raise BadInput(f"{where} has no filename or no sentences")
        if part not in (*_TRAIN, _TEST, _VAL):
            raise BadInput(f"{where}: its split '{part}' is none of train, restval, val, test")
        texts = [_words(str(one.get("raw", ""))) for one in raw if isinstance(one, dict)]
        captions = tuple(filter(None, texts))
        if not captions:
            raise BadInput(f"{where}: {name} has no sentence with a 'raw' text")
        below = image.get("filepath")
        path = _image(folder, f"{below}/{name}" if isinstance(below, str) else name, file)
        parts.setdefault(part, []).append(Picture(name, path, captions))
    held = _TEST if parts.get(_TEST) else _VAL
    train = [picture for part in _TRAIN for picture in parts.get(part, [])]
    unused = len(parts.get(_VAL, [])) if held == _TEST else 0
    told = f"the {held} images of {file.name}"
    told += f"; its val images, {unused}, are not used" if unused else ""
    return Pictures(train, parts.get(held, []), told)


def _coco_split(folder: Path, file: Path) -> Pictures:
    other = file.with_name(file.name.replace("train", "val"))
    if other == file or not other.is_file():
        return _by_hash(_coco(folder, file))
    first = str(_list(_json(other), "images", other)[0].get("file_name", ""))
    if _find(folder, first) is None:
        return _by_hash(_coco(folder, file), f"; the images of {other.name} are not there")
    return Pictures(_coco(folder, file), _coco(folder, other), f"the images of {other.name}")


def _flickr_split(folder: Path, file: Path) -> Pictures:
    found = _flickr(folder, file)
    train, test = (_listed(folder, part) for part in ("train", "test"))
    if train is None and test is None:
        return _by_hash(found)
    if train is None or test is None:
        missing = _LIST.format("train" if train is None else "test")
        raise BadInput(f"--data {folder}: {missing} is missing beside its other half")
    known = {picture.id: picture for picture in found}
    for lists in (train, test):
        for where, name in lists.items():
            if name not in known:
                raise BadInput(f"{where}: '{name}' has no caption in {file.name}")
    both = set(train.values()) & set(test.values())
    if both:
        raise BadInput(f"--data {folder}: '{min(both)}' is both to train on and to test on")
    return Pictures(
        [known[name] for name in dict.fromkeys(train.values())],
        [known[name] for name in dict.fromkeys(test.values())],
        f"the images of {_LIST.format('test')}",
    )


def _listed(folder: Path, part: str) -> dict[str, str] | None:
    """Names of images by the place where they stand; None where there is no such list."""
    for below in _LISTS:
        file = folder / below / _LIST.format(part)
        if file.is_file():
            lines = enumerate(_text(file).splitlines(), 1)
            return {f"{file}:{n}": line.strip() for n, line in lines if line.strip()}
    return None


def _coco(folder: Path, file: Path) -> list[Picture]:
    data = _json(file)
    texts: dict[str, list[str]] = {}
    for number, note in enumerate(_list(data, "annotations", file)):
        caption = _words(str(note.get("caption", "")))
        if not caption or "image_id" not in note:
            raise BadInput(f"{file}: annotations[{number}] has no caption or no image_id")
        texts.setdefault(str(note["image_id"]), []).append(caption)
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
    lines = _text(file).splitlines()
    if lines and lines[0].strip().lower() == "image,caption":
        rows = list(csv.reader(lines[1:]))
        return [(row[0].strip(), ",".join(row[1:])) for row in rows if row]
    parts = [line.partition("\t") for line in lines if line.strip()]
    return [(name.partition("#")[0].strip(), caption) for name, _, caption in parts]


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise BadInput(f"{file}: not UTF-8 text") from None
    except OSError as error:
        raise BadInput(f"{file}: {error.strerror}") from None


def _json(file: Path) -> dict[str, Any]:
    try:
        data = json.loads(_text(file))
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{file}: not JSON: {error}") from None
    if not isinstance(data, dict):
        raise BadInput(f"{file}: not an object with 'images'")
    return data


def _list(data: dict[str, Any], key: str, file: Path) -> list[dict[str, Any]]:
    found = data.get(key)
    if not isinstance(found, list) or not found:
        raise BadInput(f"{file}: '{key}' is missing or empty")
    wrong = next((n for n, one in enumerate(found) if not isinstance(one, dict)), None)
    if wrong is not None:
        raise BadInput(f"{file}: {key}[{wrong}] is not an object")
    return found


def _picture(
    image: dict[str, Any], texts: dict[str, list[str]], folder: Path, file: Path
) -> Picture:
    name = str(image.get("file_name", ""))
    path = _image(folder, name, file)
    captions = texts.get(str(image.get("id")))
    if not captions:
        raise BadInput(f"{file}: image '{name}' has no caption")
    return Picture(str(image["id"]), path, tuple(captions))


def _image(folder: Path, name: str, file: Path) -> Path:
    path = _find(folder, name)
    if path is None:
        raise BadInput(f"{file}: image '{name}' is not there")
    return path


def _find(folder: Path, name: str) -> Path | None:
    places = (folder / name, *(folder / below / name for below in _FOLDERS))
    return next((place for place in places if place.is_file()), None)


def _words(text: str) -> str:
    return " ".join(re.findall(r"[a-z0-9']+", text.lower()))


def _is_held_out(name: str) -> bool:
    return hashlib.sha256(name.encode()).digest()[0] < HELD_OUT_SHARE * 256
