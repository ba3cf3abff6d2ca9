"""captioning.py caption and evaluate, and what its training said of itself."""

import subprocess
import sys

from programs import WORKLOADS, Records, of


def tell(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, str(WORKLOADS / "captioning.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


def greedy(found: Records) -> dict[str, float]:
    """The scores at the end of the training."""
    return {
        r["name"]: r["value"]
        for r in of(found, "score")
        if r["decoder"] == "greedy" and not r["name"].endswith("_shuffled")
    }
