"""captioning's modes caption and evaluate, and the scores that its training recorded."""

import os
import subprocess

from forked import Forked
from programs import TIMEOUT_S, WORKLOADS, Records, of


def use(*arguments: str) -> "subprocess.CompletedProcess[str]":
    """``arguments`` begin with caption or evaluate."""
    process = Forked("captioning", arguments, WORKLOADS, os.environ)
    out, errors = process.communicate(timeout=TIMEOUT_S)
    return subprocess.CompletedProcess(arguments, process.returncode or 0, out, errors)


def greedy(found: Records) -> dict[str, float]:
    """The scores at the end of the training."""
    return {
        r["name"]: r["value"]
        for r in of(found, "score")
        if r["decoder"] == "greedy" and not r["name"].endswith("_shuffled")
    }
