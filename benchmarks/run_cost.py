"""What a run costs beside the program: a run of nothing on four guests, and the list of all runs.

    python benchmarks/run_cost.py        # 9 times each; about 4 minutes

Guests of the lab, warm: each has had a run before. The commands alternate with the bare program, so
that what else the machine does falls on all of them; the median counts. The guests are on this
machine, so that its processors do the guests' part too. Ends with status 1 when a target is missed.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests/support"))

from commands import CommandLine, Done, fast_lab

from gpuvm import paths
from gpuvm.lab.description import describe

GUESTS, RUN_ON = 16, 4
RUN_S, RUNS_S = 2.0, 3.0
"""The targets: seconds over the program itself, and seconds."""


def main(times: int = 9) -> int:
    os.environ["GPUVM_CACHE_DIR"] = str(paths.cache_dir())
    with tempfile.TemporaryDirectory(prefix="gpuvm-bench-") as folder, _lab(Path(folder)) as gpuvm:
        program = gpuvm.home / "mine/nothing.py"
        program.parent.mkdir()
        program.write_text("")
        chosen = [word for n in range(RUN_ON) for word in ("--vm", f"gpuvm-{n + 1:02}")]
        _well(gpuvm("run", str(program), *chosen))
        seconds = _measure(
            {
                "the program": lambda: subprocess.run([sys.executable, str(program)], check=True),
                "gpuvm --version": lambda: _well(gpuvm("--version")),
                "gpuvm run": lambda: _well(gpuvm("run", str(program), *chosen)),
                "gpuvm runs": lambda: _well(gpuvm("runs")),
            },
            times,
        )
    print(f"gpuvm --version       {seconds['gpuvm --version']:5.2f} s, how busy this machine is")
    over = seconds["gpuvm run"] - seconds["the program"]
    print(f"gpuvm run, {RUN_ON} guests   {over:5.2f} s over the program (target {RUN_S:g})")
    print(f"gpuvm runs, {GUESTS} guests {seconds['gpuvm runs']:5.2f} s (target {RUNS_S:g})")
    return int(over > RUN_S or seconds["gpuvm runs"] > RUNS_S)


@contextmanager
def _lab(home: Path) -> Iterator[CommandLine]:
    """A lab whose guests have all been spoken to."""
    gpuvm = CommandLine(home)
    (home / "lab.json").write_text(fast_lab(describe(hosts=GUESTS)))
    _well(gpuvm("lab", "up", "--description", "lab.json"))
    try:
        _well(gpuvm("provision", "--hosts", str(GUESTS), "--until", "address"))
        _well(gpuvm("exec", "--all", "--", "nvidia-smi", "-L"))
        yield gpuvm
    finally:
        gpuvm("lab", "down")


def _well(done: Done) -> None:
    if done.exit_code != 0:
        sys.exit(done.stderr)


def _measure(commands: dict[str, Callable[[], object]], times: int) -> dict[str, float]:
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(times):
        for name, command in commands.items():
            begun = time.perf_counter()
            command()
            seconds[name].append(time.perf_counter() - begun)
    return {name: statistics.median(taken) for name, taken in seconds.items()}


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
