"""Pictures for style transfer: read from files, or samples under a free licence.

The sample content is one of scikit-learn's photographs if it is installed, else generated. The
sample style is generated: strokes along a swirling field.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageOps, UnidentifiedImageError

from common.errors import BadInput
from common.files import replacing

# From the outside of a whirl to its centre; the second pair is used less often.
PAINTS = (((30, 60, 140), (250, 215, 90)), ((20, 30, 80), (240, 245, 250)))


Pixels = np.ndarray
"""RGB float32 [height, width, 3] in 0..1."""


@dataclass(frozen=True)
class Pictures:
    """RGB float32 [height, width, 3] in 0..1; ``notes`` say where they are from."""

    content: Pixels
    style: Pixels
    notes: Sequence[str]


def load(content: Path | None, style: Path | None, side: int) -> Pictures:
    """Content and style, by default samples. Raises BadInput."""
    if content:
        content_pixels, content_from = read(content, side), str(content)
    else:
        content_pixels, content_from = sample_content(side)
    if style:
        style_pixels, style_from = read(style, side), str(style)
    else:
        style_pixels, style_from = sample_style(side)
    notes = [f"content: {content_from}", f"style: {style_from}"]
    return Pictures(content_pixels, style_pixels, notes)


def read(file: Path, side: int) -> Pixels:
    """Resizes the longer side to ``side`` pixels. Raises BadInput."""
    try:
        with Image.open(file) as image:
            return _sized(ImageOps.exif_transpose(image).convert("RGB"), side)
    except FileNotFoundError:
        raise BadInput(f"{file}: no such file") from None
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError) as error:
        raise BadInput(f"{file}: not a picture: {error}") from None


def sample_content(side: int) -> tuple[Pixels, str]:
    """A photograph and its origin."""
    try:
        from sklearn.datasets import load_sample_image

        return _sized(Image.fromarray(load_sample_image("china.jpg")), side), "scikit-learn's china"
    except ImportError:
        return _sized(_landscape(), side), "a landscape made by code"


def sample_style(side: int, seed: int = 3) -> tuple[Pixels, str]:
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


def recoloured(content: Pixels, style: Pixels, share: float) -> Pixels:
    """Moves the colours of ``content`` towards mean and covariance of the style's by ``share``."""
    source, target = content.reshape(-1, 3), style.reshape(-1, 3)
    change = _root(np.cov(source.T), -0.5) @ _root(np.cov(target.T), 0.5)
    moved = ((source - source.mean(0)) @ change + target.mean(0)).reshape(content.shape)
    return np.asarray(np.clip(content + share * (moved - content), 0, 1), np.float32)


def write(file: Path, pixels: Pixels) -> None:
    with replacing(file) as partial:
        Image.fromarray((np.clip(pixels, 0, 1) * 255).round().astype(np.uint8)).save(partial)


def _root(covariance: np.ndarray, power: float) -> np.ndarray:
    values, vectors = np.linalg.eigh(covariance)
    return np.asarray((vectors * np.maximum(values, 1e-5) ** power) @ vectors.T)


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
