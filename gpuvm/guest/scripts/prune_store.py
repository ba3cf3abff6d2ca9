"""prune_store STORE SECONDS: removes what has not been used for so long; prints how much it was.

The time of change of a file in the store is when it was last used. Files that a folder has as hard
links stay: removing them would free nothing.
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
            there = entry.stat(follow_symlinks=False)
            if there.st_mtime < oldest and there.st_nlink == 1:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(entry.path)  # noqa: PTH108 - scandir's own path
                    files, size = files + 1, size + there.st_size
    sys.stdout.write(json.dumps({"files": files, "bytes": size}))


main()
