"""teardown and stop when answers are lost, and what teardown waits for."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pyVim.task import WaitForTask
from pyVmomi import vim
from simulated_vcenter import Rig, clearing_faults, end, quick_site, rig_of

from gpuvm import lifecycle
from gpuvm.errors import NoPermission, PreflightRefused
from gpuvm.events import Event, Events
from gpuvm.inventory import VM
from gpuvm.lifecycle.clone_request import clone_request
from gpuvm.vsphere import VSphere


@pytest.fixture(scope="module")
def slow(home: Path) -> Iterator[Rig]:
    """What is taken away goes slowly enough to be looked up while it goes."""
    with rig_of(home, "going", quick_site(2, clone_s=1.5, power_off_s=1.5, destroy_s=1.5)) as rig:
        yield rig


no_faults = clearing_faults("rig", "slow")


def _running(rig: Rig, connection: VSphere, name: str) -> list[VM]:
    assert not rig.provision(connection, rig.plan(connection, hosts=2, name=name)).failed
    return rig.own_vms(connection, name)


@pytest.mark.parametrize("method", ["PowerOffVM_Task", "Destroy_Task"])
@pytest.mark.parametrize("which", ["rig", "slow"])
@pytest.mark.usefixtures("simulator")
def test_teardown_looks_up_a_lost_answer(
    method: str, which: str, request: pytest.FixtureRequest
) -> None:
    """On the slow one the task still runs when it is looked for, on the other it has ended."""
    rig = request.getfixturevalue(which)
    with rig.connect() as connection:
        vms = _running(rig, connection, "lost")
        rig.drop_after(method)
        rig.reset_calls()
        result = lifecycle.teardown(vms, connection, Events())
        assert not result.failed, result
        assert rig.calls()[method] == 2, "nothing was submitted twice"
        assert not rig.own_vms(connection, "lost")


@pytest.mark.parametrize("which", ["rig", "slow"])
@pytest.mark.usefixtures("simulator")
def test_stop_looks_up_a_lost_answer(which: str, request: pytest.FixtureRequest) -> None:
    rig = request.getfixturevalue(which)
    with rig.connect() as connection:
        vms = _running(rig, connection, "halted")
        rig.drop_after("PowerOffVM_Task")
        rig.reset_calls()
        result = lifecycle.stop(vms, connection, Events(), grace_s=0)
        assert not result.failed, result
        assert rig.calls()["PowerOffVM_Task"] == 2, "nothing was submitted twice"
        assert not any(vm.powered_on for vm in rig.own_vms(connection, "halted"))
    rig.teardown("halted")


@pytest.mark.parametrize("method", ["PowerOffVM_Task", "Destroy_Task"])
def test_lost_call_is_repeated(rig: Rig, method: str) -> None:
    with rig.connect() as connection:
        vms = _running(rig, connection, "unheard")
        rig.drop_before(method)
        assert not lifecycle.teardown(vms, connection, Events()).failed
        assert not rig.own_vms(connection, "unheard")


def test_refusal_is_not_retried(rig: Rig) -> None:
    with rig.connect() as connection:
        vms = _running(rig, connection, "stuck")
        rig.fault("PowerOffVM_Task", "HostNotConnected", object="stuck-01", where="task")
        rig.reset_calls()
        result = lifecycle.teardown(vms, connection, Events())
        assert [o.name for o in result.failed] == ["stuck-01"]
        assert rig.calls()["PowerOffVM_Task"] == 2
    rig.teardown("stuck")


def test_only_clones_of_its_own_names_are_waited_for(slow: Rig) -> None:
    with slow.connect() as connection:
        plan = slow.plan(connection, hosts=1, name="others")
        request = clone_request(plan, plan.steps[0], slow.context, "ssh-ed25519 A")
        task = connection.start_clone(request)
        assert lifecycle.clones_in_flight(connection, "other") == []
        assert lifecycle.clones_in_flight(connection, "mine") == []
        (coming,) = lifecycle.clones_in_flight(connection, "others")
        assert (coming.name, coming.task) == ("others-01", task)
        reported: list[Event] = []
        lifecycle.await_clones([coming], connection, Events(reported.append))
        assert [event.vm for event in reported if event.name == "done"] == ["others-01"]
        assert len(slow.own_vms(connection, "others")) == 1
    slow.teardown("others")


def test_name_of_a_clone_of_a_vm_is_found_too(slow: Rig) -> None:
    with slow.connect() as connection:
        plan = slow.plan(connection, hosts=1, name="first")
        request = clone_request(plan, plan.steps[0], slow.context, "ssh-ed25519 A")
        ended = end(connection, "first", connection.start_clone(request))
        by_hand = replace(request, name="first-07", template=ended.result or "", extra_config={})
        task = connection.start_clone(by_hand)
        assert [one.name for one in lifecycle.clones_in_flight(connection, "first")] == ["first-07"]
        copy = end(connection, "first-07", task).result
        end(connection, "first-07", connection.start_destroy(copy or ""))
    slow.teardown("first")


def test_what_is_missing_is_named_with_its_object(rig: Rig) -> None:
    with rig.connect() as strong:
        (vm, _) = _running(rig, strong, "guarded")
        with rig.as_user("readonly@lab.local").connect() as weak:
            (outcome,) = lifecycle.teardown([vm], weak, Events()).failed
        assert isinstance(outcome.error, NoPermission)
        assert str(outcome.error).endswith("VirtualMachine.Interact.PowerOff on guarded-01")
    rig.teardown("guarded")


def _attach(machine: Any, file: str) -> None:
    backing = vim.vm.device.VirtualDisk.FlatVer2BackingInfo(
        fileName=file, diskMode="independent_persistent"
    )
    (first,) = (
        d for d in machine.config.hardware.device if isinstance(d, vim.vm.device.VirtualDisk)
    )
    disk = vim.vm.device.VirtualDisk(
        key=-1, controllerKey=first.controllerKey, unitNumber=5, backing=backing, capacityInKB=1024
    )
    change = vim.vm.device.VirtualDeviceSpec(operation="add", device=disk)
    WaitForTask(machine.ReconfigVM_Task(vim.vm.ConfigSpec(deviceChange=[change])))


def test_a_data_disk_from_elsewhere_is_not_destroyed_with_the_vm(rig: Rig) -> None:
    data = "[vsanDatastore] datasets/imagenet.vmdk"
    with rig.connect() as connection:
        vm, other = _running(rig, connection, "disks")
        with rig.in_vcenter(vm) as machine:
            _attach(machine, data)
        vm, other = rig.own_vms(connection, "disks")
        result = lifecycle.teardown([vm, other], connection, Events())
        (failed,) = result.failed
        assert failed.name == vm.name
        assert data in str(failed.error)
        assert failed.left
        assert data not in rig.deleted_files()
        assert any(other.name in file for file in rig.deleted_files())
        (left,) = rig.own_vms(connection, "disks")
        assert left.powered_on, "it is not touched at all"
        assert not lifecycle.teardown([left], connection, Events(), with_disks=True).failed
        assert data in rig.deleted_files()


def test_a_vm_that_became_a_template_is_kept(rig: Rig) -> None:
    with rig.connect() as connection:
        vms = _running(rig, connection, "golden")
        assert not lifecycle.stop(vms, connection, Events(), grace_s=0).failed
        with rig.in_vcenter(vms[0]) as machine:
            machine.MarkAsTemplate()
        vms = rig.own_vms(connection, "golden")
        assert [vm.template for vm in vms] == [True, False]
        (failed,) = lifecycle.teardown(vms, connection, Events()).failed
        assert failed.name == vms[0].name
        assert "--with-templates" in str(failed.error and failed.error.hint)
        with pytest.raises(PreflightRefused, match="is a VM template now"):
            rig.plan(connection, hosts=1, name="golden")
        left = rig.own_vms(connection, "golden")
        assert not lifecycle.teardown(left, connection, Events(), with_templates=True).failed
        assert not rig.own_vms(connection, "golden")


def test_disk_added_in_the_vms_folder_is_kept(rig: Rig) -> None:
    """By default vCenter creates a new data disk beside the VM's own disks."""
    with rig.connect() as connection:
        vm, other = _running(rig, connection, "beside")
        data = f"[vsanDatastore] {vm.name}/{vm.name}_1.vmdk"
        with rig.in_vcenter(vm) as machine:
            _attach(machine, data)
        vm, other = rig.own_vms(connection, "beside")
        assert (vm.foreign_disks, other.foreign_disks) == ((data,), ())
        (failed,) = lifecycle.teardown([vm, other], connection, Events()).failed
        assert data in str(failed.error)
        assert data not in rig.deleted_files()
        assert not lifecycle.teardown([vm], connection, Events(), with_disks=True).failed
        assert data in rig.deleted_files()


def test_disk_attached_during_teardown_is_detected(rig: Rig) -> None:
    data = "[vsanDatastore] datasets/late.vmdk"
    with rig.connect() as connection:
        read_before = _running(rig, connection, "late")
        with rig.in_vcenter(read_before[0]) as machine:
            _attach(machine, data)
        (failed,) = lifecycle.teardown(read_before, connection, Events()).failed
        assert failed.name == read_before[0].name
        assert data not in rig.deleted_files()
        left = rig.own_vms(connection, "late")
        assert not lifecycle.teardown(left, connection, Events(), with_disks=True).failed
