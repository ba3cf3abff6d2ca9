"""Scores with their shuffled counterparts, and samples with their pictures."""

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from gpuvm.report.model import Baseline, Sample, Score
from gpuvm.report.phases import title
from gpuvm.report.records import Results, SampleRecord, ScoreLine, Timing

PICTURE_LIMIT_BYTES: Final = 4 * 1024 * 1024
_SVG_HEAD: Final = 512
_SHUFFLED: Final = "_shuffled"
_MAGIC: Final = {
    b"\x89PNG\r\n\x1a\n": "image/png",
    b"\xff\xd8\xff": "image/jpeg",
    b"GIF8": "image/gif",
}


def scores(vm: str, timings: Sequence[Timing], results: Results | None) -> tuple[Score, ...]:
    """From the last score event of each name, split and decoder; else from results.json."""
    lines = [line for line in timings if isinstance(line, ScoreLine)] or _from_results(results)
    last = {(line.name, line.split, line.decoder): line for line in lines}
    return tuple(
        Score(
            vm=vm,
            name=line.name,
            title=_title(line.name),
            value=line.value,
            shuffled=_shuffled(last, line),
            split=line.split,
            decoder=line.decoder,
            examples=line.examples,
            of=line.of,
            baselines=tuple(
                Baseline(other.means or title(other.name), other.value)
                for other in last.values()
                if other.baseline_of == line.name
            ),
        )
        for line in last.values()
        if not line.name.endswith(_SHUFFLED) and line.baseline_of is None
    )


def samples(vm: str, results: Results | None, vm_dir: Path) -> tuple[Sample, ...]:
    return tuple(_sample(vm, one, vm_dir) for one in results.samples) if results else ()


def media_type(picture: bytes) -> str | None:
    """The media type by the first bytes, or None for a format that not all browsers show.

    An SVG in an ``img`` element runs no script and loads nothing (SVG Integration, "secure static
    mode").
    """
    if b"<svg" in picture[:_SVG_HEAD] and picture.lstrip()[:1] == b"<":
        return "image/svg+xml"
    return next((kind for magic, kind in _MAGIC.items() if picture.startswith(magic)), None)


def _from_results(results: Results | None) -> list[ScoreLine]:
    found = results.scores.items() if results else ()
    return [
        ScoreLine(event="score", t=0.0, name=name, value=value)
        for name, value in found
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    ]


Scores = dict[tuple[str, str | None, str | None], ScoreLine]


def _shuffled(all_: Scores, line: ScoreLine) -> float | None:
    counterpart = all_.get((line.name + _SHUFFLED, line.split, line.decoder))
    return counterpart.value if counterpart else None


def _title(name: str) -> str:
    bleu = re.fullmatch(r"bleu(\d)", name)
    mse = re.fullmatch(r"mse_(\w+)", name)
    if mse:
        return f"MSE ({mse[1]})"
    return f"BLEU-{bleu[1]}" if bleu else title(name)


def _sample(vm: str, record: SampleRecord, vm_dir: Path) -> Sample:
    image, why_not = _picture(record.image, vm_dir)
    return Sample(
        vm,
        record.caption,
        record.references,
        record.exact,
        image,
        why_not,
        at=tuple(record.at.items()),
        sheet=record.sheet,
    )


def _picture(name: str | None, vm_dir: Path) -> tuple[Path | None, str | None]:
    """The file if it is a picture inside ``vm_dir``: records are not trusted."""
    if name is None:
        return None, "no picture was recorded"
    try:
        file = (vm_dir / name).resolve()
        why_not = _why_not(file, vm_dir.resolve())
    except (OSError, ValueError, RuntimeError):  # a name that no file can have; a loop of links
        return None, f"{name} cannot be read"
    return (None, f"{name} is {why_not}") if why_not else (file, None)


def _why_not(file: Path, folder: Path) -> str | None:
    if not file.is_relative_to(folder):
        return "outside the run"
    if not file.is_file():
        return "missing from the run"
    if file.stat().st_size > PICTURE_LIMIT_BYTES:
        return f"larger than {PICTURE_LIMIT_BYTES // 1024**2} MiB"
    with file.open("rb") as picture:
        known = media_type(picture.read(_SVG_HEAD))
    return None if known else "not a PNG, JPEG, GIF or SVG picture"
