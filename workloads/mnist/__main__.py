"""``python -m mnist``."""

from common import program
from mnist import dataset
from mnist.options import NAME, parse
from mnist.train import work


def main() -> None:
    options = parse()
    program.run(
        NAME,
        options,
        lambda: dataset.load(options.data, options.batch_size),
        lambda session, data: work(session, options, data),
    )


if __name__ == "__main__":
    program.main(NAME, main)
