"""``python -m captioning``."""

import os
import sys

from captioning import caption
from captioning.dataset import Dataset
from captioning.options import NAME, Options, parse
from captioning.train import work
from common import cluster, program
from common.averaging import VARIABLE


def main() -> None:
    if sys.argv[1:2] in (["caption"], ["evaluate"]):
        caption.main()
        return
    options = parse()
    program.run(
        NAME,
        options,
        lambda: Dataset(options.data, options.scenes, options.seed),
        lambda session, data: work(session, options, data),
        devices=_most_devices(options),
    )


def _most_devices(options: Options) -> int:
    """Each gets at least one example of a step."""
    in_lockstep = VARIABLE not in os.environ and options.global_batch
    workers = cluster.from_environment().workers if in_lockstep else 1
    return max(1, options.batch_size // workers)


if __name__ == "__main__":
    program.main(NAME, main)
