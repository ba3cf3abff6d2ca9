"""Every story with every failure at every await, without a vCenter.

The cases are generated: a story is played once to count its awaits, and then once for each await
and each trouble. Whatever happens it must end, with a true account: what it made and did not remove
is named, what it reports done is done, and nothing of anybody else was touched.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
from healthy_site import SITE, UUID, gpu, host
from scripted import TROUBLES, Script, Trouble, World

from gpuvm import ownership, planner
from gpuvm.devices import Holder, PassthroughDevice
from gpuvm.errors import GpuvmError, Interrupted, OutcomeUnknown, TaskFailed, VSphereError
from gpuvm.events import Events
from gpuvm.inventory import (
    VM,
    Inventory,
)
from gpuvm.lifecycle import Outcome
from gpuvm.lifecycle.driver import Deadline, VCenterGone
from gpuvm.lifecycle.job import Work
from gpuvm.lifecycle.passthrough import _Change, _Switching, switch
from gpuvm.lifecycle.provision import _interrupted, bring_up
from gpuvm.lifecycle.snapshot import _Snapshotting, make_snapshot
from gpuvm.lifecycle.stop import _Stopping, shut_down
from gpuvm.lifecycle.teardown import _Removing, remove
from gpuvm.settings import Context
from gpuvm.spec import ClusterSpec

UNRELATED = VM("stranger", "vm-7", "esx-02", powered_on=True, instance_uuid="other")
REFUSED = TaskFailed("it", "it", "InvalidState", ["never"], hint=None)
NO_ANSWER = OutcomeUnknown("no answer")
CONTEXT = Context(name="scripted", vcenter="vc.example", user="somebody")


@dataclass
class Scene:
    """A story with a simulated inventory, and the conditions that must hold however it ends."""

    world: World
    story: Callable[[], Any]
    check: Callable[[Any], None]
    always: dict[str, VSphereError]


# provision


def provisioning(
    *,
    taken: bool = False,
    stopped: bool = False,
    name_taken: bool = False,
    **always: VSphereError,
) -> Scene:
    """One VM, up to its address. ``taken``: its GPU is gone when it is to be powered on.

    ``always`` are calls that never succeed.
    """
    world = World(SITE)
    world.vms["vm-7"] = UNRELATED
    spec = ClusterSpec(name="gpuvm", hosts=1)
    if stopped:
        world.vms["vm-2"] = _stopped_vm(spec)
        world.inventory = replace(world.inventory, vms=tuple(world.vms.values()))
        plan = planner.plan_start([world.vms["vm-2"]], spec, world.inventory)
    else:
        plan = planner.plan(spec, world.inventory)
    if taken:
        first = plan.steps[0].host.name
        holder = Holder("stranger", powered_on=True, moref="vm-7")
        hosts = [
            replace(h, gpus=(gpu(h.name, holders=(holder,)),)) if h.name == first else h
            for h in world.inventory.hosts
        ]
        world.inventory = replace(world.inventory, hosts=tuple(hosts))
    if name_taken:
        world.vms["vm-8"] = replace(UNRELATED, name="gpuvm-01", moref="vm-8", powered_on=False)
    work = Work(plan, world, CONTEXT, Events(), "address", keep_failed=False, clock=world.clock)  # type: ignore[arg-type]
    return Scene(
        world,
        lambda: bring_up(work, work.begin(plan.steps[0])),
        lambda outcome: _check_provisioned(world, work, outcome, cancels="cancel" not in always),
        always,
    )


def _stopped_vm(spec: ClusterSpec) -> VM:
    return VM(
        name="gpuvm-01",
        moref="vm-2",
        host="esx-01",
        powered_on=False,
        instance_uuid=ownership.instance_uuid(UUID, spec.name, 1),
        ownership="ours",
        deployment="gpuvm",
        index=1,
        generation="before",
        spec_digest=spec.digest(),
        creation_spec=spec.creation_spec_json(),
        datastores=("store-1",),
        devices=(PassthroughDevice("0000:3b:00.0", "system-of-esx-01", "15f8", 4318),),
    )


def _check_provisioned(world: World, work: Work, outcome: Outcome | None, *, cancels: bool) -> None:
    """``outcome`` is None after Ctrl-C: then the command's own account counts."""
    left_running = any(p.task.operation == "clone" for p in world.pending.values())
    world.settle()
    own = [vm for vm in world.vms.values() if vm.name == "gpuvm-01" and vm.ownership == "ours"]
    if outcome is None:
        assert not (left_running and cancels), "what can be stopped is stopped"
        named = _interrupted(work).left
        assert not own or named == ("gpuvm-01",), "what is left must be named"
    elif outcome.error is None:
        (vm,) = own
        assert vm.powered_on
        assert outcome.state == "address"
    else:
        assert outcome.state == "failed"
        assert not own or outcome.left, "what is left must be named"
        assert own or not outcome.left or left_running or work.jobs["gpuvm-01"].changed


# teardown, stop, the snapshot, passthrough


def removing(*, on: bool) -> Scene:
    world = World(SITE)
    world.vms["vm-7"] = UNRELATED
    vm = world.vms["vm-2"] = replace(_stopped_vm(ClusterSpec()), powered_on=on)
    work = _Removing(world, Events(), with_disks=False, with_templates=False)  # type: ignore[arg-type]

    def check(outcome: Outcome | None) -> None:
        world.settle()
        if outcome is not None and outcome.state == "removed":
            assert "vm-2" not in world.vms
        elif outcome is not None:
            assert outcome.left

    return Scene(world, lambda: remove(work, vm), check, {})


def stopping(*, tools: bool) -> Scene:
    world = World(SITE)
    world.vms["vm-7"] = UNRELATED
    vm = replace(_stopped_vm(ClusterSpec()), powered_on=True, tools_running=tools)
    world.vms["vm-2"] = vm
    work = _Stopping(world, Events(), 60.0)  # type: ignore[arg-type]

    def check(outcome: Outcome | None) -> None:
        world.settle()
        if outcome is not None and outcome.state == "stopped":
            assert not world.vms["vm-2"].powered_on
        elif outcome is not None:
            assert outcome.error is not None

    return Scene(world, lambda: shut_down(work, vm), check, {})


def snapshotting() -> Scene:
    world = World(SITE)
    world.vms["vm-7"] = UNRELATED
    deadline = Deadline(60)
    work = _Snapshotting("template", "t", world, world, deadline)  # type: ignore[arg-type]

    def check(done: object) -> None:
        world.settle()
        state = world.template_state
        if done == "done":
            assert (state.is_template, state.has_snapshot, state.noted) == (True, True, False)
        elif not state.is_template:
            assert state.noted, "a template that is a VM for the moment is known by its notes"

    async def story() -> str:
        await make_snapshot(work, "esx-01", "rp-1")
        return "done"

    return Scene(world, story, check, {})


def switching() -> Scene:
    off = host("esx-01", gpus=(gpu("esx-01", enabled=False, active=False),))
    world = World(replace(SITE, hosts=(off,)))

    def read() -> Inventory:
        active = world.enabled and world.boots > 0
        now = gpu("esx-01", enabled=world.enabled, active=active)
        return replace(SITE, hosts=(replace(off, gpus=(now,)),))

    change = _Change(enabled=True, gpus=())
    work = _Switching(off, world, read, Events(), change, reboot=True, leave=False)  # type: ignore[arg-type]

    def check(done: object) -> None:
        world.settle()
        if done == "done":
            assert world.boots == 1
            assert not world.host.in_maintenance_mode
        assert world.boots <= 1, "a reboot is never asked for twice"

    async def story() -> str:
        await switch(work)
        return "done"

    return Scene(world, story, check, {})


SCENES: dict[str, Callable[[], Scene]] = {
    "a new VM": provisioning,
    "its GPU is taken": lambda: provisioning(taken=True),
    "it never powers on": lambda: provisioning(power_on=REFUSED),
    "no power-on is ever answered": lambda: provisioning(power_on=NO_ANSWER),
    "no clone is ever answered": lambda: provisioning(clone=NO_ANSWER),
    "no clone can be cancelled": lambda: provisioning(cancel=REFUSED),
    "it cannot be removed": lambda: provisioning(power_on=REFUSED, remove=REFUSED),
    "no removal is ever answered": lambda: provisioning(power_on=REFUSED, remove=NO_ANSWER),
    "its name is taken": lambda: provisioning(name_taken=True),
    "a stopped VM is started": lambda: provisioning(stopped=True),
    "a running VM is removed": lambda: removing(on=True),
    "a stopped VM is removed": lambda: removing(on=False),
    "a guest with tools is shut down": lambda: stopping(tools=True),
    "a guest without tools is stopped": lambda: stopping(tools=False),
    "a template gets its snapshot": snapshotting,
    "passthrough is enabled with a reboot": switching,
}


@pytest.mark.parametrize("name", SCENES)
def test_stories_succeed_without_failures(name: str) -> None:
    scene = SCENES[name]()
    script = Script(scene.world, always=scene.always)
    _play(scene, script)
    assert script.awaits


@pytest.mark.parametrize("trouble", TROUBLES)
@pytest.mark.parametrize("name", SCENES)
def test_every_failure_at_every_await(name: str, trouble: Trouble) -> None:
    """One of the awaits each time, until there are no more."""
    tried, at = 0, 0
    while True:
        scene = SCENES[name]()
        script = Script(scene.world, at, trouble, always=scene.always)
        _play(scene, script)
        tried += script.happened
        if at >= len(script.awaits):
            break
        at += 1
    assert tried or trouble in ("late", "transient"), "no await of it knows this trouble"


def _play(scene: Scene, script: Script) -> None:
    try:
        result = script.play(scene.story())
    except KeyboardInterrupt:
        assert script.trouble == "interrupt"
        result = None
    except (Interrupted, GpuvmError, VCenterGone):
        assert script.happened, f"nothing went wrong: {script.awaits}"
        result = None
    scene.check(result)
    strangers = {"vm-7", "vm-8"}
    assert not strangers & set(scene.world.touched), "an unrelated VM was changed"
    assert scene.world.vms.get("vm-7", UNRELATED) == UNRELATED
