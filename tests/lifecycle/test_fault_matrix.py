"""Every call that a command makes, with everything that may happen to it.

The calls are counted in a run without trouble; a case is a command, one of its calls, and a kind
of trouble. Whatever happens, the exit code and the account are true, the same command without
trouble then completes the work, nothing of others is touched, and no session is left.

A sample here, chosen with a seed; all of them in ``make soak``.
"""

import json
import random
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import stamina
from bare_vcenter import TROUBLES, BareVCenter, Trouble, bare_vcenter
from pyVmomi import vim
from simulated_vcenter import quick_site
from typer.testing import CliRunner

from gpuvm import lifecycle
from gpuvm.cli.main import app
from gpuvm.events import Events
from gpuvm.inventory import Inventory
from gpuvm.lab.description import TemplateDescription, VMDescription
from gpuvm.spec import ClusterSpec
from gpuvm.vsphere import VSphere, properties

SEED, SAMPLE, OCCURRENCES = 20261128, 30, 4
"""``OCCURRENCES``: of one method in one command; the first ones, and the last."""
NAME, VMS, LINKED = "matrix", ("matrix-01", "matrix-02"), "linked"
LIVE, COLD = "esx-03.lab.local", "esx-04.lab.local"
"""A host that switches passthrough at once, and one that must be rebooted for it."""
DEPLOYMENT = ("--name", NAME)
NEW = (*DEPLOYMENT, "--hosts", "2", "--template", "centos7-tensorflow")
APPLY = ("--until", "powered-on", "--yes")


@dataclass
class Site:
    """``truth`` is what the vCenter has, as another account sees it."""

    vcenter: BareVCenter
    observer: VSphere
    before: dict[str, Any] = field(default_factory=dict)
    state: "Callable[[Site], None] | None" = None
    prepared: dict[str, Any] = field(default_factory=dict)

    def truth(self) -> dict[str, Any]:
        kinds = [(vim.VirtualMachine, _VM), (vim.HostSystem, _HOST)]
        rows = properties.retrieve_all(self.observer._content, kinds)
        return {row["name"]: _plain(row) for row in rows.values()}

    def nothing(self) -> None:
        """As it is."""

    def deploy(self) -> None:
        spec = ClusterSpec(name=NAME, hosts=2, template="centos7-tensorflow")
        plan = lifecycle.make_plan(spec, self.observer)
        context = self.vcenter.observer.context
        done = lifecycle.provision(plan, self.observer, context, Events(), until="powered-on")
        assert not done.failed, done

    def stop(self) -> None:
        own = self.observer.read_deployment(NAME).ours
        assert not lifecycle.stop(own, self.observer, Events(), grace_s=0).failed

    def deploy_and_stop(self) -> None:
        self.deploy()
        self.stop()

    def disable(self, host: str = LIVE) -> None:
        self.switch(host, enabled=False)

    def switch(self, host: str, *, enabled: bool) -> None:
        def read() -> Inventory:
            return lifecycle.read_inventory(ClusterSpec(), self.observer)

        chosen = lifecycle.choose_hosts([host], read())
        lifecycle.switch_passthrough(
            chosen,
            self.observer,
            read,
            Events(),
            enabled=enabled,
            reboot=True,
            leave_maintenance=True,
        )

    def clean(self) -> None:
        """As it was before the first case; only what differs is changed."""
        self.vcenter.clear_faults()
        if self.vcenter.get("/sessions")["sessions"] > 1:
            self.vcenter.post("/sessions/expire")
        now = self.truth()
        if any(name in now for name in VMS):
            own = self.observer.read_deployment(NAME).ours
            assert not lifecycle.teardown(own, self.observer, Events()).failed
        if now[LINKED] != self.before[LINKED]:
            lifecycle.restore_templates(self.observer, Events())
            self._without_snapshot()
        for host in (LIVE, COLD):
            if now[host] != self.before[host]:
                self.switch(host, enabled=True)
        self.state = None
        if now != self.before:
            assert self.truth() == self.before

    def be(self, state: "Callable[[Site], None]") -> dict[str, Any]:
        """Prepares a state, unless it is still the present one; returns what there is."""
        if self.state is not state or self.prepared != self.truth():
            self.clean()
            state(self)
            self.state, self.prepared = state, self.truth()
        return self.prepared

    def _without_snapshot(self) -> None:
        template = self.observer._content.searchIndex.FindByInventoryPath(f"/Lab/vm/{LINKED}")
        if template.snapshot is not None:
            inventory = self.observer.read_inventory()
            pool = self.observer._reference(vim.ResourcePool, inventory.cluster.resource_pool)
            template.MarkAsVirtualMachine(pool=pool)
            task = template.RemoveAllSnapshots_Task()
            while task.info.state not in ("success", "error"):
                pass
            template.MarkAsTemplate()


_VM = (
    "name",
    "config.template",
    "runtime.powerState",
    "runtime.host",
    "config.instanceUuid",
    "config.annotation",
    "config.extraConfig",
    "snapshot",
)
_HOST = ("name", "runtime.connectionState", "runtime.inMaintenanceMode", "config.pciPassthruInfo")


def _plain(row: Any) -> dict[str, Any]:
    return {
        key: str(value)
        if key != "config.pciPassthruInfo"
        else [(one.id, one.passthruEnabled, one.passthruActive) for one in value]
        for key, value in row.items()
    }


def _strangers(truth: dict[str, Any]) -> dict[str, Any]:
    """All that the commands under test must not change."""
    return {n: row for n, row in truth.items() if n not in (*VMS, LIVE, COLD, LINKED)}


def _essence(row: dict[str, Any]) -> dict[str, Any]:
    """What is the same each time: not ids, nor the host, where one was left out."""
    ids = ("config.extraConfig", "snapshot", "config.annotation", "runtime.host")
    return {k: v for k, v in row.items() if k not in ids} | {"snapshot": "snapshot" in row}


@dataclass(frozen=True)
class Command:
    """``exit_code`` is that of a run without trouble.

    ``again`` are the options that the command itself names to complete the work.
    """

    arguments: tuple[str, ...]
    check: "Callable[[Outcome], None]"
    prepare: Callable[[Site], None] = Site.nothing
    exit_code: int = 0
    again: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outcome:
    exit_code: int
    envelope: dict[str, Any]
    truth: dict[str, Any]
    healthy: dict[str, Any]
    """The data of the run without trouble."""
    before: dict[str, Any]

    @property
    def data(self) -> dict[str, Any]:
        return dict(self.envelope["data"])

    @property
    def errors(self) -> list[dict[str, Any]]:
        return list(self.envelope["errors"])

    @property
    def in_doubt(self) -> bool:
        """The vCenter did not say what became of a call: the account is then what may be."""
        return any(one["type"] in ("Unreachable", "OutcomeUnknown") for one in self.errors)


def only_reads(outcome: Outcome) -> None:
    assert outcome.truth == outcome.before
    said = any(text in str(outcome.data) for text in ("trouble", "could not be read"))
    assert outcome.errors or said or outcome.data == outcome.healthy


def creates(outcome: Outcome) -> None:
    for vm in outcome.data.get("vms", ()):
        there = outcome.truth.get(vm["vm"])
        on = there is not None and there["runtime.powerState"] == "poweredOn"
        if vm["state"] == "powered-on":
            assert on, vm
        else:
            assert vm["error"], vm
            assert vm["kept_after_failure"] == (there is not None) or outcome.in_doubt, vm
    if not outcome.data.get("vms"):
        assert outcome.errors
        assert {n: outcome.truth.get(n) for n in VMS} == {n: outcome.before.get(n) for n in VMS}


def stops(outcome: Outcome) -> None:
    for vm in outcome.data.get("vms", ()):
        off = outcome.truth[vm["vm"]]["runtime.powerState"] == "poweredOff"
        assert (vm["state"] == "stopped") == off or (outcome.in_doubt and off), vm


def removes(outcome: Outcome) -> None:
    for vm in outcome.data.get("vms", ()):
        gone = vm["vm"] not in outcome.truth
        assert (vm["state"] == "removed") == gone or (outcome.in_doubt and gone), vm


def snapshots(outcome: Outcome) -> None:
    template = outcome.truth[LINKED]
    assert template["config.template"] == "True" or outcome.errors
    creates(outcome)


def switches(outcome: Outcome) -> None:
    for gpu in outcome.data.get("gpus", ()):
        host = outcome.truth[gpu["host"]]
        ((_, enabled, active),) = [
            i for i in host["config.pciPassthruInfo"] if i[0] == gpu["pci_address"]
        ]
        said = gpu["passthrough"]
        assert (said["enabled"], said["active"]) == (enabled, active) or outcome.in_doubt, gpu
        assert gpu["host_in_maintenance_mode"] == (host["runtime.inMaintenanceMode"] == "True"), gpu
        changed = host != outcome.before[gpu["host"]]
        assert outcome.data["changed"] or not changed, gpu


COMMANDS = {
    "plan": Command(("plan", *NEW), only_reads, exit_code=10),
    "gpus": Command(("gpus",), only_reads),
    "doctor": Command(("doctor", *NEW), only_reads),
    "deployments": Command(("deployments",), only_reads, Site.deploy),
    "status": Command(("status", *DEPLOYMENT, "--no-guests"), only_reads, Site.deploy),
    "provision": Command(("provision", *NEW, *APPLY), creates),
    "snapshot": Command(
        (
            "provision",
            *DEPLOYMENT,
            "--template",
            LINKED,
            "--clone-mode",
            "linked",
            "--hosts",
            "1",
            "--create-snapshot",
            *APPLY,
        ),
        snapshots,
    ),
    "stop": Command(("stop", *DEPLOYMENT, "--yes", "--now"), stops, Site.deploy),
    "start": Command(
        ("start", *DEPLOYMENT, "--until", "powered-on"), creates, Site.deploy_and_stop
    ),
    "teardown": Command(("teardown", *DEPLOYMENT, "--yes"), removes, Site.deploy),
    "enable": Command(("passthrough", "enable", LIVE, "--yes"), switches, Site.disable),
    "disable": Command(("passthrough", "disable", LIVE, "--yes"), switches),
    "reboot": Command(
        ("passthrough", "disable", COLD, "--reboot", "--yes"),
        switches,
        again=("--leave-maintenance",),
    ),
}


# The matrix.


@dataclass(frozen=True)
class Call:
    method: str
    occurrence: int


Case = tuple[str, Call, Trouble]
LOGS_IN_OR_OUT = ("Login", "Logout")
PROBE = "vimServiceVersions"
"""The only call that is no method of the API: it knows no faults."""


@dataclass
class Matrix:
    """``calls`` of each command, and its data, in a run without trouble."""

    site: Site
    calls: dict[str, list[Call]] = field(default_factory=dict)
    healthy: dict[str, dict[str, Any]] = field(default_factory=dict)
    ends: dict[str, dict[str, Any]] = field(default_factory=dict)

    def record(self, name: str) -> None:
        if name in self.calls:
            return
        command, vcenter = COMMANDS[name], self.site.vcenter
        before = self.site.be(command.prepare)
        vcenter.reset_calls()
        outcome = self._outcome(name, before)
        counted = vcenter.calls_in_all()
        assert outcome.exit_code == command.exit_code, outcome.envelope
        self.healthy[name] = outcome.data
        self.ends[name] = {n: _essence(row) for n, row in outcome.truth.items()}
        self.calls[name] = [
            Call(method, number)
            for method, count in sorted(counted.items())
            for number in sorted({*range(1, min(count, OCCURRENCES) + 1), count})
        ]

    def cases(self, name: str, kind: Trouble) -> list[Case]:
        self.record(name)
        served = ("lost-answer", "dropped", "timeout")
        return [
            (name, call, kind)
            for call in self.calls[name]
            if (call.method != PROBE or kind in served)
            and (call.method.endswith("_Task") or kind != "task")
        ]

    def check(self, case: Case) -> bool:
        """Runs the command into the trouble, and again without; says whether the call came."""
        name, call, kind = case
        command, site = COMMANDS[name], self.site
        before = site.be(command.prepare)
        site.vcenter.trouble(kind, call.method, call.occurrence)
        outcome = self._outcome(name, before)
        happened = site.vcenter.happened()
        site.vcenter.clear_faults()
        self._check_sessions(call, kind)
        healthy = outcome.exit_code == command.exit_code
        assert healthy == (not outcome.errors), outcome.envelope
        assert healthy or kind != "slow", "it only took longer"
        command.check(outcome)
        assert _strangers(outcome.truth) == _strangers(before)
        if command.check is only_reads:
            return happened
        again = self._outcome(name, outcome.truth, *command.again)
        assert again.exit_code == 0, again.envelope
        assert {n: _essence(again.truth[n]) for n in again.truth} == self.ends[name]
        command.check(again)
        self._check_sessions(call, "slow")
        assert _strangers(again.truth) == _strangers(before)
        return happened

    def _outcome(self, name: str, before: dict[str, Any], *more: str) -> Outcome:
        code, envelope = self._run(*COMMANDS[name].arguments, *more)
        assert envelope["exit_code"] == code
        return Outcome(code, envelope, self.site.truth(), self.healthy.get(name, {}), before)

    def _run(self, *arguments: str) -> tuple[int, dict[str, Any]]:
        done = CliRunner().invoke(app, [*arguments, "--context", "bare", "--json"])
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        return done.exit_code, json.loads(done.stdout)

    def _check_sessions(self, call: Call, kind: Trouble) -> None:
        """A session whose login was not answered, or whose end was lost, stays until it is idle."""
        held = self.site.vcenter.get("/sessions")
        unknown = kind in ("lost-answer", "dropped", "timeout", "fault")
        if not (unknown and call.method in LOGS_IN_OR_OUT):
            assert held["sessions"] == 1, held
        assert held["collectors"] == held["filters"] == held["views"] == 0, held
        if held["sessions"] != 1:
            self.site.vcenter.post("/sessions/expire")


@pytest.fixture(scope="module")
def matrix(home: Path) -> Iterator[Matrix]:
    """No pauses: how long they are is not what is tested."""
    shape = quick_site(5)
    hosts = [
        host.model_copy(update={"rebind_without_reboot": host.name == LIVE}) for host in shape.hosts
    ]
    held = VMDescription(name="trainer", host="esx-05.lab.local", gpu="0000:3b:00.0")
    off = VMDescription(name="sleeper", power="off", host="esx-05.lab.local")
    shape = shape.model_copy(
        update={
            "timings": shape.timings.model_copy(update={"reboot_s": 0.05}),
            "hosts": tuple(hosts),
            "vms": (*shape.vms, held, off),
            "templates": (TemplateDescription(), TemplateDescription(name=LINKED)),
        }
    )
    with pytest.MonkeyPatch.context() as patch, bare_vcenter(home / "bare", shape) as vcenter:
        patch.setattr("gpuvm.vsphere.updates.INTERVAL_S", 0.0)
        story = sys.modules["gpuvm.lifecycle.provision"]
        for pauses in ("CLONE_PAUSES_S", "POWER_ON_PAUSES_S"):
            patch.setattr(story, pauses, tuple(0.01 for _ in getattr(story, pauses)))
        patch.setattr(story, "LOOK_S", 0.01)
        with vcenter.observer.connect() as observer:
            site = Site(vcenter, observer)
            site.before = site.truth()
            yield Matrix(site)


@pytest.fixture(autouse=True)
def retries_do_not_wait() -> Iterator[None]:
    with stamina.set_testing(True, attempts=10, cap=True):
        yield


def sample() -> list[tuple[str, Trouble, float]]:
    """Command, trouble, and where among the calls from 0 to 1; by command, which saves work."""
    draw = random.Random(SEED)
    names = [draw.choice(list(COMMANDS)) for _ in range(SAMPLE)]
    return [(name, draw.choice(TROUBLES), draw.random()) for name in sorted(names)]


@pytest.mark.parametrize(("name", "kind", "share"), sample())
def test_any_trouble_at_any_call(matrix: Matrix, name: str, kind: Trouble, share: float) -> None:
    cases = matrix.cases(name, kind)
    if cases:  # some commands start no task
        matrix.check(cases[int(share * len(cases))])


@pytest.mark.soak
@pytest.mark.parametrize("kind", TROUBLES)
@pytest.mark.parametrize("name", COMMANDS)
def test_every_trouble_at_every_call(matrix: Matrix, name: str, kind: Trouble) -> None:
    cases = matrix.cases(name, kind)
    failed, happened = [], 0
    for case in cases:
        try:
            happened += matrix.check(case)
        except Exception as error:  # noqa: BLE001 - the other cases are tried all the same
            failed.append(f"{case}: {type(error).__name__}: {error}")
            sys.stdout.write(f"{failed[-1]}\n")
            matrix.site.clean()
    sys.stdout.write(f"{name}, {kind}: {len(cases)} cases, {happened} met, {len(failed)} failed\n")
    assert happened >= 0.8 * (len(cases) - len(failed)), "most calls come in every run"
    assert not failed, "\n".join(failed)
