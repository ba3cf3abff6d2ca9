"""The options of every workload, parsed into a frozen dataclass."""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

MAX_STALL_S = 1_000_000  # supported by the timers of every platform


@dataclass(frozen=True)
class Options:
    """See workloads/README.md."""

    out: Path
    seed: int
    device: str
    cpu_threads: int
    cpu_devices: int
    start_deadline_s: float
    stall_s: float
    stop_after: int | None


AnyOptions = TypeVar("AnyOptions", bound=Options)


def new_parser(program: str, description: str | None) -> argparse.ArgumentParser:
    """Returns a parser with the options of ``Options``."""
    parser = argparse.ArgumentParser(
        prog=program,
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, required=True, help="where everything is written")
    parser.add_argument("--seed", type=int, default=1)
    add_device_options(parser)
    _add_training_devices(parser)
    parser.add_argument("--start-deadline-s", type=float, default=60)
    parser.add_argument("--stall-s", type=float, default=300)
    parser.add_argument("--stop-after", type=int, metavar="STEPS", help="save and end early")
    return parser


def add_device_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", choices=("auto", "gpu", "cpu"), default="auto")
    parser.add_argument("--cpu-threads", type=int, default=0, help="0: as many as cores")


def add_average_option(parser: argparse.ArgumentParser, default: int) -> None:
    parser.add_argument(
        "--average-every",
        type=int,
        default=default,
        metavar="STEPS",
        help="steps of a worker between two averages, with local SGD",
    )


def _add_training_devices(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--cpu-devices",
        type=int,
        default=1,
        metavar="N",
        help="for tests: without GPUs, as if the CPU were N of them",
    )


def parse(
    parser: argparse.ArgumentParser,
    kind: type[AnyOptions],
    presets: Mapping[str, Mapping[str, Any]],
    arguments: Sequence[str] | None = None,
) -> AnyOptions:
    """Parses the command line into a ``kind``, whose fields are the parser's options.

    Missing options get the preset's value. Counts must be at least 1.
    """
    given = parser.parse_args(arguments)
    for name, value in presets[given.preset].items():
        if getattr(given, name) is None:
            setattr(given, name, value)
        elif isinstance(value, int) and getattr(given, name) < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1")
    _check(parser, given)
    return kind(**vars(given))


def _check(parser: argparse.ArgumentParser, given: argparse.Namespace) -> None:
    """Refuses values for which TensorFlow or numpy would raise unclear errors."""
    least_of = {
        "checkpoint_every": 1,
        "average_every": 1,
        "stop_after": 1,
        "cpu_threads": 0,
        "cpu_devices": 1,
    }
    for name, least in least_of.items():
        value = getattr(given, name, None)
        if value is not None and value < least:
            parser.error(f"--{name.replace('_', '-')} must be at least {least}")
    if not 0 <= given.seed < 2**32:
        parser.error("--seed must be from 0 to 4294967295")
    if not 0 < given.stall_s < MAX_STALL_S:
        parser.error(f"--stall-s must be above 0 and below {MAX_STALL_S}")
