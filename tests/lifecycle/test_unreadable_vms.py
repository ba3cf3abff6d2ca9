"""Own VMs whose configuration vCenter cannot read: always reported, never changed."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from pyVim.task import WaitForTask
from simulated_vcenter import Rig

from gpuvm import lifecycle, planner
from gpuvm.errors import ExitCode, PreflightRefused
from gpuvm.events import Events
from gpuvm.inventory import VM
from gpuvm.spec import ClusterSpec
from gpuvm.vsphere import VSphere


@contextmanager
def _away(rig: Rig, name: str) -> Iterator[None]:
    rig.post(f"/vms/{name}/inaccessible")
    try:
        yield
    finally:
        rig.post(f"/vms/{name}/accessible")


def _two(rig: Rig, connection: VSphere, name: str) -> list[VM]:
    assert not rig.provision(connection, rig.plan(connection, hosts=2, name=name)).failed
    return rig.own_vms(connection, name)


def test_teardown_reports_what_it_keeps(rig: Rig) -> None:
    with rig.connect() as connection:
        first, second = _two(rig, connection, "lost")
        with _away(rig, first.name):
            found = connection.read_deployment("lost")
            assert [vm.name for vm in found.ours] == [second.name]
            (hidden,) = found.unreadable
            assert (hidden.name, hidden.host, hidden.powered_on) == (first.name, first.host, True)
            assert hidden.why == "it is inaccessible: vCenter cannot read its configuration"
            result = lifecycle.teardown(
                found.ours, connection, Events(), unreadable=found.unreadable
            )
            assert result.exit_code is ExitCode.PARTLY_DONE
            (failed,) = result.failed
            assert failed.left
            assert str(failed.error) == f"{first.name} is not changed: {hidden.why}"
        (left,) = rig.own_vms(connection, "lost")
        assert left.powered_on
    rig.teardown("lost")


def test_stop_reports_what_it_cannot_stop(rig: Rig) -> None:
    with rig.connect() as connection:
        first, second = _two(rig, connection, "stays")
        with _away(rig, first.name):
            found = connection.read_deployment("stays")
            result = lifecycle.stop(
                found.ours, connection, Events(), unreadable=found.unreadable, grace_s=0
            )
        assert [o.name for o in result.failed] == [first.name]
        assert [vm.powered_on for vm in rig.own_vms(connection, "stays")] == [True, False]
        assert second.name in [o.name for o in result.outcomes if o.changed]
    rig.teardown("stays")


def test_plan_recognises_its_own_unreadable_vm(rig: Rig) -> None:
    with rig.connect() as connection:
        first, _ = _two(rig, connection, "away")
        with _away(rig, first.name):
            with pytest.raises(PreflightRefused, match=f"{first.name}: it is inaccessible"):
                rig.plan(connection, hosts=2, name="away")
            inventory = lifecycle.read_inventory(ClusterSpec(name="away"), connection)
            hidden = planner.unreadable("away", inventory)
            assert {index: vm.name for index, vm in hidden.items()} == {1: first.name}
            assert planner.unreadable("awa", inventory) == {}
    rig.teardown("away")


def test_renamed_vm_is_recognised_by_its_uuid(rig: Rig) -> None:
    with rig.connect() as connection:
        first, _ = _two(rig, connection, "renamed")
        with rig.in_vcenter(first) as machine:
            WaitForTask(machine.Rename_Task("somebody-elses"))
        with _away(rig, "somebody-elses"):
            (hidden,) = connection.read_deployment("renamed").unreadable
            assert hidden.moref == first.moref
    rig.teardown("renamed")


def test_unrelated_vm_is_not_an_own_vm(rig: Rig) -> None:
    """Its instance UUID differs, even under the same name."""
    with rig.connect() as connection:
        _two(rig, connection, "own")
        rig.add(name="own-03", count=1)
        with _away(rig, "own-03"):
            assert connection.read_deployment("own").unreadable == ()
            assert not rig.plan(connection, hosts=2, name="own").changes
    rig.teardown("own")
