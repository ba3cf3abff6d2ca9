"""What is accepted as a picture: bounded in bytes and in pixels, and decoded once to be sure."""

from pathlib import Path
from typing import Final

from PIL import Image, UnidentifiedImageError

from gpuvm.errors import BadInput

MAX_BYTES: Final = 20 << 20
MAX_PIXELS: Final = 40_000_000
FORMATS: Final = ("PNG", "JPEG", "WEBP", "GIF", "BMP")


def check(file: Path) -> None:
    """Raises BadInput with one sentence. A picture of too many pixels is refused undecoded."""
    name, size = file.name, file.stat().st_size
    if size > MAX_BYTES:
        raise BadInput(f"{name} has {size / 2**20:.0f} MiB; at most {MAX_BYTES >> 20} are taken")
    try:
        with Image.open(file, formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise _too_large(name, f"{image.width} × {image.height} pixels")  # noqa: RUF001
            image.load()
    except UnidentifiedImageError:
        raise BadInput(f"{name} is not a picture (PNG, JPEG, WebP, GIF or BMP)") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise _too_large(name, "far too many pixels") from None
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise BadInput(f"{name} is damaged: {error}") from None


def _too_large(name: str, size: str) -> BadInput:
    return BadInput(f"{name} has {size}; at most {MAX_PIXELS // 1_000_000} million are taken")
