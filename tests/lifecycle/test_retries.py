"""Retries: only what lost its connection between vCenter and host is tried again."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from simulated_vcenter import QUICK, Rig, rig_of

from gpuvm import lifecycle
from gpuvm.errors import TaskFailed
from gpuvm.events import Event, Events
from gpuvm.lab.description import describe


@pytest.fixture(autouse=True)
def no_faults(rig: Rig) -> Iterator[None]:
    yield
    rig.clear_faults()


@pytest.mark.parametrize("where", ["task", "after"])
def test_interrupted_clone_is_retried(rig: Rig, where: str) -> None:
    """Also when it left a VM behind: that one goes first."""
    with rig.connect() as connection:
        plan = rig.plan(connection, hosts=2, name="broken")
        rig.reset_calls()
        rig.fault("CloneVM_Task", "HostCommunication", object="broken-02", where=where)
        result = rig.provision(connection, plan)
        assert not result.failed, result
        assert rig.calls()["CloneVM_Task"] == 3
        assert [vm.name for vm in rig.own_vms(connection, "broken")] == ["broken-01", "broken-02"]
    rig.teardown("broken")


def test_clone_is_retried_only_once(rig: Rig) -> None:
    with rig.connect() as connection:
        plan = rig.plan(connection, hosts=1, name="broken")
        rig.reset_calls()
        rig.fault("CloneVM_Task", "Timedout", where="task", count=9)
        (outcome,) = rig.provision(connection, plan).failed
        assert rig.calls()["CloneVM_Task"] == 2
        assert not outcome.left


def test_leftovers_of_a_failed_clone_are_removed(rig: Rig) -> None:
    """A full datastore will not be less full a moment later."""
    with rig.connect() as connection:
        plan = rig.plan(connection, hosts=1, name="partial")
        rig.reset_calls()
        rig.fault("CloneVM_Task", "NoDiskSpace", where="after")
        (outcome,) = rig.provision(connection, plan).failed
        assert rig.calls()["CloneVM_Task"] == 1
        assert not outcome.left
        assert not rig.own_vms(connection, "partial")


def test_briefly_disconnected_host_is_retried(rig: Rig) -> None:
    """The other VM need not wait for that."""
    with rig.connect() as connection:
        plan = rig.plan(connection, hosts=2, name="moment")
        rig.fault("PowerOnVM_Task", "HostNotConnected", object="moment-01", count=2, where="task")
        order: list[str | None] = []

        def sink(event: Event) -> None:
            if event.kind == "progress" and event.name == "done":
                order.append(event.vm)

        result = lifecycle.provision(
            plan, connection, rig.context, Events(sink), until="powered-on"
        )
        assert not result.failed, result
        assert order == ["moment-02", "moment-01"]
    rig.teardown("moment")


@pytest.fixture(scope="module")
def narrow(home: Path) -> Iterator[Rig]:
    """Each host has two GPUs, and memory for two small VMs."""
    shape = describe(hosts=2, gpus_per_host=2)
    hosts = tuple(h.model_copy(update={"memory_gib": 96}) for h in shape.hosts)
    shape = shape.model_copy(update={"timings": QUICK, "hosts": hosts})
    with rig_of(home, "narrow", shape) as rig:
        yield rig


def test_memory_taken_meanwhile_is_not_a_lost_gpu(narrow: Rig) -> None:
    """Going elsewhere is for lost GPUs; here the numbers are what helps."""
    with narrow.connect() as connection:
        plan = narrow.plan(connection, hosts=1, name="large", memory_gib=64)
        (step,) = plan.steps
        (spare,) = {g.pci_address for g in step.host.gpus} - {g.pci_address for g in step.gpus}
        narrow.add(name="taker", host=step.host.name, gpu=spare, memory_gib=48)
        (outcome,) = narrow.provision(connection, plan).failed
        assert isinstance(outcome.error, TaskFailed)
        assert outcome.error.fault == "InsufficientHostMemoryCapacityFault"
        hint = outcome.error.hint or ""
        assert re.search(
            r"unreserved memory left: 64\.\d GiB requested, \d+\.\d GiB unreserved", hint
        )
        assert not narrow.own_vms(connection, "large"), "neither here nor on the other host"
