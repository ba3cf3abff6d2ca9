"""results.json: scores, samples and notes, as a report shows them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from common.files import write_json


def sample(
    image: str, caption: str, references: Sequence[str] = (), *, exact: bool | None = None
) -> dict[str, Any]:
    """``image`` is a path below --out; ``exact`` is None where nothing is right or wrong."""
    return {"image": image, "caption": caption, "references": list(references), "exact": exact}


def write_results(
    out: Path,
    workload: str,
    scores: Mapping[str, float],
    samples: Sequence[Mapping[str, Any]],
    notes: Sequence[str],
    **more: Any,
) -> None:
    """``more`` are fields of this workload alone."""
    results = {
        "workload": workload,
        "scores": dict(scores),
        "samples": list(samples),
        **more,
        "notes": list(notes),
    }
    write_json(out / "results.json", results, indent=2)
