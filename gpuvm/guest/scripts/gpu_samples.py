"""gpu_samples --out FILE [--interval SECONDS] [--while-stdin]: record how the GPUs are used.

Appends a JSON object for each GPU every so many seconds, until it is interrupted:

    {"t": 1795483801.25, "gpu": 0, "uuid": "GPU-…", "utilization": 97, "memory_mib": 15342,
     "power_w": 181.4, "interval_s": 2}

``t`` is in Unix seconds by this machine's clock, ``utilization`` a percentage, ``interval_s`` how
long after the one before it was due. What the driver does not report is null, such as the power of
a vGPU. One nvidia-smi that repeats its query writes what is read here; where there is none, or it
fails, nothing is recorded. ``--while-stdin`` ends with standard input, and so with whoever has its
other end, however that dies.

The file has about 130 bytes for each sample, and is bounded: after every SAMPLES of a GPU the
interval is doubled, which makes 1.2 MB of a day with one GPU, and 2.5 MB of a month.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FIELDS = "index,uuid,utilization.gpu,memory.used,power.draw"
SAMPLES = 1800
LONGEST_LINE = 1 << 16
END_S = 2.0


def main() -> None:
    parser = argparse.ArgumentParser(description="Record how the GPUs are used.")
    parser.add_argument("--out", required=True, metavar="FILE")
    parser.add_argument("--interval", type=float, default=2.0, metavar="SECONDS")
    parser.add_argument("--while-stdin", action="store_true")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with contextlib.suppress(KeyboardInterrupt, OSError):  # no nvidia-smi, or a full disk
        record(options.out, options.interval, until=sys.stdin if options.while_stdin else None)


def record(file: str, interval_s: float, until: Any) -> None:
    query = [f"--query-gpu={FIELDS}", "--format=csv,noheader,nounits"]
    command = ["nvidia-smi", *query, f"--loop-ms={max(1, round(1000 * interval_s))}"]
    smi = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    try:
        for found in samples(lines(smi.stdout, until), interval_s):
            with Path(file).open("a", encoding="utf-8") as out:
                out.write(json.dumps(found) + "\n")
    finally:
        end(smi)


def lines(output: Any, until: Any) -> Iterator[str]:
    """What nvidia-smi prints, until it or ``until`` ends."""
    watched = [output] if until is None else [output, until]
    rest = b""
    while True:
        ready = select.select(watched, [], [])[0]
        if until in ready and not os.read(until.fileno(), LONGEST_LINE):
            return
        if output in ready:
            data = os.read(output.fileno(), LONGEST_LINE)
            if not data:
                return
            *whole, rest = (rest + data).split(b"\n")
            rest = rest[:LONGEST_LINE]
            yield from (line.decode("utf-8", "replace") for line in whole)


def samples(said: Iterator[str], interval_s: float) -> Iterator[dict[str, Any]]:
    """Those to be kept."""
    seen: dict[int, int] = {}
    written: dict[int, int] = {}
    for line in said:
        found = sample(line)
        if found is None:
            continue
        gpu = found["gpu"]
        number = seen.get(gpu, 0)
        seen[gpu] = number + 1
        every = 1 << written.get(gpu, 0) // SAMPLES
        if number % every == 0:
            written[gpu] = written.get(gpu, 0) + 1
            yield {**found, "interval_s": interval_s * every}


def sample(line: str) -> dict[str, Any] | None:
    """None for what is no answer, such as an error text."""
    parts = [part.strip() for part in line.split(",")]
    if len(parts) != len(FIELDS.split(",")) or not parts[0].isdigit():
        return None
    used, memory, power = (number(part) for part in parts[2:])
    return {
        "t": round(time.time(), 3),
        "gpu": int(parts[0]),
        "uuid": parts[1],
        "utilization": used,
        "memory_mib": memory,
        "power_w": power,
    }


def number(text: str) -> float | None:
    """None for ``[N/A]``, ``[Not Supported]``, ``[Unknown Error]`` and the like."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def end(smi: subprocess.Popen[bytes]) -> None:
    """SIGKILL, since it has nothing to finish; one that hangs in the driver is left to the system.

    It cannot outlive its next answer, which has no reader.
    """
    smi.kill()
    with contextlib.suppress(subprocess.TimeoutExpired):
        smi.wait(END_S)


if __name__ == "__main__":
    main()
