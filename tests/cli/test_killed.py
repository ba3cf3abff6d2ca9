"""Killed at any point and run again: provision converges, teardown leaves nothing.

A sample here; all moments in ``make soak``. The moments are calls to the vCenter, by index, chosen
with a seed; a killed command's tasks go on in the vCenter, as they do in reality.
"""

import json
import random
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from commands import CommandLine, fast_lab

from gpuvm.lab.description import TemplateDescription, VMDescription, describe

SEED, MOMENTS, SAMPLE = 20261124, 50, 4
HOSTS = 3
SPEC = ("--hosts", str(HOSTS), "--until", "powered-on", "--yes")
LINKED = (*SPEC, "--clone-mode", "linked", "--create-snapshot")
DRIVER = Path(__file__).parent.parent / "support" / "killed_cli.py"

Moment = tuple[int, float, str, str]


@dataclass(frozen=True)
class Site:
    """``calls``: number of calls of each command; ``before``: the initial inventory."""

    command: CommandLine
    control: str
    calls: dict[str, int]
    before: list[dict[str, Any]]

    def kill(self, which: int | str, moment: str, *arguments: str) -> None:
        done = self.run(which, moment, *arguments)
        assert done.returncode == -9, f"call {which} was not reached: {done.stderr}"

    def run(
        self, which: int | str, moment: str, *arguments: str
    ) -> subprocess.CompletedProcess[str]:
        return _drive(self.command, which, moment, *arguments)

    def calls_of(self, *arguments: str) -> int:
        """The number of calls of the command when it is not killed."""
        counted = self.run(0, "before", *arguments)
        assert counted.returncode == 0, counted.stderr
        return int(counted.stderr.rsplit("calls: ", 1)[1])

    def own_vms(self) -> list[str]:
        reported = self.command("status", "--no-guests", "--json").json["data"]["vms"]
        return [vm["vm"] for vm in reported if vm["powered_on"]]

    def vms(self) -> list[dict[str, Any]]:
        """All VMs, including unrelated ones."""
        return list(_get(f"{self.control}/vms"))

    def bindings(self) -> list[str]:
        return sorted(f"{b['host']} {b['pci_address']}" for b in _get(f"{self.control}/bindings"))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, simulator: None) -> Iterator[Site]:
    command = CommandLine(tmp_path_factory.mktemp("home"))
    held = VMDescription(name="trainer", host="esx-04.lab.local", gpu="0000:3b:00.0")
    names = ("plain", "linked", "left-provision", "left-teardown", *_SNAPSHOT_KILLS)
    templates = tuple(TemplateDescription(name=name) for name in names)
    file = command.home / "lab.json"
    shape = describe(hosts=4).model_copy(update={"vms": (held,), "templates": templates})
    file.write_text(fast_lab(shape))
    control = command("lab", "up", "--description", str(file), "--json").json["data"]["control_url"]
    empty = Site(command, control, {}, [])
    before = empty.vms()
    yield replace(
        empty, before=before, calls={name: empty.calls_of(name, *_SAID[name]) for name in _SAID}
    )
    assert command("lab", "down").exit_code == 0


_PLAIN = (*SPEC, "--template", "plain")
_SAID = {
    "provision": _PLAIN,
    "stop": ("--yes", "--now"),
    "start": ("--until", "powered-on"),
    "teardown": ("--yes",),
}
_SNAPSHOT_KILLS = {
    f"template-{method.lower()}-{when}": (method, when)
    for method in (
        "MarkAsVirtualMachine",
        "CreateSnapshot_Task",
        "ReconfigVM_Task",
        "MarkAsTemplate",
    )
    for when in ("sent", "after")
}


def moments(count: int) -> list[Moment]:
    """(number, where in the run from 0 to 1, when within the call, what is run again)."""
    draw = random.Random(SEED)
    every = [
        (n, draw.random(), draw.choice(("before", "sent", "after")), draw.choice(("on", "off")))
        for n in range(MOMENTS)
    ]
    return every[:count]


def _name(moment: Moment) -> str:
    return f"{moment[0]}-{moment[1]:.2f}-{moment[2]}-{moment[3]}"


@pytest.mark.parametrize("moment", moments(SAMPLE), ids=_name)
def test_killed_and_run_again(site: Site, moment: Moment) -> None:
    _kill_and_run_again(site, _PLAIN, moment)


@pytest.mark.soak
@pytest.mark.parametrize("moment", moments(MOMENTS), ids=_name)
def test_killed_at_every_kill_point(site: Site, moment: Moment) -> None:
    _kill_and_run_again(site, _PLAIN, moment)


@pytest.mark.parametrize("name", list(_SNAPSHOT_KILLS)[:4])
def test_killed_snapshot_leaves_a_recognisable_template(site: Site, name: str) -> None:
    _kill_a_snapshot(site, name)


@pytest.mark.soak
@pytest.mark.parametrize("name", list(_SNAPSHOT_KILLS)[4:])
def test_snapshot_killed_at_any_point(site: Site, name: str) -> None:
    _kill_a_snapshot(site, name)


def _kill_a_snapshot(site: Site, name: str) -> None:
    """Killed while the template is a VM for the moment: the same command then succeeds."""
    method, when = _SNAPSHOT_KILLS[name]
    options = (*LINKED, "--template", name)
    site.kill(method, when, "provision", *options)
    seen = site.command("plan", "--hosts", "1", "--template", name, "--json")
    assert seen.exit_code == 10, seen.stderr
    again = site.command("provision", *options)
    assert again.exit_code == 0, again.stderr
    assert len(site.own_vms()) == HOSTS
    assert site.command("teardown", "--yes").exit_code == 0
    (template,) = [vm for vm in site.vms() if vm["name"] == name]
    assert template == {"name": name, "template": True, "powered_on": False, "snapshots": 1}
    _nothing_is_left(site)


@pytest.mark.parametrize("then", ["provision", "teardown"])
def test_template_left_as_a_vm_is_converted_back(site: Site, then: str) -> None:
    """Also for commands that want no snapshot."""
    name = f"left-{then}"
    site.kill("MarkAsVirtualMachine", "after", "provision", *LINKED, "--template", name)
    options = {"provision": (*SPEC, "--template", name), "teardown": ("--yes",)}
    done = site.command(then, *options[then])
    assert done.exit_code == 0, done.stderr
    assert site.command("teardown", "--yes").exit_code == 0
    _nothing_is_left(site)


@pytest.mark.parametrize("share", [0.6])
def test_killed_among_linked_clones(site: Site, share: float) -> None:
    """There is a snapshot already, so that there are as many calls as with full clones."""
    options = (*LINKED, "--template", "linked")
    assert site.command("provision", *options).exit_code == 0
    assert site.command("teardown", "--yes").exit_code == 0
    _kill_and_run_again(site, options, (0, share, "sent", "on"))


@pytest.mark.parametrize(
    ("command", "share", "when"),
    [("stop", 0.5, "sent"), ("start", 0.8, "after"), ("teardown", 0.4, "sent")],
)
def test_other_commands_continue_too(site: Site, command: str, share: float, when: str) -> None:
    _kill_one_that_goes_on(site, command, share, when)


@pytest.mark.soak
@pytest.mark.parametrize("share", [n / 10 for n in range(11)])
@pytest.mark.parametrize("when", ["before", "sent", "after"])
@pytest.mark.parametrize("command", ["stop", "start", "teardown"])
def test_other_commands_continue_after_every_kill_point(
    site: Site, command: str, share: float, when: str
) -> None:
    _kill_one_that_goes_on(site, command, share, when)


def _kill_one_that_goes_on(site: Site, command: str, share: float, when: str) -> None:
    assert site.command("provision", *_PLAIN).exit_code == 0
    if command == "start":
        assert site.command("stop", *_SAID["stop"]).exit_code == 0
    site.kill(_call(site, command, share), when, command, *_SAID[command])
    again = site.command(command, *_SAID[command])
    assert again.exit_code == 0, again.stderr
    assert len(site.own_vms()) == (HOSTS if command == "start" else 0)
    assert site.command("teardown", "--yes").exit_code == 0
    _nothing_is_left(site)


def _call(site: Site, command: str, share: float) -> int:
    """``share`` of a whole command's calls come before it; login and logout are not among them."""
    return 4 + round(share * (site.calls[command] - 8))


def _kill_and_run_again(site: Site, options: Sequence[str], moment: Moment) -> None:
    _, share, when, then = moment
    site.kill(_call(site, "provision", share), when, "provision", *options)
    if then == "on":
        again = site.command("provision", *options)
        assert again.exit_code == 0, again.stderr
        assert site.own_vms() == [f"gpuvm-{n:02d}" for n in range(1, HOSTS + 1)]
        assert len(set(site.bindings())) == len(site.bindings()) == HOSTS + 1
    gone = site.command("teardown", "--yes")
    assert gone.exit_code == 0, gone.stderr
    _nothing_is_left(site)


def _nothing_is_left(site: Site) -> None:
    """Only what was there before, marked or not; a template may have a snapshot now."""
    assert site.bindings() == ["esx-04.lab.local 0000:3b:00.0"], "only that of the unrelated VM"
    assert [_kind(vm) for vm in site.vms()] == [_kind(vm) for vm in site.before]
    reported = site.command("status", "--no-guests", "--json").json["data"]
    assert reported["vms"] == []
    assert reported["copies"] == []


def _kind(vm: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in vm.items() if key != "snapshots"}


def _get(url: str) -> Any:
    with urllib.request.urlopen(url) as answer:
        return json.load(answer)


def _drive(
    command: CommandLine, which: int | str, moment: str, *arguments: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(DRIVER), str(which), moment, "--", *arguments],
        cwd=command.home,
        env=command.environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
