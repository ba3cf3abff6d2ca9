"""``python -m style``."""

from collections.abc import Sequence

from common import program
from common.program import EndFields, Session
from style import images, sheet, vgg19
from style.grid import Cell, grid, share
from style.options import NAME, Options, parse
from style.transfer import StyleTransfer


def main() -> None:
    options = parse()
    if options.gather:
        print(sheet.gather(options.gather, options.out))
        return
    program.run(
        NAME,
        options,
        lambda: images.load(options.content, options.style, options.size),
        lambda session, pictures: work(session, options, pictures),
        together=False,
    )


def work(session: Session, options: Options, pictures: images.Pictures) -> EndFields:
    network = vgg19.network(session.tf, options.weights, options.seed)
    cells = grid(options)
    own = share(cells, options.cells or (session.cluster.worker, session.cluster.workers))
    transfer = StyleTransfer(session, network, pictures.content, pictures.style, options)
    with session.log.phase("paint"):
        made, steps = paint(transfer, own, options)
    with session.log.phase("evaluate"):
        for name, value in transfer.scores.items():
            more = {"of": transfer.scored}
            if name == "style_loss_start":
                more |= {"baseline_of": "style_loss", "means": "the picture before the first step"}
            session.log("score", name=name, value=value, **more)
        notes = [network.origin, *pictures.notes, *_missing(made, own, cells)]
        sheet.write_results(session.out, made, cells, transfer.scores, notes)
    return {
        "steps": steps,
        "evaluations": transfer.evaluations,
        "weights_sha256": transfer.digest(),
    }


def paint(
    transfer: StyleTransfer, cells: Sequence[Cell], options: Options
) -> tuple[list[Cell], int]:
    """Returns the finished pictures, fewer with --stop-after, and the number of iterations."""
    each = options.rounds * options.iterations
    made: list[Cell] = []
    steps = 0
    for cell in cells:
        steps = each * len(made) + transfer.paint(cell, each * len(made), each * len(cells))
        made.append(cell)
        if 0 < (options.stop_after or 0) <= steps:
            break
    return made, steps


def _missing(made: Sequence[Cell], own: Sequence[Cell], cells: Sequence[Cell]) -> list[str]:
    """A note on missing pictures."""
    if not own:
        return [f"no picture here: this share of the grid's {len(cells)} is empty"]
    if len(made) < len(own):
        return [f"stopped after picture {len(made)} of {len(own)}"]
    return []


if __name__ == "__main__":
    program.main(NAME, main)
