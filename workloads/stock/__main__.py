"""``python -m stock``."""

from common import program
from stock import dataset
from stock.options import NAME, parse
from stock.train import work


def main() -> None:
    options = parse()
    program.run(
        NAME,
        options,
        lambda: dataset.load(
            options.data,
            minutes=options.minutes,
            stocks=options.stocks,
            seed=options.seed,
            batch_size=options.batch_size,
            gaps=options.gaps,
        ),
        lambda session, data: work(session, options, *data),
    )


if __name__ == "__main__":
    program.main(NAME, main)
