"""Verifies from the lists of example ids that the workers' shards cover the data set."""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from gpuvm.report.model import Shard, Shards
from gpuvm.report.records import ShardLine, Timing
from gpuvm.text import counted

IdLists = Mapping[str, Sequence[str] | None]


def shards(timings: Mapping[str, Sequence[Timing]], run_dir: Path) -> Shards | None:
    """``timings`` by VM. None when the data was not split between several workers."""
    lines = {vm: line for vm, own in timings.items() if (line := _shard_line(own))}
    if not any(line.workers > 1 for line in lines.values()):
        return None
    ids = {vm: _ids(run_dir / vm / "shard_ids.txt") for vm in lines}
    by_vm = tuple(
        Shard(vm, line.worker, line.examples, _count(ids[vm]))
        for vm, line in sorted(lines.items(), key=lambda item: item[1].worker)
    )
    total = max(line.of for line in lines.values())
    problem = _why_unverified(lines, ids)
    if problem is not None:
        return Shards(by_vm, total, None, None, f"Not verified: {problem}.")
    return _verify(by_vm, total, [found for found in ids.values() if found is not None])


def _shard_line(timings: Sequence[Timing]) -> ShardLine | None:
    found = [line for line in timings if isinstance(line, ShardLine)]
    return found[-1] if found else None


def _ids(file: Path) -> tuple[str, ...] | None:
    if not file.is_file():
        return None
    text = file.read_text(encoding="utf-8", errors="replace")
    return tuple(line for line in text.split("\n") if line)


def _count(ids: Sequence[str] | None) -> int | None:
    return None if ids is None else len(set(ids))


def _why_unverified(lines: Mapping[str, ShardLine], ids: IdLists) -> str | None:
    """Why the lists cannot be used, or None."""
    workers = max(line.workers for line in lines.values())
    if {line.worker for line in lines.values()} != set(range(workers)):
        return f"only {len(lines)} of {counted(workers, 'worker')} recorded their shard"
    for vm, line in lines.items():
        listed = ids[vm]
        if listed is None:
            return f"{vm} has no shard_ids.txt"
        if len(listed) != line.examples:
            recorded = counted(line.examples, "example")
            return f"{vm} lists {counted(len(listed), 'id')} and recorded {recorded}"
        if line.ids_sha256 is not None and _digest(listed) != line.ids_sha256:
            return f"shard_ids.txt of {vm} does not match its recorded hash"
    if len({line.of for line in lines.values()}) > 1:
        return "the workers do not agree on the size of the data set"
    return None


def _digest(ids: Sequence[str]) -> str:
    return hashlib.sha256("".join(f"{one}\n" for one in ids).encode()).hexdigest()


def _verify(by_vm: tuple[Shard, ...], total: int, ids: Sequence[Sequence[str]]) -> Shards:
    seen = Counter(one for shard in ids for one in set(shard))
    twice = sum(1 for times in seen.values() if times > 1)
    disjoint, complete = twice == 0, len(seen) == total
    sizes = sorted({shard.examples for shard in by_vm})
    each = f"{sizes[0]:,}" if len(sizes) == 1 else f"{sizes[0]:,} to {sizes[-1]:,}"
    if disjoint and complete:
        sentence = (
            f"Verified from the lists of ids: {counted(len(by_vm), 'shard')} of {each} examples, "
            f"none in two of them, together the whole data set of {total:,}."
        )
    else:
        overlap = "none are" if disjoint else f"{twice:,} are"
        sentence = (
            f"Wrong according to the lists of ids: {overlap} in more than one shard, "
            f"and together they have {len(seen):,} of {total:,} examples."
        )
    return Shards(by_vm, total, disjoint, complete, sentence)
