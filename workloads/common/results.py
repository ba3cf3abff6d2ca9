"""results.json: scores, samples and notes for the report."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from common.files import write_json


def sample(
    image: str,
    caption: str,
    references: Sequence[str] = (),
    *,
    exact: bool | None = None,
    **more: Any,
) -> dict[str, Any]:
    """``image`` is a path below --out; ``exact`` is None if there is no correct answer.

    ``more``: ``at``, two numbers by their names, by which a report shows it in a grid; ``sheet``,
    whether it shows the others.
    """
    known = {"image": image, "caption": caption, "references": list(references), "exact": exact}
    return known | more


def write_results(
    out: Path,
    workload: str,
    scores: Mapping[str, float],
    samples: Sequence[Mapping[str, Any]],
    notes: Sequence[str],
    **more: Any,
) -> None:
    """``more`` are fields specific to this workload."""
    results = {
        "workload": workload,
        "scores": dict(scores),
        "samples": list(samples),
        **more,
        "notes": list(notes),
    }
    write_json(out / "results.json", results, indent=2)
