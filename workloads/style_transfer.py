"""Style transfer: one picture's content in another one's style, as in the paper's use case 1.

    python style_transfer.py --out out
    python style_transfer.py --out out --content bridge.jpg --style night.jpg --weights vgg19.h5
    python style_transfer.py --out out --content-weights 0:2:5 --style-weights 0:10:5
    python style_transfer.py --out all --gather out-of-vm-1 out-of-vm-2

Features are VGG19's. Each loss is divided by the norm of its target, so that the paper's ranges,
content 0 to 2 and style 0 to 10, mean the same for every pair of pictures. A grid of weights makes
one picture for each pair and a contact sheet (figures 3 to 6); over several workers each takes its
share of the grid. workloads/README.md says what is written to --out.
"""

import argparse
import json
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import paintings
import vgg
from grids import Cell, grid, part, share, weight, weights
from keeping import OtherWish, replacing
from painter import OPTIMIZERS, StyleTransfer
from records import Log
from starting import BAD_INPUT, announce, choose_preset, common_options, exit_with, task, tensorflow

PRESETS = {
    "quick": {"size": 224, "rounds": 1, "iterations": 40, "save_every": 10},
    "paper": {"size": 512, "rounds": 50, "iterations": 10_000, "save_every": 100},
}
TITLE = 110  # characters of a sheet's


def main() -> None:
    options = parse()
    try:
        if options.gather:
            gather(options)
        else:
            run(options)
    except (paintings.BadPicture, vgg.BadWeights, OtherWish) as error:
        exit_with(str(error), BAD_INPUT)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    common_options(parser)
    parser.add_argument("--content", type=Path, help="a picture; a sample when left out")
    parser.add_argument("--style", type=Path, help="a picture; one made by code when left out")
    parser.add_argument("--content-weight", type=weight(2), default=1.0, metavar="0..2")
    parser.add_argument("--style-weight", type=weight(10), default=5.0, metavar="0..10")
    parser.add_argument(
        "--variation-weight", type=weight(float("inf")), metavar="W", help="total variation"
    )
    parser.add_argument("--content-weights", type=weights(2), metavar="FROM:TO:COUNT")
    parser.add_argument("--style-weights", type=weights(10), metavar="FROM:TO:COUNT")
    parser.add_argument("--cells", metavar="I/N", type=part, help="of a grid only each N-th cell")
    parser.add_argument(
        "--gather", type=Path, nargs="+", metavar="DIR", help="one sheet from several --out folders"
    )
    parser.add_argument("--weights", metavar="FILE.h5|download", help="VGG19's; random without")
    parser.add_argument("--xla", action="store_true", help="compile loss and gradient")
    parser.add_argument("--optimizer", choices=OPTIMIZERS, default="lbfgs")
    parser.add_argument("--preset", choices=PRESETS, default="quick")
    parser.add_argument("--size", type=int, help="pixels of the longer side")
    parser.add_argument("--rounds", type=int, help="L-BFGS begins anew in each")
    parser.add_argument("--iterations", type=int, help="of the optimizer in each round")
    parser.add_argument("--save-every", type=int, metavar="N", help="evaluations, and each round")
    options = choose_preset(parser, PRESETS)
    if options.variation_weight is None:
        options.variation_weight = vgg.variation_weight(options.weights)
    return options


def run(options: argparse.Namespace) -> None:
    begun = time.monotonic()
    worker, peers = task()
    options.out.mkdir(parents=True, exist_ok=True)
    log = Log(options.out / "timings.jsonl")
    with log.phase("data"):
        content, style, origins = pictures(options)
    tf, _ = tensorflow(options, 1)
    network = vgg.network(tf, options.weights, options.seed)
    announce(log, tf, options, worker, len(peers))
    cells = grid(options)
    mine = share(cells, options.cells or (worker, len(peers)))
    painter = StyleTransfer(tf, network, content, style, options, log)
    with log.phase("paint"):
        made, steps = paint(painter, mine, options)
    with log.phase("evaluate"):
        for name, value in painter.scores.items():
            log("score", name=name, value=value, split="image")
        notes = [network.origin, *origins, *left_out(made, mine, cells)]
        write_results(options.out, made, cells, painter.scores, notes)
    log(
        "end",
        ok=True,
        steps=steps,
        evaluations=painter.evaluations,
        seconds=round(time.monotonic() - begun, 3),
        weights_sha256=painter.digest(),
    )


def gather(options: argparse.Namespace) -> None:
    """One contact sheet of all pictures that the folders have; prints where it is."""
    files: dict[tuple[float, float], Path | None] = {}
    title = ""
    for folder in options.gather:
        told = _results(folder)
        title = title or told["notes"][0][:TITLE]
        for sample in told["samples"]:
            found = re.fullmatch(r"content (\S+), style (\S+)", sample["caption"])
            if found:
                files[float(found[1]), float(found[2])] = folder / sample["image"]
    if not files:
        raise paintings.BadPicture("--gather: there is no picture in any of the folders")
    sheet = options.out / "sheet.png"
    paintings.contact_sheet(sheet, files, title)
    print(sheet)


def pictures(options: argparse.Namespace) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Content and style, and where each is from."""
    if options.content:
        content, shown = paintings.read(options.content, options.size), str(options.content)
    else:
        content, shown = paintings.sample_content(options.size)
    if options.style:
        style, painted = paintings.read(options.style, options.size), str(options.style)
    else:
        style, painted = paintings.sample_style(options.size)
    return content, style, [f"content: {shown}", f"style: {painted}"]


def paint(
    painter: StyleTransfer, cells: Sequence[Cell], options: argparse.Namespace
) -> tuple[list[Cell], int]:
    """The pictures that were made, all of them unless --stop-after comes first; the iterations."""
    each = options.rounds * options.iterations
    made: list[Cell] = []
    steps = 0
    for cell in cells:
        steps = each * len(made) + painter.paint(cell, each * len(made), each * len(cells))
        made.append(cell)
        if 0 < (options.stop_after or 0) <= steps:
            break
    return made, steps


def left_out(made: Sequence[Cell], mine: Sequence[Cell], cells: Sequence[Cell]) -> list[str]:
    if not mine:
        return [f"no picture here: this share of the grid's {len(cells)} is empty"]
    if len(made) < len(mine):
        return [f"stopped after {len(made)} of {len(mine)} pictures"]
    return []


def write_results(
    out: Path,
    made: Sequence[Cell],
    cells: Sequence[Cell],
    scores: dict[str, float],
    notes: list[str],
) -> None:
    samples = [_sample(c.file, f"content {c.content:g}, style {c.style:g}") for c in made]
    if made and len(cells) > 1:
        files = {(c.content, c.style): out / c.file if c in made else None for c in cells}
        paintings.contact_sheet(out / "samples" / "sheet.png", files, notes[0][:TITLE])
        which = "all" if len(made) == len(cells) else f"{len(made)}"
        samples.insert(0, _sample("samples/sheet.png", f"{which} of the grid's {len(cells)}"))
    results = {"workload": "style_transfer", "scores": scores, "samples": samples, "notes": notes}
    with replacing(out / "results.json") as half:
        half.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


def _sample(image: str, caption: str) -> dict[str, Any]:
    return {"image": image, "caption": caption, "references": [], "exact": None}


def _results(folder: Path) -> dict[str, Any]:
    file = folder / "results.json"
    if not file.exists():
        raise paintings.BadPicture(f"--gather {folder}: no results.json there")
    try:
        told: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise paintings.BadPicture(f"{file} is damaged: {error}") from None
    return told


if __name__ == "__main__":
    main()
