"""Answers that pyVmomi cannot decode, mostly tasks of other users: no command fails."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from govc_client import Govc, govc_of
from pydantic import SecretStr
from pyVmomi import vim
from simulated_vcenter import Rig, end
from stock_vcenter import stock_vcenter

from gpuvm import lifecycle, vsphere
from gpuvm.errors import UnreadableAnswer
from gpuvm.events import Events
from gpuvm.vsphere import VSphere
from gpuvm.vsphere.properties import Objects, Related, retrieve, retrieve_all

UNRELATED = "trainer"
DISK = "others.vmdk"


@pytest.fixture(scope="module")
def govc(rig: Rig) -> Govc:
    return govc_of(rig.context)


@pytest.fixture
def disk_task(govc: Govc) -> Iterator[None]:
    """A task of the VirtualDiskManager, which is no ManagedEntity, among the recent ones."""
    govc("datastore.disk.create", "-ds", "vsanDatastore", "-size", "1G", DISK)
    yield
    govc("datastore.rm", "-ds", "vsanDatastore", "-f", DISK)


@pytest.fixture(autouse=True)
def no_faults(rig: Rig) -> Iterator[None]:
    yield
    rig.clear_faults()


def recent(connection: VSphere) -> list[Any]:
    content = connection._content
    rows = retrieve(content, [Objects(vim.TaskManager, [content.taskManager], ("recentTask",))])
    return list(rows[content.taskManager]["recentTask"])


def removed(rig: Rig, connection: VSphere, name: str) -> bool:
    return not lifecycle.teardown(rig.own_vms(connection, name), connection, Events()).failed


@pytest.mark.usefixtures("disk_task")
def test_disk_task_of_another_user_does_not_stop_a_teardown(rig: Rig) -> None:
    with rig.connect() as connection:
        rig.provision(connection, rig.plan(connection, hosts=1, name="beside-a-disk"))
        assert connection.clones_in_flight() == []
        assert removed(rig, connection, "beside-a-disk")


def test_task_in_progress_without_task_does_not_stop_a_teardown(rig: Rig, govc: Govc) -> None:
    """The fault TaskInProgress with the empty task that some simulators send."""
    rig.fault("Destroy_Task", "TaskInProgress", object=UNRELATED, where="task")
    assert govc.run("vm.destroy", UNRELATED).returncode != 0
    with rig.connect() as connection:
        (vm,) = govc.json("vm.info", UNRELATED)["virtualMachines"]
        rig.provision(connection, rig.plan(connection, hosts=1, name="beside-a-failure"))
        assert connection.clones_in_flight() == []
        assert connection.running_tasks(vm["self"]["value"], "destroy") == []
        assert removed(rig, connection, "beside-a-failure")


@pytest.mark.usefixtures("disk_task")
def test_only_the_undecodable_object_is_skipped(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    with rig.connect() as connection, caplog.at_level(logging.DEBUG, "gpuvm"):
        tasks = recent(connection)
        whole = retrieve(
            connection._content, [Objects(vim.Task, tasks, ("info", "info.state", "info.key"))]
        )
        assert set(whole) == set(tasks)
        assert all({"info.state", "info.key"} <= set(row) for row in whole.values())
        left_out = [ref for ref, row in whole.items() if "info" not in row]
        assert 0 < len(left_out) < len(tasks)
        assert all(f"('info',) of {ref._moId} is left out" in caplog.text for ref in left_out)
        assert "but got vim.VirtualDiskManager" in caplog.text


@pytest.mark.usefixtures("disk_task")
def test_related_objects_are_read_separately_too(rig: Rig) -> None:
    with rig.connect() as connection:
        content = connection._content
        tasks = recent(connection)
        manager = Objects(
            vim.TaskManager,
            [content.taskManager],
            ("maxCollector",),
            Related("recentTask", vim.Task, ("info", "info.key")),
        )
        rows = retrieve(content, [manager])
        assert rows[content.taskManager]["maxCollector"] > 0
        assert all(rows[task]["info.key"] == task._moId for task in tasks)
        assert 0 < len([task for task in tasks if "info" not in rows[task]]) < len(tasks)


def test_own_failed_task_that_cannot_be_decoded_is_a_failure(rig: Rig) -> None:
    with rig.connect() as connection:
        rig.provision(connection, rig.plan(connection, hosts=1, name="undecodable"))
        (vm,) = rig.own_vms(connection, "undecodable")
        rig.fault("PowerOffVM_Task", "TaskInProgress", object=vm.name, where="task")
        ended = end(connection, vm.name, connection.start_power_off(vm.moref))
        assert isinstance(ended.error, UnreadableAnswer)
        assert "reason cannot be decoded" in str(ended.error)
        assert removed(rig, connection, "undecodable")


def test_a_refusal_that_cannot_be_decoded_is_looked_up(rig: Rig) -> None:
    """The call itself ends in it: whether it was carried out is not known."""
    with rig.connect() as connection:
        rig.provision(connection, rig.plan(connection, hosts=1, name="refused"))
        (vm,) = rig.own_vms(connection, "refused")
        rig.fault("PowerOffVM_Task", "TaskInProgress", object=vm.name)
        assert removed(rig, connection, "refused")


def test_view_is_read_separately(tmp_path: Path) -> None:
    """Govmomi's own simulator sends a ``runtime`` that pyVmomi cannot decode."""
    with (
        stock_vcenter(tmp_path) as stock,
        vsphere.connect(stock.context, SecretStr("any")) as connection,
    ):
        content = connection._content
        wanted = [(vim.VirtualMachine, ("name", "runtime")), (vim.HostSystem, ("name",))]
        rows = retrieve_all(content, wanted)
        names = retrieve_all(
            content, [(vim.VirtualMachine, ("name",)), (vim.HostSystem, ("name",))]
        )
        assert {row["name"] for row in rows.values()} == {row["name"] for row in names.values()}
        assert not any("runtime" in row for row in rows.values())
