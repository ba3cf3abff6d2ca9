"""What a user's own program left: its files, and those of them that are pictures."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from gpuvm.report.model import OwnFile, OwnFiles, Sample
from gpuvm.report.scores import PICTURE_LIMIT_BYTES, media_type
from gpuvm.text import one_line

MOST_FILES = 100
MOST_PICTURES = 12
"""Of a run in its page, which has them inside."""
MOST_PICTURE_BYTES = 24 << 20
RECORDS = frozenset({"stdout.log", "stderr.log", "timings.jsonl", "gpu_samples.jsonl"})
"""gpuvm's own, and what the report shows elsewhere."""


def own_files(vms: Sequence[str], run_dir: Path, samples: Sequence[Sample]) -> OwnFiles:
    """The first files of each VM by name, and as many pictures as the page has room for."""
    found = [(vm, file) for vm in vms for file in _files(run_dir / vm)]
    listed = [
        OwnFile(vm, one_line(file.relative_to(run_dir / vm).as_posix(), longest=200), _size(file))
        for vm, file in found
    ]
    known = {sample.image for sample in samples}
    pictures: list[Sample] = []
    room = MOST_PICTURE_BYTES
    for (vm, file), one in zip(found, listed, strict=True):
        if len(pictures) == MOST_PICTURES or file.resolve() in known or one.size > room:
            continue
        if one.size <= PICTURE_LIMIT_BYTES and _is_picture(file):
            room -= one.size
            pictures.append(Sample(vm, one.name, (), None, file))
    return OwnFiles(
        files=tuple(listed[:MOST_FILES]),
        count=len(listed),
        size=sum(one.size for one in listed),
        pictures=tuple(pictures),
    )


def _files(vm_dir: Path) -> Iterator[Path]:
    """Links are not followed: they may lead out of the run."""
    for place, folders, names in os.walk(vm_dir):
        folders.sort()
        for name in sorted(names):
            file = Path(place, name)
            own = Path(place) == vm_dir and name in RECORDS
            if not own and file.is_file() and not file.is_symlink():
                yield file


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return 0


def _is_picture(file: Path) -> bool:
    try:
        with file.open("rb") as picture:
            return media_type(picture.read(512)) is not None
    except OSError:
        return False
