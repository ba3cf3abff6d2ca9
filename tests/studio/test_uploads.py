"""What is accepted as a picture."""

import struct
import zlib
from pathlib import Path

import pytest
from PIL import Image

from gpuvm.errors import BadInput
from gpuvm.studio import uploads


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp", "gif", "bmp"])
def test_pictures(tmp_path: Path, kind: str) -> None:
    file = tmp_path / f"a.{kind}"
    Image.new("RGB", (40, 30), "teal").save(file)
    uploads.check(file)


def png(width: int, height: int) -> bytes:
    """A PNG of a few bytes that claims to be so large."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        crc = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", crc)

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = chunk(b"IDAT", zlib.compress(b"\0" * 1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + data + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "a.png is not a picture"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "a.png is not a picture"),
        (b"\x89PNG\r\n\x1a\n" + b"x" * 100, "a.png is damaged"),
        (png(40, 30), "a.png is damaged"),
        (png(8000, 8000), "a.png has 8000 × 8000 pixels; at most 40 million"),  # noqa: RUF001
        (png(12000, 12000), "at most 40 million"),
        (png(60000, 60000), "a.png has far too many pixels; at most 40 million"),
        (b"\x89PNG" + b"\0" * uploads.MAX_BYTES, "a.png has 20 MiB; at most 20 are taken"),
    ],
    ids=["empty", "svg", "broken", "cut", "large", "warned", "bomb", "bytes"],
)
def test_refused_with_one_sentence(tmp_path: Path, content: bytes, why: str) -> None:
    file = tmp_path / "a.png"
    file.write_bytes(content)
    with pytest.raises(BadInput) as caught:
        uploads.check(file)
    assert why in str(caught.value)
    assert "\n" not in str(caught.value)
