"""What more workers bring: captioning on one core, on two cores, and with four workers on them.

    python benchmarks/scaling.py                            # throughput of each phase
    python benchmarks/scaling.py --link 1gbit --delay 0.1ms # over slowed links; root, iproute2
    python benchmarks/scaling.py --quality                  # time to held-out BLEU-4 0.9; long

Each program is measured in turns, so that a slower moment of the machine hits all of them. Two
workers that never talk show the most that two of this machine's cores can do: they share its
memory's bandwidth. Status 1 when a target is missed.
"""

import argparse
import contextlib
import itertools
import json
import os
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import workers
from workers import Link, Place

PHASES = {"encoder": "encoder", "train": "captioner"}
OF_CEILING, SPEED_UP, OF_ONE_PROCESS = 0.9, 1.25, 0.75
BLEU4, BUDGETS = 0.9, (500, 600, 700, 800, 900, 1000)
TIMEOUT_S = 3600


@dataclass(frozen=True)
class Setup:
    """Some workers, each on its cores; ``strategy`` None where they never talk."""

    name: str
    cores: tuple[frozenset[int], ...]
    strategy: str | None
    threads: int = 1


@dataclass(frozen=True)
class Phase:
    """All workers' examples per second, and the milliseconds of a worker's step: the time in all,
    and of that what it communicated and what it waited for others.
    """

    rate: float
    step_ms: float
    communicating_ms: float
    waiting_ms: float

    @property
    def computing_ms(self) -> float:
        return self.step_ms - self.communicating_ms - self.waiting_ms


Phases = dict[str, Phase]


def main() -> None:
    options = _parse()
    link = None
    if options.link is not None:
        link = Link(options.link, options.delay)
        reason = workers.why_not(link)
        if reason is not None:
            sys.exit(f"there cannot be such links here: {reason}")
    where = f"links of {link.rate}, delay {link.delay}" if link else "loopback, not a network"
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; {where}", flush=True)
    missed = _quality(options, link) if options.quality else _throughput(options, link)
    sys.exit(1 if missed else 0)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--encoder-steps", type=int, default=64, help="of each worker")
    parser.add_argument("--steps", type=int, default=96, help="of each worker, of the captioner")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--wire", default=None, help="as captioning's, for allreduce")
    parser.add_argument("--link", metavar="RATE", help="such as 1gbit")
    parser.add_argument("--delay", help="of a link, in each direction; needs netem")
    parser.add_argument("--quality", action="store_true", help="time to a score instead; long")
    return parser.parse_args()


def _setups() -> dict[str, Setup]:
    """The first two of the cores that this process may use."""
    cores = sorted(os.sched_getaffinity(0))[:2]
    if len(cores) < 2:
        sys.exit("this benchmark needs two cores")
    each, both = tuple(frozenset({core}) for core in cores), frozenset(cores)
    setups = (
        Setup("1 worker, 1 core", each[:1], None),
        Setup("2 workers that never talk", each, None),
        Setup("2 workers, local SGD", each, "local-sgd"),
        Setup("2 workers, allreduce", each, "allreduce"),
        Setup("1 process, 2 cores", (both,), None, threads=2),
        Setup("4 workers, 2 cores, local SGD", (both,) * 4, "local-sgd"),
        Setup("4 workers, 2 cores, allreduce", (both,) * 4, "allreduce"),
    )
    return {setup.name: setup for setup in setups}


def _throughput(options: argparse.Namespace, link: Link | None) -> bool:
    """Prints a table of each phase; returns whether a target was missed."""
    setups = _setups()
    measured: dict[str, list[Phases]] = defaultdict(list)
    for number in range(options.rounds):
        for setup in setups.values():
            print(f"round {number + 1}: {setup.name}", file=sys.stderr, flush=True)
            sizes = ["--scenes", "1920", "--beam", "1"]
            count = len(setup.cores) if setup.strategy else 1
            sizes += ["--encoder-steps", str(options.encoder_steps * count)]
            sizes += ["--steps", str(options.steps * count)]
            with tempfile.TemporaryDirectory() as folder:
                records = _run(setup, Path(folder), [*sizes, *_wire(setup, options)], link)
            measured[setup.name].append({phase: _phase(records, setup, phase) for phase in PHASES})
    missed = [_print_phase(phase, measured) for phase in PHASES]
    return any(missed)


def _print_phase(phase: str, measured: dict[str, list[Phases]]) -> bool:
    """Returns whether a target was missed."""
    middle = {name: _median([one[phase] for one in found]) for name, found in measured.items()}
    one, apart, _, _, whole, *_ = middle.values()
    print(f"\n{PHASES[phase]}:")
    print(f"  {'':31s}{'examples/s':>10s}{'ms/step':>9s}{'computes':>9s}{'talks':>7s}{'waits':>7s}")
    missed = False
    for name, found in middle.items():
        told = f"  {name:31s}{found.rate:10.0f}{found.step_ms:9.1f}{found.computing_ms:9.1f}"
        told += f"{found.communicating_ms:7.1f}{found.waiting_ms:7.1f}"
        if name.startswith("2 workers"):
            speed_up = found.rate / one.rate
            told += f"  speed-up {speed_up:.2f}, efficiency {speed_up / 2:.0%}"
        targets = []
        if name.startswith("2 workers,"):
            targets = [("of the ceiling", found.rate / apart.rate, OF_CEILING)]
            targets += [("of one worker", found.rate / one.rate, SPEED_UP)]
        elif name.startswith("4 workers,"):
            targets = [("of one process", found.rate / whole.rate, OF_ONE_PROCESS)]
        print(told)
        for what, value, target in targets:
            missed |= value < target
            sign = "" if value >= target else "   MISSED"
            print(f"      {what:27s}{value:10.2f}  >= {target:g}{sign}", flush=True)
    return missed


def _quality(options: argparse.Namespace, link: Link | None) -> bool:
    """Seconds of training to BLEU-4 of 0.9: the first number of steps that reaches it."""
    setups = list(_setups().values())
    seconds = {}
    for setup in (setups[0], setups[2], setups[3]):
        for steps in BUDGETS:
            sizes = ["--encoder-steps", str(steps), "--steps", str(steps)]
            with tempfile.TemporaryDirectory() as folder:
                records = _run(setup, Path(folder), [*sizes, *_wire(setup, options)], link)[0]
            score = max(r["value"] for r in records if r.get("name") == "bleu4")
            took = sum(
                r["seconds"] for r in records if r.get("name") in PHASES and r.get("seconds")
            )
            print(f"  {setup.name:31s}{steps:6d} steps: BLEU-4 {score:.3f} in {took:.0f} s")
            if score >= BLEU4:
                seconds[setup.name] = took
                break
    missed = setups[0].name not in seconds
    for setup in setups[2:4]:
        value = seconds.get(setups[0].name, 0) / seconds.get(setup.name, float("inf"))
        missed |= value < SPEED_UP
        sign = "" if value >= SPEED_UP else "   MISSED"
        print(f"  {setup.name:31s}{value:10.2f} times as fast  >= {SPEED_UP:g}{sign}")
    return missed


def _wire(setup: Setup, options: argparse.Namespace) -> list[str]:
    return ["--wire", options.wire] if options.wire and setup.strategy == "allreduce" else []


def _run(
    setup: Setup, folder: Path, arguments: Sequence[str], link: Link | None
) -> list[list[dict[str, Any]]]:
    """The records of each worker."""
    with contextlib.ExitStack() as opened:
        talks = setup.strategy is not None
        where = opened.enter_context(workers.places(setup.cores, link if talks else None))
        if setup.strategy == "local-sgd":
            environments = opened.enter_context(workers.averaging(folder, where))
        elif setup.strategy == "allreduce":
            environments = workers.lockstep(where)
        else:
            environments = [{}] * len(where)
        more = ["--cpu-threads", str(setup.threads), "--device", "cpu", *arguments]
        _wait(setup, folder, where, environments, more)
    return [_records(folder / str(worker)) for worker in range(len(setup.cores))]


def _wait(
    setup: Setup,
    folder: Path,
    where: Sequence[Place],
    environments: Sequence[dict[str, str]],
    arguments: Sequence[str],
) -> None:
    """Starts all workers, and waits for their end."""
    started = []
    for worker, (place, environment) in enumerate(zip(where, environments, strict=True)):
        out = folder / str(worker)
        command = [sys.executable, "-m", "captioning", "--out", str(out), *arguments]
        started.append(place.start(command, environment, folder / f"{worker}.txt"))
    deadline = time.monotonic() + TIMEOUT_S
    try:
        for worker, process in enumerate(started):
            if process.wait(max(1, deadline - time.monotonic())):
                told = (folder / f"{worker}.txt").read_text().strip().splitlines()
                sys.exit(f"{setup.name}: worker {worker} failed: {(told or ['?'])[-1]}")
    finally:
        for process in started:
            process.kill()
            process.wait()


def _records(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "timings.jsonl").read_text().splitlines()]


def _phase(records: Sequence[Sequence[dict[str, Any]]], setup: Setup, phase: str) -> Phase:
    """Means over all steps but the first, which compiles: an average is in few of them."""
    each = [_windows(of, phase) for of in records]
    many = len(setup.cores) if setup.strategy else 1
    rate, talked, waited, took, steps = 0.0, 0.0, 0.0, 0.0, 0
    least = [min(w.talked for w in same) for same in zip(*each, strict=False)]
    for of, windows in zip(records, each, strict=True):
        seconds = sum(w.seconds for w in windows)
        rate += sum(w.examples for w in windows) / seconds
        took, steps = took + seconds, steps + sum(w.steps for w in windows) // many
        talked += sum(w.talked for w in windows)
        if setup.strategy == "local-sgd":
            waited += _waited(of, phase)
        else:  # who comes last into a collective does not wait
            pairs = zip(windows, least, strict=False)
            waited += sum(window.talked - shortest for window, shortest in pairs)
    return Phase(rate, *(1e3 * s / steps for s in (took, talked - waited, waited)))


@dataclass(frozen=True)
class _Window:
    """Between two step records of a worker; ``steps`` are those of all workers."""

    steps: int
    seconds: float
    talked: float
    examples: float


def _waited(records: Sequence[dict[str, Any]], phase: str) -> float:
    """Seconds until the last worker had finished a round, in those that the step records cover."""
    of_phase = [r for r in records if r.get("phase") == phase]
    last = max(r["step"] for r in of_phase if r["event"] == "step")
    averages = [r for r in of_phase if r["event"] == "average" and r["step"] <= last]
    return float(sum(r["waited_seconds"] or 0 for r in averages))


def _windows(records: Sequence[dict[str, Any]], phase: str) -> list[_Window]:
    logged = [r for r in records if r["event"] == "step" and r["phase"] == phase]
    windows = []
    for before, record in itertools.pairwise(logged):
        steps = record["step"] - before["step"]
        seconds = steps * record["step_seconds"]
        talked = steps * record.get("communication_seconds", 0.0)
        windows.append(_Window(steps, seconds, talked, record["examples_per_second"] * seconds))
    return windows


def _median(found: Sequence[Phase]) -> Phase:
    """By the rate; that of an even number is the slower of the two in the middle."""
    return sorted(found, key=lambda one: one.rate)[(len(found) - 1) // 2]


if __name__ == "__main__":
    main()
