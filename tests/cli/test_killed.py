"""Killed at any moment and run again: provision converges, teardown leaves nothing.

A sample here; all moments in ``make soak``. The moments are calls to the vCenter, by index, chosen
with a seed; a killed command's tasks go on in the vCenter, as they do in reality.
"""

import json
import os
import random
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from commands import CommandLine, fast_lab

from gpuvm.lab.description import VMDescription, describe

SEED, MOMENTS, SAMPLE = 20261124, 50, 6
HOSTS = 3
WISH = ("--hosts", str(HOSTS), "--until", "powered-on", "--yes")
DRIVER = Path(__file__).parent.parent / "support" / "killed.py"


@dataclass(frozen=True)
class Site:
    command: CommandLine
    control: str
    calls: int

    def kill(self, index: int, moment: str, *arguments: str) -> None:
        done = self.run(index, moment, *arguments)
        assert done.returncode == -9, f"call {index} was not reached: {done.stderr}"

    def run(self, index: int, moment: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return _drive(self.command, index, moment, *arguments)

    def ours(self) -> list[str]:
        told = self.command("status", "--no-guests", "--json").json["data"]["vms"]
        return [vm["vm"] for vm in told if vm["powered_on"]]

    def bindings(self) -> list[str]:
        with urllib.request.urlopen(f"{self.control}/bindings") as answer:
            return sorted(f"{b['host']} {b['pci_address']}" for b in json.load(answer))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, built_once: Path) -> Iterator[Site]:
    os.environ["GPUVM_CACHE_DIR"] = str(built_once)
    command = CommandLine(tmp_path_factory.mktemp("home"))
    held = VMDescription(name="trainer", host="esx-04.lab.local", gpu="0000:3b:00.0")
    file = command.home / "lab.json"
    file.write_text(fast_lab(describe(hosts=4).model_copy(update={"vms": (held,)})))
    up = command("lab", "up", "--description", str(file), "--json").json
    counted = _drive(command, 0, "before", "provision", *WISH)
    assert counted.returncode == 0, counted.stderr
    assert command("teardown", "--yes").exit_code == 0
    calls = int(counted.stderr.rsplit("calls: ", 1)[1])
    yield Site(command, up["data"]["control_url"], calls)
    assert command("lab", "down").exit_code == 0


def moments(count: int) -> list[tuple[int, float, str, str]]:
    """(number, where in the run from 0 to 1, when within the call, what is run again)."""
    draw = random.Random(SEED)
    every = [
        (n, draw.random(), draw.choice(("before", "sent", "after")), draw.choice(("on", "off")))
        for n in range(MOMENTS)
    ]
    return every[:count]


@pytest.mark.parametrize(
    "moment", moments(SAMPLE), ids=lambda m: f"{m[0]}-{m[1]:.2f}-{m[2]}-{m[3]}"
)
def test_killed_and_run_again(site: Site, moment: tuple[int, float, str, str]) -> None:
    _kill_and_run_again(site, *moment[1:])


@pytest.mark.soak
@pytest.mark.parametrize(
    "moment", moments(MOMENTS)[SAMPLE:], ids=lambda m: f"{m[0]}-{m[1]:.2f}-{m[2]}-{m[3]}"
)
def test_killed_at_all_moments(site: Site, moment: tuple[int, float, str, str]) -> None:
    _kill_and_run_again(site, *moment[1:])


@pytest.mark.parametrize("when", ["sent", "after"])
def test_a_killed_teardown_is_finished_by_the_next(site: Site, when: str) -> None:
    assert site.command("provision", *WISH).exit_code == 0
    site.kill(12, when, "teardown", "--yes")
    assert site.command("teardown", "--yes").exit_code == 0
    _nothing_is_left(site)


def _kill_and_run_again(site: Site, share: float, when: str, then: str) -> None:
    """``share`` of the calls of a whole provisioning come before the kill; login is not among."""
    site.kill(4 + round(share * (site.calls - 8)), when, "provision", *WISH)
    if then == "on":
        again = site.command("provision", *WISH)
        assert again.exit_code == 0, again.stderr
        assert site.ours() == [f"gpuvm-{n:02d}" for n in range(1, HOSTS + 1)]
        assert len(set(site.bindings())) == len(site.bindings()) == HOSTS + 1
    gone = site.command("teardown", "--yes")
    assert gone.exit_code == 0, gone.stderr
    _nothing_is_left(site)


def _nothing_is_left(site: Site) -> None:
    assert site.bindings() == ["esx-04.lab.local 0000:3b:00.0"], "the stranger's alone"
    told = site.command("status", "--no-guests", "--json").json["data"]
    assert told["vms"] == []
    assert told["copies"] == []


def _drive(
    command: CommandLine, index: int, moment: str, *arguments: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(DRIVER), str(index), moment, "--", *arguments],
        cwd=command.home,
        env=command.environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
