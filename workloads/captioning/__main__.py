"""``python -m captioning``."""

import os
import sys

from captioning import caption
from captioning.dataset import Dataset
from captioning.options import NAME, parse
from captioning.train import work
from common import cluster, program
from common.averaging import VARIABLE


def main() -> None:
    if sys.argv[1:2] in (["caption"], ["evaluate"]):
        caption.main()
        return
    options = parse()
    if VARIABLE not in os.environ:
        options = options.shared_by(cluster.from_environment().workers)
    program.run(
        NAME,
        options,
        lambda: Dataset(options.data, options.scenes, options.seed),
        lambda session, data: work(session, options, data),
    )


if __name__ == "__main__":
    program.main(NAME, main)
