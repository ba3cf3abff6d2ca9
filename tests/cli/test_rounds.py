"""Provision, a small run, teardown, again and again: nothing grows.

Three rounds here; a hundred in ``make soak``. All commands run in this process, so that what they
leave behind in it is seen.
"""

import gc
import json
import os
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from simulated_vcenter import QUICK, Rig, rig_of
from typer.testing import CliRunner

from gpuvm.cli.main import app
from gpuvm.lab.description import describe

MIB = 1 << 20
PROGRAM = "print('one line')\n"


@dataclass(frozen=True)
class Held:
    """What this process, the lab's processes and the vCenter hold between two rounds."""

    descriptors: int
    threads: int
    lab_processes: int
    lab_descriptors: int
    sessions: int
    collectors: int
    filters: int
    views: int
    vms: int
    memory_mib: float
    """Of this process."""
    lab_memory_mib: float

    @property
    def counted(self) -> dict[str, float]:
        return {k: v for k, v in asdict(self).items() if "memory" not in k}


@pytest.fixture(scope="module")
def site(home: Path) -> Iterator[Rig]:
    shape = describe(hosts=1).model_copy(update={"timings": QUICK, "vms": ()})
    with rig_of(home, "rounds", shape) as made:
        yield made


def measure(rig: Rig) -> Held:
    gc.collect()
    own = psutil.Process()
    lab = _lab_processes(rig)
    vcenter = _get(rig, "/sessions")
    return Held(
        descriptors=own.num_fds(),
        threads=own.num_threads(),
        lab_processes=len(lab),
        lab_descriptors=sum(one.num_fds() for one in lab),
        vms=len(_get(rig, "/vms")),
        memory_mib=own.memory_info().rss / MIB,
        lab_memory_mib=sum(one.memory_info().rss for one in lab) / MIB,
        **vcenter,
    )


def _lab_processes(rig: Rig) -> list[psutil.Process]:
    """The simulated vCenter, the supervisor and the guests: all that name the lab's folder."""
    folder = Path(os.environ["GPUVM_STATE_DIR"]) / "labs" / rig.context.name
    daemons = [p for p in psutil.process_iter(["cmdline"]) if str(folder) in str(p.info["cmdline"])]
    below = {child for one in daemons for child in one.children(recursive=True)}
    return sorted({*daemons, *below}, key=lambda one: one.pid)


def _get(rig: Rig, path: str) -> Any:
    with urllib.request.urlopen(rig.control + path) as answer:
        return json.load(answer)


def gpuvm(*arguments: str) -> dict[str, Any]:
    done = CliRunner().invoke(app, [*arguments, "--context", "rounds", "--json"])
    assert done.exit_code == 0, done.stdout + done.stderr
    return dict(json.loads(done.stdout))


def one_round(program: Path) -> None:
    made = gpuvm("provision", "--hosts", "1", "--until", "address", "--yes")
    assert made["data"]["vms"][0]["state"] == "address"
    assert gpuvm("status")["data"]["vms"][0]["powered_on"]
    assert gpuvm("run", str(program))["data"]["status"] == "succeeded"
    assert gpuvm("teardown", "--yes")["data"]["vms"][0]["state"] == "removed"


def _rounds(site: Rig, folder: Path, warm_up: int, count: int, every: int) -> list[Held]:
    (folder / "project").mkdir()
    program = folder / "project/hello.py"
    program.write_text(PROGRAM)
    held = []
    for number in range(1, warm_up + count + 1):
        one_round(program)
        if number >= warm_up and (number - warm_up) % every == 0:
            held.append(measure(site))
            sys.stdout.write(f"after {number} rounds: {held[-1]}\n")
    return held


def test_nothing_is_left_after_a_round(site: Rig, tmp_path: Path) -> None:
    first, *_, last = _rounds(site, tmp_path, 1, 2, 1)
    assert last.counted == first.counted


@pytest.mark.soak
def test_a_hundred_rounds_do_not_grow(site: Rig, tmp_path: Path) -> None:
    first, *_, last = _rounds(site, tmp_path, 10, 90, 10)
    assert last.counted == first.counted
    assert last.memory_mib < first.memory_mib + 10
    assert last.lab_memory_mib < first.lab_memory_mib + 30
