"""Pictures for style transfer: read from files, or samples that may be given away.

The samples are scikit-learn's photographs where it is installed, else made by code. The style is
always made by code: strokes along a swirling field.
"""

from pathlib import Path

import numpy as np
from keeping import replacing
from PIL import Image, ImageDraw, ImageOps, UnidentifiedImageError

# From far away of a whirl to its middle; the second ones are the rarer.
PAINTS = (((30, 60, 140), (250, 215, 90)), ((20, 30, 80), (240, 245, 250)))


class BadPicture(Exception):
    """One line that says what is wrong, and with which file."""


def read(file: Path, side: int) -> np.ndarray:
    """RGB float32 [height, width, 3] in 0..1, its longer side ``side`` pixels."""
    try:
        with Image.open(file) as image:
            return _sized(ImageOps.exif_transpose(image).convert("RGB"), side)
    except FileNotFoundError:
        raise BadPicture(f"{file}: no such file") from None
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError) as error:
        raise BadPicture(f"{file}: not a picture: {error}") from None


def sample_content(side: int) -> tuple[np.ndarray, str]:
    """A photograph, and where it is from."""
    try:
        from sklearn.datasets import load_sample_image

        return _sized(Image.fromarray(load_sample_image("china.jpg")), side), "scikit-learn's china"
    except ImportError:
        return _sized(_landscape(), side), "a landscape made by code"


def sample_style(side: int, seed: int = 3) -> tuple[np.ndarray, str]:
    """Broad strokes in blue and yellow, some in white or black, that follow whirls."""
    size, draw = 2 * side, np.random.default_rng(seed)
    image = Image.new("RGB", (size, size), (24, 42, 96))
    pen = ImageDraw.Draw(image)
    centres = draw.uniform(0, size, (6, 2))
    for _ in range(2400):
        x, y = draw.uniform(0, size, 2)
        dx, dy = x - centres[:, 0], y - centres[:, 1]
        weight = np.exp(-(dx**2 + dy**2) / (0.16 * size) ** 2)
        angle = np.arctan2((weight * dx).sum() + 1e-3, -(weight * dy).sum() + 0.05 * size)
        low, high = PAINTS[int(draw.random() < 0.2)]
        colour = _mixed(low, high, float(weight.max()) * draw.uniform(0.4, 1.1))
        length = draw.uniform(0.04, 0.13) * size
        end = (x + length * np.cos(angle), y + length * np.sin(angle))
        pen.line([(x, y), end], fill=colour, width=max(2, size // 42))
    return _sized(image, side), "strokes made by code"


def recoloured(content: np.ndarray, style: np.ndarray, share: float) -> np.ndarray:
    """``content``, its colours moved to the mean and covariance of the style's by ``share``."""
    ours, theirs = content.reshape(-1, 3), style.reshape(-1, 3)
    map_ = _root(np.cov(ours.T), -0.5) @ _root(np.cov(theirs.T), 0.5)
    moved = ((ours - ours.mean(0)) @ map_ + theirs.mean(0)).reshape(content.shape)
    return np.clip(content + share * (moved - content), 0, 1).astype(np.float32)


def write(file: Path, pixels: np.ndarray) -> None:
    with replacing(file) as half:
        Image.fromarray((np.clip(pixels, 0, 1) * 255).round().astype(np.uint8)).save(half)


def contact_sheet(
    file: Path, cells: dict[tuple[float, float], Path | None], title: str, *, cell: int = 160
) -> None:
    """A labelled grid: content weights down, style weights across; what is missing stays grey."""
    contents = sorted({content for content, _ in cells})
    styles = sorted({style for _, style in cells})
    left, top, high = 80, 50, round(cell * _aspect(cells))
    sheet = Image.new("RGB", (left + cell * len(styles), top + high * len(contents)), "white")
    pen = ImageDraw.Draw(sheet)
    pen.text((8, 6), title, fill="black")
    for across, style in enumerate(styles):
        pen.text((left + across * cell + 4, 32), f"style {style:g}", fill="black")
    for down, content in enumerate(contents):
        pen.text((6, top + down * high + high // 2), f"content {content:g}", fill="black")
        for across, style in enumerate(styles):
            corner = (left + across * cell, top + down * high)
            sheet.paste(_cell(cells.get((content, style)), (cell - 4, high - 4)), corner)
    with replacing(file) as half:
        sheet.save(half, optimize=True)


def _aspect(cells: dict[tuple[float, float], Path | None]) -> float:
    """Height over width, of the first picture that is there."""
    for file in cells.values():
        if file is not None and file.exists():
            with Image.open(file) as image:
                return image.height / image.width
    return 1.0


def _cell(file: Path | None, size: tuple[int, int]) -> Image.Image:
    if file is None or not file.exists():
        return Image.new("RGB", size, "#dddddd")
    with Image.open(file) as image:
        return image.convert("RGB").resize(size, Image.Resampling.LANCZOS)


def _root(covariance: np.ndarray, power: float) -> np.ndarray:
    values, vectors = np.linalg.eigh(covariance)
    return (vectors * np.maximum(values, 1e-5) ** power) @ vectors.T


def _sized(image: Image.Image, side: int) -> np.ndarray:
    scale = side / max(image.size)
    size = (max(16, round(image.width * scale)), max(16, round(image.height * scale)))
    return np.asarray(image.resize(size, Image.Resampling.LANCZOS), np.float32) / 255


def _landscape() -> Image.Image:
    image = Image.new("RGB", (640, 427), (170, 205, 235))
    pen = ImageDraw.Draw(image)
    pen.ellipse((470, 40, 560, 130), fill=(255, 240, 180))
    pen.polygon([(0, 300), (180, 120), (330, 290), (460, 170), (640, 310)], fill=(110, 120, 140))
    pen.rectangle((0, 290, 640, 427), fill=(90, 140, 80))
    pen.polygon([(120, 290), (170, 230), (220, 290)], fill=(150, 60, 50))
    pen.rectangle((130, 290, 210, 350), fill=(220, 205, 180))
    return image


def _mixed(
    low: tuple[int, int, int], high: tuple[int, int, int], share: float
) -> tuple[int, int, int]:
    share = float(np.clip(share, 0, 1))
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(low, high, strict=True))
    return red, green, blue
