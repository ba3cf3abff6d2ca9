"""captioning's modes caption and evaluate, and the scores that its training recorded."""

import subprocess
import sys

from programs import WORKLOADS, Records, of


def use(*arguments: str) -> "subprocess.CompletedProcess[str]":
    """``arguments`` begin with caption or evaluate."""
    command = [sys.executable, "-m", "captioning", *arguments]
    return subprocess.run(
        command, cwd=WORKLOADS, capture_output=True, text=True, check=False, timeout=120
    )


def greedy(found: Records) -> dict[str, float]:
    """The scores at the end of the training."""
    return {
        r["name"]: r["value"]
        for r in of(found, "score")
        if r["decoder"] == "greedy" and not r["name"].endswith("_shuffled")
    }
