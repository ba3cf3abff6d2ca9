"""How long the command line takes to start, over an empty Typer program in the same environment.

    python benchmarks/startup.py

Prints the ratios and ends with status 1 when a target is missed. The runs alternate, so that what
else the machine does falls on both; the median counts.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RUNS = 15
TARGET = 1.3
EMPTY = """
import typer
app = typer.Typer(rich_markup_mode="rich")

@app.callback()
def root() -> None: ...

@app.command()
def one() -> None:
    "Do nothing."

app()
"""
COMPLETION = {"_GPUVM_COMPLETE": "complete_bash", "COMP_WORDS": "gpuvm pro", "COMP_CWORD": "1"}


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        empty = Path(folder) / "empty.py"
        empty.write_text(EMPTY)
        programs = {
            "an empty Typer program --help": ([sys.executable, str(empty), "--help"], {}),
            "gpuvm --help": ([sys.executable, "-m", "gpuvm", "--help"], {}),
            "gpuvm --version": ([sys.executable, "-m", "gpuvm", "--version"], {}),
            "gpuvm pro<TAB>": ([sys.executable, "-m", "gpuvm"], COMPLETION),
        }
        seconds: dict[str, list[float]] = {name: [] for name in programs}
        for _ in range(RUNS):
            for name, (command, environment) in programs.items():
                begun = time.perf_counter()
                subprocess.run(
                    command, env=os.environ | environment, stdout=subprocess.DEVNULL, check=False
                )
                seconds[name].append(time.perf_counter() - begun)
    medians = {name: statistics.median(taken) for name, taken in seconds.items()}
    base, *others = medians.values()
    for name, median in medians.items():
        print(f"{name:32} {median:.3f} s  {median / base:.2f}")
    return 0 if all(other / base <= TARGET for other in others) else 1


if __name__ == "__main__":
    sys.exit(main())
