"""Deadlines: what counts as waiting, what is stopped, and what is reported."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from simulated_vcenter import Rig, clearing_faults, quick_site, rig_of

from gpuvm import lifecycle
from gpuvm.errors import DeadlinePassed
from gpuvm.events import Event, Events
from gpuvm.lifecycle import Outcome
from gpuvm.vsphere import VSphere


@pytest.fixture(scope="module")
def copying(home: Path) -> Iterator[Rig]:
    """A clone takes two seconds; eight are made at a time."""
    with rig_of(home, "copying", quick_site(5, clone_s=2)) as rig:
        yield rig


no_faults = clearing_faults("rig", "copying")


def test_time_in_the_vcenters_queue_does_not_count(copying: Rig) -> None:
    """The last of ten clones end after four seconds: each had three for itself."""
    with copying.connect() as connection:
        plan = copying.plan(
            connection,
            hosts=5,
            per_host=2,
            name="queue",
            accelerator={"mode": "none"},
            deadlines={"clone_s": 3},
        )
        result = copying.provision(connection, plan)
        assert not result.failed, result
        assert len(copying.own_vms(connection, "queue")) == 10
    copying.teardown("queue")


def test_a_late_clone_is_cancelled(copying: Rig) -> None:
    with copying.connect() as connection:
        plan = copying.plan(connection, hosts=1, name="late", deadlines={"clone_s": 0.5})
        (outcome,) = copying.provision(connection, plan).failed
        assert isinstance(outcome.error, DeadlinePassed)
        assert "waited 0.5 s for its clone" in str(outcome.error)
        assert not outcome.left
        assert not connection.clones_in_flight()
        assert not copying.own_vms(connection, "late")


def test_late_clone_that_cannot_be_cancelled_is_reported(copying: Rig) -> None:
    with copying.connect() as connection:
        plan = copying.plan(connection, hosts=1, name="late", deadlines={"clone_s": 0.5})
        copying.fault("CancelTask", "NotSupported")
        (outcome,) = copying.provision(connection, plan).failed
        assert isinstance(outcome.error, DeadlinePassed)
        assert outcome.left, "it will exist soon"
        lifecycle.await_clones(lifecycle.clones_in_flight(connection, "late"), connection, Events())
        assert [vm.name for vm in copying.own_vms(connection, "late")] == ["late-01"]
    copying.teardown("late")


def test_no_address_reports_the_state_of_the_guest(rig: Rig) -> None:
    rig.post("/vms/mute-01/no-ip")
    outcome = _without_address(rig, lambda _: None)
    hint = outcome.error.hint or "" if outcome.error else ""
    assert "VMware Tools is running; " in hint
    assert "is connected to 'VM Network'" in hint
    assert "check its console: open-vm-tools, DHCP" in hint


def test_no_address_reports_a_disconnected_network_adapter(rig: Rig) -> None:
    outcome = _without_address(rig, lambda _: rig.post("/vms/mute-01/unplug"))
    assert outcome.error
    assert "is NOT connected to 'VM Network'" in (outcome.error.hint or "")


def test_no_address_reports_a_disconnected_host(rig: Rig) -> None:
    rig.post("/vms/mute-01/no-ip")
    try:
        outcome = _without_address(
            rig, lambda _: rig.post("/hosts/esx-01.lab.local/disconnect"), remove=False
        )
    finally:
        rig.post("/hosts/esx-01.lab.local/reconnect")
    assert "but its host esx-01.lab.local is disconnected" in str(outcome.error)
    rig.teardown("mute")


def _without_address(
    rig: Rig, trouble: Callable[[VSphere], None], *, remove: bool = True
) -> Outcome:
    """``trouble`` comes when the address begins to be waited for."""
    with rig.connect() as connection, rig.connect() as other:

        def sink(event: Event) -> None:
            if (event.kind, event.name, event.state) == ("phase", "address", "start"):
                trouble(other)

        plan = rig.plan(connection, hosts=1, name="mute", deadlines={"address_s": 1.5})
        (outcome,) = lifecycle.provision(
            plan, connection, rig.context, Events(sink), until="address"
        ).failed
    assert isinstance(outcome.error, DeadlinePassed)
    assert outcome.left
    if remove:
        rig.teardown("mute")
    return outcome
