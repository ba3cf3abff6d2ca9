"""Races with other clients of the vCenter: for a GPU, a name, a template."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from simulated_vcenter import Rig, at, batches, clearing_faults, end, quick_site, rig_of

from gpuvm import lifecycle
from gpuvm.errors import Interrupted, PreflightRefused
from gpuvm.events import Event, Events
from gpuvm.lifecycle.clone_request import clone_request
from gpuvm.planner import Plan
from gpuvm.vsphere import CloneRequest, VSphere

GPU = "0000:3b:00.0"


@pytest.fixture(scope="module")
def pair(home: Path) -> Iterator[Rig]:
    with rig_of(home, "pair", quick_site(2)) as rig:
        yield rig


@pytest.fixture(scope="module")
def slow(home: Path) -> Iterator[Rig]:
    """One host; clones and power-ons take long enough for another to run beside them."""
    with rig_of(home, "slow-clones", quick_site(1, clone_s=1.5, power_on_s=1)) as rig:
        yield rig


no_faults = clearing_faults("pair", "slow")


def provision(rig: Rig, connection: VSphere, plan: Plan, events: Events) -> lifecycle.ApplyResult:
    return lifecycle.provision(plan, connection, rig.context, events, until="powered-on")


# The holders are read after "configure" has ended and before "power_on" begins.
BEFORE_OUR_LOOK, AFTER_OUR_LOOK = ("configure", "end"), ("power_on", "start")


@pytest.mark.parametrize("moment", [BEFORE_OUR_LOOK, AFTER_OUR_LOOK])
def test_vm_that_loses_its_gpu_moves_to_a_free_one(pair: Rig, moment: tuple[str, str]) -> None:
    with pair.connect() as connection:
        plan = pair.plan(connection, hosts=1, name="loser")
        lost = plan.steps[0].host.name
        rival = at(*moment, lambda: pair.add(name="rival", host=lost, gpu=GPU))
        (outcome,) = provision(pair, connection, plan, rival).outcomes
        assert outcome.error is None, outcome
        (vm,) = pair.own_vms(connection, "loser")
        assert vm.powered_on
        assert vm.host == outcome.host != lost
    pair.teardown("loser")
    _remove(pair, "rival")


@pytest.mark.parametrize("moment", [BEFORE_OUR_LOOK, AFTER_OUR_LOOK])
def test_vm_that_loses_the_last_gpu_is_removed_and_the_holder_named(
    pair: Rig, moment: tuple[str, str]
) -> None:
    with pair.connect() as connection:
        plan = pair.plan(connection, hosts=1, name="loser")
        lost = plan.steps[0].host.name
        (other,) = {gpu.host for gpu in connection.read_inventory().gpus} - {lost}
        pair.add(name="neighbour", host=other, gpu=GPU)
        rival = at(*moment, lambda: pair.add(name="rival", host=lost, gpu=GPU))
        (outcome,) = provision(pair, connection, plan, rival).failed
        assert isinstance(outcome.error, PreflightRefused)
        assert f"{GPU} on {lost} is held by rival" in str(outcome.error)
        assert not outcome.left
        assert not pair.own_vms(connection, "loser")
        assert {b["vm"] for b in pair.bindings()} == {"rival", "neighbour"}
    _remove(pair, "rival", "neighbour")


def test_rival_vm_that_is_still_starting_is_named(slow: Rig) -> None:
    """Its power-on has the GPU already, and the VM is not yet seen to be on."""
    with slow.connect() as connection, slow.connect() as other:
        plan = slow.plan(connection, hosts=1, name="loser")
        folder, host = plan.cluster.vm_folder, plan.steps[0].host.name

        def start() -> None:
            slow.add(name="rival", host=host, gpu=GPU, power="off")
            other.start_power_on(other.find_in_folder(folder, "rival") or "")
            while "rival" not in {b["vm"] for b in slow.bindings()}:
                pass

        (outcome,) = provision(slow, connection, plan, at("power_on", "start", start)).failed
        assert "is held by rival" in str(outcome.error)
        assert not outcome.left
    _remove(slow, "rival")


@pytest.mark.parametrize("trouble", ["a refused read", "no answers"])
def test_another_vm_of_that_name_survives_a_failed_read(pair: Rig, trouble: str) -> None:
    """It came after the plan; whose it is cannot be read at the moment when that matters."""

    def fail() -> None:
        if trouble == "no answers":
            pair.drop_after("RetrievePropertiesEx", 4)
        else:
            pair.fault("RetrievePropertiesEx", "RuntimeFault")

    with pair.connect() as connection:
        plan = pair.plan(connection, hosts=1, name="wanted")
        pair.add(name="wanted-01", power="off")
        (outcome,) = provision(pair, connection, plan, at("clone", "end", fail)).failed
        pair.clear_faults()
        assert outcome.left, "it is named"
        assert connection.find_in_folder(plan.cluster.vm_folder, "wanted-01"), "it was not touched"
    _remove(pair, "wanted-01")


def test_vm_that_lost_its_mark_is_not_removed(pair: Rig) -> None:
    """Looked at just before the removal: somebody gave the VM another mark meanwhile."""
    with pair.connect() as connection, pair.connect() as other:
        plan = pair.plan(connection, hosts=1, name="remarked")
        pair.fault("PowerOnVM_Task", "InvalidState", where="task")

        def remark() -> None:
            (vm,) = pair.own_vms(other, "remarked")
            other.vm_watch().publish_guestinfo(vm.moref, {"gpuvm.generation": "another"})
            while pair.own_vms(other, "remarked")[0].generation != "another":
                pass

        (outcome,) = provision(pair, connection, plan, at("power_on", "end", remark)).failed
        assert outcome.left
        assert [vm.generation for vm in pair.own_vms(connection, "remarked")] == ["another"]
    pair.teardown("remarked")


def test_other_clone_of_the_template_is_not_taken_for_the_own_one(slow: Rig) -> None:
    """Our answer is lost while it runs, and it ends shortly before our own clone."""
    with slow.connect() as connection:
        plan = slow.plan(connection, hosts=1, name="mine")
        slow.reset_calls()
        connection.start_clone(_unrelated(slow, plan, "theirs"))
        rule = {"method": "CloneVM_Task", "object": "mine-01", "delay_s": 1.2}
        slow.post("/faults", rule)
        slow.drop_after("CloneVM_Task")
        result = slow.provision(connection, plan)
        assert not result.failed, result
        assert slow.calls()["CloneVM_Task"] == 2, "one of each deployment"
        assert [vm.name for vm in slow.own_vms(connection, "mine")] == ["mine-01"]
    slow.teardown("mine")
    _remove(slow, "theirs")


def test_failed_clone_of_another_user_is_ignored(slow: Rig) -> None:
    with slow.connect() as connection:
        plan = slow.plan(connection, hosts=1, name="mine")
        slow.fault("CloneVM_Task", "NoDiskSpace", object="theirs", where="task", delay_s=1)
        connection.start_clone(_unrelated(slow, plan, "theirs"))
        slow.drop_after("CloneVM_Task")
        result = slow.provision(connection, plan)
        assert not result.failed, result
    slow.teardown("mine")


def test_interrupting_leaves_the_clones_of_others_alone(slow: Rig) -> None:
    with slow.connect() as connection:
        plan = slow.plan(connection, hosts=1, name="mine")
        theirs = connection.start_clone(_unrelated(slow, plan, "theirs"))
        slow.drop_after("CloneVM_Task")

        reported: list[Event] = []

        def interrupt(event: Event) -> None:
            if reported:
                raise KeyboardInterrupt
            if event.kind == "note":
                reported.append(event)

        with pytest.raises(Interrupted):
            provision(slow, connection, plan, Events(interrupt))
        with connection.update_stream() as stream:
            stream.follow_tasks({"theirs": theirs})
            (*_, ended) = [change for batch in batches(stream, 5.0) for change in batch]
        assert getattr(ended, "error", "still running") is None
        coming = lifecycle.clones_in_flight(connection, "mine")
        lifecycle.await_clones(coming, connection, Events())
    slow.teardown("mine")
    _remove(slow, "theirs")


def _unrelated(rig: Rig, plan: Plan, name: str) -> CloneRequest:
    """A clone by hand: of our template, without our mark."""
    request = clone_request(plan, plan.steps[0], rig.context, "ssh-ed25519 AAAA")
    return replace(request, name=name, instance_uuid="", devices=(), extra_config={})


def _remove(rig: Rig, *names: str) -> None:
    with rig.connect() as connection:
        folder = connection.read_inventory().cluster.vm_folder
        for name in names:
            (vm,) = connection.read_vms([connection.find_in_folder(folder, name) or ""])
            if vm.powered_on:
                end(connection, name, connection.start_power_off(vm.moref))
            assert end(connection, name, connection.start_destroy(vm.moref)).error is None
