"""Each way to attach a GPU, from the plan to the binding in vCenter, and at start."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pyVmomi import vim
from simulated_vcenter import QUICK, Rig, end, repair, rig_of

from gpuvm import lifecycle, planner
from gpuvm.devices import DynamicDevice, VGPUDevice
from gpuvm.errors import PreflightRefused, Unplaceable
from gpuvm.events import Events
from gpuvm.lab.description import (
    DeviceGroupDescription,
    TemplateDescription,
    VMDescription,
    describe,
)
from gpuvm.lifecycle.clone_request import clone_request
from gpuvm.spec import ClusterSpec
from gpuvm.vsphere import Task

DYNAMIC = {"mode": "dynamic"}
QUARTER = {"mode": "vgpu", "profile": "grid_p100-4q"}


@pytest.fixture(scope="module")
def shared(home: Path) -> Iterator[Rig]:
    """Two hosts that share their GPU; 320 GiB are for eight VMs of 32 GiB each."""
    shape = describe(hosts=2, vgpu=True)
    hosts = tuple(h.model_copy(update={"memory_gib": 320}) for h in shape.hosts)
    with rig_of(home, "shared", shape.model_copy(update={"timings": QUICK, "hosts": hosts})) as rig:
        yield rig


@pytest.fixture(scope="module")
def placing(home: Path) -> Iterator[Rig]:
    """DRS is on, the first host's GPU is taken, and the template has a snapshot."""
    held = VMDescription(name="trainer", host="esx-01.lab.local", gpu="0000:3b:00.0")
    shape = describe(hosts=3).model_copy(
        update={
            "timings": QUICK,
            "drs": True,
            "vms": (held,),
            "templates": (TemplateDescription(snapshot="base"),),
        }
    )
    with rig_of(home, "placing", shape) as rig:
        yield rig


def test_dynamic_gpu_is_bound_and_held_at_power_on(rig: Rig) -> None:
    with rig.connect() as connection:
        plan = rig.plan(connection, hosts=2, name="bound", accelerator=DYNAMIC)
        result = rig.provision(connection, plan)
        assert not result.failed, result
        (first, _) = rig.own_vms(connection, "bound")
        (device,) = first.devices
        assert isinstance(device, DynamicDevice)
        assert device.allowed == ((0x10DE, 0x15F8),)
        assert device.assigned == "0000:3b:00.0"
        holders = {h.vm for g in connection.read_inventory().gpus for h in g.holders}
        assert {"bound-01", "bound-02"} <= holders
    rig.teardown("bound")


def test_stopped_dynamic_starts_on_another_host_when_its_own_is_taken(rig: Rig) -> None:
    with rig.connect() as connection:
        rig.provision(connection, rig.plan(connection, hosts=1, name="moved", accelerator=DYNAMIC))
        (vm,) = rig.own_vms(connection, "moved")
        assert not lifecycle.stop([vm], connection, Events()).failed
        rig.provision(connection, rig.plan(connection, hosts=1, name="quicker"))
        (stopped,) = rig.own_vms(connection, "moved")
        spec = ClusterSpec(name="moved")
        plan = planner.plan_start([stopped], spec, connection.read_inventory())
        assert plan.steps[0].move_to is not None
        assert not rig.provision(connection, plan).failed
        (started,) = rig.own_vms(connection, "moved")
        assert started.powered_on
        assert started.host != vm.host
    rig.teardown("moved")
    rig.teardown("quicker")


def test_stopped_fixed_is_refused_by_name_when_its_gpu_is_taken(rig: Rig) -> None:
    with rig.connect() as connection:
        rig.provision(connection, rig.plan(connection, hosts=1, name="fixed"))
        (vm,) = rig.own_vms(connection, "fixed")
        lifecycle.stop([vm], connection, Events())
        rig.add(name="grabber", host=vm.host, gpu="0000:3b:00.0")
        (stopped,) = rig.own_vms(connection, "fixed")
        with pytest.raises(Unplaceable, match="held by grabber"):
            planner.plan_start([stopped], ClusterSpec(name="fixed"), connection.read_inventory())
        grabber = connection.find_in_folder(
            connection.read_inventory().cluster.vm_folder, "grabber"
        )
        end(connection, "grabber", connection.start_power_off(grabber or ""))
        end(connection, "grabber", connection.start_destroy(grabber or ""))
        inventory = connection.read_inventory()
        again = planner.plan_start([stopped], ClusterSpec(name="fixed"), inventory)
        assert not rig.provision(connection, again).failed
        assert rig.own_vms(connection, "fixed")[0].powered_on
    rig.teardown("fixed")


def test_a_stopped_vm_lends_its_gpu(rig: Rig) -> None:
    """Another deployment can use it; the VM that runs then holds it, and is named."""
    with rig.connect() as connection:
        rig.provision(connection, rig.plan(connection, hosts=4, name="lender"))
        lifecycle.stop(rig.own_vms(connection, "lender"), connection, Events(), grace_s=0)
        plan = rig.plan(connection, hosts=1, name="borrower")
        assert "is also assigned to lender-01, which is powered off" in plan.findings[0].text
        assert not rig.provision(connection, plan).failed
        stopped, spec = rig.own_vms(connection, "lender"), ClusterSpec(name="lender")
        with pytest.raises(Unplaceable, match="held by borrower-01"):
            planner.plan_start(stopped, spec, connection.read_inventory())
    rig.teardown("borrower")
    with rig.connect() as connection:
        again = planner.plan_start(stopped, spec, connection.read_inventory())
        assert not rig.provision(connection, again).failed
    rig.teardown("lender")


def test_all_vgpus_of_one_vm_are_counted(shared: Rig) -> None:
    two = {**QUARTER, "count": 2}
    with shared.connect() as connection:
        plan = shared.plan(connection, hosts=1, name="two", memory_gib=16, accelerator=two)
        assert not shared.provision(connection, plan).failed
        states = [gpu.state for gpu in connection.read_inventory().gpus]
        assert states[0] == "shared as vGPU, 2 of grid_p100-4q left"
    shared.teardown("two")


def test_vgpus_share_a_card_until_it_is_full(shared: Rig) -> None:
    with shared.connect() as connection:
        plan = shared.plan(
            connection, hosts=2, per_host=4, name="quarters", memory_gib=16, accelerator=QUARTER
        )
        assert not shared.provision(connection, plan).failed
        own = shared.own_vms(connection, "quarters")
        assert [vm.devices for vm in own] == [(VGPUDevice("grid_p100-4q"),)] * 8
        states = {gpu.state for gpu in connection.read_inventory().gpus}
        assert states == {"shared as vGPU, 0 of grid_p100-4q left"}
        with pytest.raises(Unplaceable, match="free vGPU grid_p100-4q"):
            shared.plan(connection, hosts=1, name="ninth", memory_gib=16, accelerator=QUARTER)
    assert len(shared.bindings()) == 8
    shared.teardown("quarters")


def test_vgpu_taken_meanwhile_is_planned_again(shared: Rig) -> None:
    whole = {"mode": "vgpu", "profile": "grid_p100-16q"}
    with shared.connect() as connection:
        first = shared.plan(connection, hosts=1, name="first", accelerator=whole)
        second = shared.plan(connection, hosts=1, name="second", accelerator=whole)
        assert first.steps[0].host == second.steps[0].host
        shared.provision(connection, first)
        result = shared.provision(connection, second)
        assert not result.failed, result
        assert result.outcomes[0].host != first.steps[0].host.name
    shared.teardown("first")
    shared.teardown("second")


def test_drs_chooses_the_host_of_a_dynamic_vm(placing: Rig) -> None:
    with placing.connect() as connection:
        plan = placing.plan(connection, hosts=2, name="free", accelerator=DYNAMIC)
        assert plan.cluster.drs_places
        request = clone_request(plan, plan.steps[0], placing.context, "ssh-ed25519 A")
        assert request.host is None
        assert not placing.provision(connection, plan).failed
        hosts = {vm.host for vm in placing.own_vms(connection, "free")}
        assert hosts == {"esx-02.lab.local", "esx-03.lab.local"}
    placing.teardown("free")


def test_host_that_drs_chose_is_reported(placing: Rig) -> None:
    """It is not the one that the plan counted on: that one's GPU was taken meanwhile."""
    with placing.connect() as connection:
        plan = placing.plan(connection, hosts=1, name="chosen", accelerator=DYNAMIC)
        counted_on = plan.steps[0].host.name
        placing.add(name="quicker", host=counted_on, gpu="0000:3b:00.0")
        (outcome,) = placing.provision(connection, plan).outcomes
        (vm,) = placing.own_vms(connection, "chosen")
        assert outcome.host == vm.host != counted_on
        assert outcome.gpus == vm.pci_addresses
        folder = plan.cluster.vm_folder
        quicker = connection.find_in_folder(folder, "quicker") or ""
        end(connection, "quicker", connection.start_power_off(quicker))
        end(connection, "quicker", connection.start_destroy(quicker))
    placing.teardown("chosen")


def test_linked_clones_take_no_space(placing: Rig) -> None:
    with placing.connect() as connection:
        before = connection.read_inventory().datastores[0].free_gib
        plan = placing.plan(connection, hosts=2, name="linked", clone_mode="linked")
        assert plan.snapshot is not None
        assert not placing.provision(connection, plan).failed
        assert connection.read_inventory().datastores[0].free_gib == before
    placing.teardown("linked")


PAIR = "Nvidia:2@grid_p100-16q%NVLink"


@pytest.fixture(scope="module")
def linked(home: Path) -> Iterator[Rig]:
    """Two hosts; only the second has its two GPUs connected."""
    shape = describe(hosts=2, gpus_per_host=2, vgpu=True)
    addresses = tuple(gpu.pci_address for gpu in shape.hosts[1].gpus)
    pair = DeviceGroupDescription(name=PAIR, profile="grid_p100-16q", gpus=addresses)
    second = shape.hosts[1].model_copy(update={"device_groups": (pair,)})
    shape = shape.model_copy(update={"timings": QUICK, "hosts": (shape.hosts[0], second)})
    with rig_of(home, "linked-gpus", shape) as rig:
        yield rig


def test_device_group_is_added_and_held_as_a_whole(linked: Rig) -> None:
    spec_options = {"hosts": 1, "accelerator": {"mode": "device-group", "group": PAIR}}
    with linked.connect() as connection:
        plan = linked.plan(connection, name="pair", **spec_options)
        assert plan.steps[0].host.name == "esx-02.lab.local"
        result = linked.provision(connection, plan)
        assert not result.failed, result
        (vm,) = linked.own_vms(connection, "pair")
        assert [d.sequence for d in vm.devices if isinstance(d, VGPUDevice)] == [1, 2]
        assert vm.accelerator == "device-group"
        assert planner.drift(vm, connection.read_inventory()) == ()
        assert {b["pci_address"] for b in linked.bindings()} == {
            gpu.pci_address for gpu in plan.steps[0].gpus
        }
        with pytest.raises(Unplaceable, match="a free device group"):
            linked.plan(connection, name="another", **spec_options)
    linked.teardown("pair")


def test_device_group_with_a_missing_device_is_replaced_as_a_whole(linked: Rig) -> None:
    spec_options = {"hosts": 1, "accelerator": {"mode": "device-group", "group": PAIR}}
    with linked.connect() as connection:
        plan = linked.plan(connection, name="mended", **spec_options)
        linked.provision(connection, plan)
        (vm,) = linked.own_vms(connection, "mended")
        assert not lifecycle.stop([vm], connection, Events(), grace_s=0).failed
        (vm,) = linked.own_vms(connection, "mended")
        request = clone_request(plan, replace(plan.steps[0], vm=vm), linked.context, "")
        repair(connection, vm, replace(request, devices=(), device_group=""))
        (bare,) = linked.own_vms(connection, "mended")
        assert bare.devices == ()
        assert repair(connection, bare, request).error is None
        (vm,) = linked.own_vms(connection, "mended")
        assert len(vm.devices) == 2
        assert connection.start_repair(vm, request) is None
    linked.teardown("mended")


def test_cpus_that_the_templates_sockets_do_not_divide(home: Path) -> None:
    """A vCenter refuses a number of CPUs that is no multiple of the cores per socket."""
    template = TemplateDescription(cpus=8, cores_per_socket=4)
    shape = describe(hosts=2).model_copy(update={"timings": QUICK, "templates": (template,)})
    with rig_of(home, "sockets", shape) as rig, rig.connect() as connection:
        for cpus, cores in ((6, 2), (4, 4)):
            plan = rig.plan(connection, hosts=1, name=f"cpus-{cpus}", cpus=cpus)
            assert not rig.provision(connection, plan).failed
            (vm,) = rig.own_vms(connection, f"cpus-{cpus}")
            assert (vm.cpus, vm.cores_per_socket) == (cpus, cores)


def test_memory_limit_of_the_template_is_removed_from_clones(home: Path) -> None:
    """All of the memory is reserved, which a limit below it forbids."""
    template = TemplateDescription(memory_gib=8, memory_limit_gib=4)
    shape = describe(hosts=1).model_copy(update={"timings": QUICK, "templates": (template,)})
    with rig_of(home, "limited", shape) as rig, rig.connect() as connection:
        assert not rig.provision(connection, rig.plan(connection)).failed
        (vm,) = rig.own_vms(connection, "gpuvm")
        assert (vm.memory_gib, vm.memory_locked) == (8, True)


def test_repair_of_cpus_keeps_cores_per_socket_valid(home: Path) -> None:
    """A VM that somebody changed meanwhile is mended as the clone was made."""
    template = TemplateDescription(cpus=8, cores_per_socket=4)
    shape = describe(hosts=1).model_copy(update={"timings": QUICK, "templates": (template,)})
    with rig_of(home, "repair", shape) as rig, rig.connect() as connection:
        plan = rig.plan(connection, hosts=1, cpus=6)
        assert not rig.provision(connection, plan).failed
        (vm,) = rig.own_vms(connection, "gpuvm")
        end(connection, "off", connection.start_power_off(vm.moref))
        changed = vim.vm.ConfigSpec(numCPUs=8, numCoresPerSocket=8)
        task = connection._vm(vm.moref).ReconfigVM_Task(spec=changed)
        end(connection, "changed", Task(task._moId, "reconfigure"))
        assert not rig.provision(connection, rig.plan(connection, hosts=1, cpus=6)).failed
        (vm,) = rig.own_vms(connection, "gpuvm")
        assert (vm.cpus, vm.cores_per_socket) == (6, 2)


@pytest.mark.parametrize("default", ["shared", "sharedDirect"])
def test_sharing_is_each_cards_own(home: Path, default: str) -> None:
    """The host's default does not apply to a GPU with its own graphics type."""
    shape = describe(hosts=1, gpus_per_host=2, vgpu=True)
    types = ("shared", "sharedDirect")
    gpus = tuple(
        gpu.model_copy(update={"graphics_type": kind})
        for gpu, kind in zip(shape.hosts[0].gpus, types, strict=True)
    )
    host = shape.hosts[0].model_copy(update={"graphics_type": default, "gpus": gpus})
    shape = shape.model_copy(update={"timings": QUICK, "hosts": (host,)})
    with rig_of(home, f"by-card-{default}", shape) as rig, rig.connect() as connection:
        plain, offering = connection.read_inventory().gpus
        assert (plain.shared_direct, plain.profiles) == (False, ())
        assert plain.state == "passthrough not enabled"
        assert offering.shared_direct
        assert "grid_p100-16q" in {profile.name for profile in offering.profiles}
        spec_options = {"accelerator": {"mode": "vgpu", "profile": "grid_p100-16q"}}
        plan = rig.plan(connection, **spec_options)
        assert [gpu.pci_address for gpu in plan.steps[0].gpus] == [offering.pci_address]
        assert not rig.provision(connection, plan).failed
        with pytest.raises(Unplaceable):
            rig.plan(connection, name="more", **spec_options)


@pytest.mark.parametrize(
    ("gpu", "accelerator", "starts"),
    [
        ("t4", {"mode": "passthrough"}, True),
        ("t4", {"mode": "vgpu", "profile": "grid_t4-16q"}, True),
        ("p4", {"mode": "dynamic"}, True),
        ("a100", {"mode": "passthrough", "mmio_gib": 0}, False),
        ("a100", {"mode": "vgpu", "profile": "grid_a100-4c", "mmio_gib": 0}, False),
    ],
)
def test_bios_is_enough_for_small_cards(
    home: Path, gpu: str, accelerator: dict[str, Any], starts: bool
) -> None:
    """If mmio_gib declares a large GPU small, the host refuses the power-on."""
    template = TemplateDescription(firmware="bios", memory_gib=8)
    shape = describe(hosts=1, gpu=gpu, vgpu=accelerator["mode"] == "vgpu").model_copy(
        update={"timings": QUICK, "templates": (template,)}
    )
    name = f"bios-{gpu}-{accelerator['mode']}"
    with rig_of(home, name, shape) as rig, rig.connect() as connection:
        plan = rig.plan(connection, accelerator=accelerator)
        assert plan.mmio_gib is None
        result = rig.provision(connection, plan)
        assert bool(result.failed) is not starts
        if not starts:
            (outcome,) = result.failed
            assert "total number of pages needed" in str(outcome.error)
            sure = {key: value for key, value in accelerator.items() if key != "mmio_gib"}
            with pytest.raises(PreflightRefused, match="needs EFI"):
                rig.plan(connection, accelerator=sure, template="centos7-tensorflow")
