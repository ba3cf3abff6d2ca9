"""How much is read of a large vCenter: counted by the simulator, value by value."""

import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from pyVmomi import vim
from simulated_vcenter import QUICK, Rig, end, rig_of

from gpuvm.lab.description import VMDescription, describe
from gpuvm.vsphere import Task, VSphere

CARD = "0000:3b:00.0"
HOSTS, BUSY, IDLE = 3, 20, 2
DEVICES = "VirtualMachine config.hardware.device"
TEMPLATES = 1
HOLDER = 1


@pytest.fixture(scope="module")
def site(home: Path) -> Iterator[Rig]:
    """VMs of other people: one with a GPU, many that run without reserved memory, two off."""
    vms = (
        VMDescription(name="trainer", host="esx-03.lab.local", gpu=CARD),
        VMDescription(name="busy-{i}", count=BUSY, memory_gib=1),
        VMDescription(name="idle-{i}", count=IDLE, memory_gib=1, power="off"),
    )
    shape = describe(hosts=HOSTS).model_copy(update={"vms": vms, "timings": QUICK})
    with rig_of(home, "reads", shape) as rig:
        yield rig


@pytest.fixture(scope="module")
def connection(site: Rig) -> Iterator[VSphere]:
    with site.connect() as made:
        yield made


@pytest.fixture
def unhidden(site: Rig) -> Iterator[None]:
    yield
    urllib.request.urlopen(urllib.request.Request(f"{site.control}/hide", method="DELETE"))


def test_devices_are_read_of_vms_that_may_have_a_gpu(site: Rig, connection: VSphere) -> None:
    """A running VM whose memory is not reserved has none; all else is read once, in three calls."""
    site.reset_calls()
    inventory = connection.read_inventory(query_targets=())
    values = site.values()
    assert values[DEVICES] == HOLDER + IDLE + TEMPLATES
    everywhere = HOLDER + BUSY + IDLE
    assert values["VirtualMachine parent"] == everywhere + TEMPLATES
    assert values["VirtualMachine name"] == everywhere + 2 * TEMPLATES
    assert values["VirtualMachine runtime.powerState"] == everywhere
    reads = {name: n for name, n in site.calls().items() if name.startswith("Retrieve")}
    assert reads == {"RetrievePropertiesEx": 3}
    (held,) = [gpu for gpu in inventory.gpus if gpu.holders]
    assert (held.host, held.holders[0].vm) == ("esx-03.lab.local", "trainer")
    assert not [gpu for gpu in inventory.gpus if gpu.possible_holders]


@pytest.mark.parametrize(
    "path",
    [
        "runtime.powerState",
        "config.memoryAllocation.reservation",
        "config.memoryReservationLockedToMax",
    ],
)
@pytest.mark.usefixtures("unhidden")
def test_devices_are_read_if_it_is_not_shown_that_there_is_none(
    site: Rig, connection: VSphere, path: str
) -> None:
    with urllib.request.urlopen(f"{site.control}/ids") as answer:
        (busy,) = [one["id"] for one in json.load(answer) if one["name"] == "busy-7"]
    site.post("/hide", {"object": busy, "path": path})
    site.reset_calls()
    connection.read_inventory(query_targets=())
    assert site.values()[DEVICES] == HOLDER + IDLE + TEMPLATES + 1


def test_reserved_memory_makes_a_vm_a_candidate(site: Rig, connection: VSphere) -> None:
    """All of it reserved or a part: also one without a GPU is read."""
    view = connection._content.viewManager.CreateContainerView(
        connection._content.rootFolder, [vim.VirtualMachine], recursive=True
    )
    (busy,) = [vm for vm in view.view if vm.name == "busy-9"]
    view.DestroyView()
    allocation = vim.ResourceAllocationInfo(reservation=128)
    changing = busy.ReconfigVM_Task(vim.vm.ConfigSpec(memoryAllocation=allocation))
    end(connection, "busy-9", Task(changing._moId, "reconfigure"))
    site.reset_calls()
    connection.read_inventory(query_targets=())
    assert site.values()[DEVICES] == HOLDER + IDLE + TEMPLATES + 1


def test_holders_are_read_of_every_vm_before_one_is_powered_on(
    site: Rig, connection: VSphere
) -> None:
    """What is left out of an inventory is not left out there."""
    hosts = connection.read_inventory(query_targets=()).hosts
    site.reset_calls()
    connection.read_holders([host.moref for host in hosts])
    assert site.values()[DEVICES] >= HOLDER + BUSY + IDLE


def test_config_targets_are_asked_of_the_given_hosts_only(site: Rig, connection: VSphere) -> None:
    inventory = connection.read_inventory(query_targets=())
    site.reset_calls()
    connection.with_config_targets(inventory, [inventory.hosts[0].name])
    assert site.calls()["QueryConfigTarget"] == 1


def test_several_calls_at_a_time_log_in_once(site: Rig) -> None:
    """Each of them finds that the session has expired; accounts may be limited in sessions."""
    with site.connect() as connection:
        inventory = connection.read_inventory(query_targets=())
        site.post("/sessions/expire")
        site.reset_calls()
        asked = connection.with_config_targets(inventory, [host.name for host in inventory.hosts])
        calls = site.calls()
        assert all(gpu.system_id for gpu in asked.gpus)
        assert calls["Login"] == 1
        assert calls["QueryConfigTarget"] >= HOSTS
