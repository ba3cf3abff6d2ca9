"""prune_store STORE SECONDS: removes files not used for that long; prints their number and size.

The time of change of a file in the store is its last use. Files with other hard links are kept:
removing them would free nothing.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time


def main() -> None:
    oldest = time.time() - float(sys.argv[2])
    files = size = 0
    with contextlib.suppress(FileNotFoundError), os.scandir(sys.argv[1]) as entries:
        for entry in entries:
            found = entry.stat(follow_symlinks=False)
            if found.st_mtime < oldest and found.st_nlink == 1:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(entry.path)  # noqa: PTH108 - scandir's own path
                    files, size = files + 1, size + found.st_size
    sys.stdout.write(json.dumps({"files": files, "bytes": size}))


main()
