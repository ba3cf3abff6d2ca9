"""Runs tests/plans/*.yaml: a spec and an inventory in, steps or a refusal out.

To cover another case, add a file there; the keys are read by ``_inventory`` below.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from gpuvm import ownership, planner
from gpuvm.accelerators import VGPU, DynamicPassthrough
from gpuvm.devices import (
    GPU,
    Device,
    DeviceGroup,
    DynamicDevice,
    Holder,
    PassthroughDevice,
    VGPUDevice,
    VGPUProfile,
)
from gpuvm.errors import GpuvmError, Unplaceable
from gpuvm.inventory import (
    NIC,
    VM,
    Cluster,
    Datastore,
    Host,
    Inventory,
    Network,
    Snapshot,
    VCenter,
    VMTemplate,
)
from gpuvm.spec import ClusterSpec

PLANS = sorted((Path(__file__).parent.parent / "plans").glob("*.yaml"))
VCENTER = VCenter("Lab", "https://vc", "8.0.3", "8.0.3.0", "4f1f6f8e-0000-4000-8000-000000000001")


@pytest.mark.parametrize("file", PLANS, ids=lambda f: f.stem)
def test_plan(file: Path) -> None:
    case = yaml.safe_load(file.read_text())
    spec = ClusterSpec.model_validate(case["spec"])
    inventory = _inventory(case.get("inventory", {}), spec)
    if "api" in case:
        inventory = replace(inventory, vcenter=replace(VCENTER, api_version=case["api"]))
    scale_down = case.get("scale_down", False)
    if "error" in case:
        with pytest.raises(GpuvmError) as caught:
            planner.plan(spec, inventory, scale_down=scale_down)
        _check_error(caught.value, case["error"])
        return
    plan = planner.plan(spec, inventory, scale_down=scale_down)
    assert [_step_text(step) for step in plan.steps] == case["steps"]
    assert [f.text for f in plan.findings] == case.get("findings", [])
    if "stores" in case:
        stores = [step.datastore.name if step.datastore else None for step in plan.steps]
        assert stores == case["stores"]
    for key, value in case.get("plan", {}).items():
        assert getattr(plan, key) == value, key


def _check_error(error: GpuvmError, wanted: dict[str, Any]) -> None:
    assert type(error).__name__ == wanted["name"]
    assert wanted["message"] in str(error)
    assert wanted.get("hint", "") in (error.hint or "")
    assert int(error.exit_code) == wanted.get("exit_code", int(error.exit_code))
    if isinstance(error, Unplaceable):
        assert error.hint, "what to do is said, whatever the reason"
    if "states" in wanted:
        assert isinstance(error, Unplaceable)
        assert [row[3] for row in error.table] == wanted["states"]


def _step_text(step: planner.Step) -> str:
    gpus = ",".join(gpu.pci_address for gpu in step.gpus)
    moved = f"to {step.move_to.name} " if step.move_to else ""
    return f"{step.action} {step.name} {step.host.name} {moved}{gpus}".strip()


def _inventory(case: dict[str, Any], spec: ClusterSpec) -> Inventory:
    described = case.get("hosts", 4)
    if isinstance(described, int):
        described = [{"name": f"esx-{i:02d}"} for i in range(1, described + 1)]
    vms = tuple(_vm(vm, spec) for vm in case.get("vms", []))
    return Inventory(
        vcenter=VCENTER,
        cluster=Cluster(
            "GPU-Cluster",
            "c-1",
            "/Lab/host/GPU-Cluster",
            "Lab",
            "rp-1",
            "f-1",
            drs_places=case.get("drs", False),
            unreserved_gib=case.get("pool_unreserved_gib"),
            datacenter_path="/Lab",
        ),
        hosts=tuple(_host(host, vms) for host in described),
        templates=tuple(_template(t) for t in case.get("templates", [{}])),
        datastores=tuple(_datastore(d) for d in case.get("datastores", [{}])),
        networks=tuple(_network(n) for n in case.get("networks", ["VM Network"])),
        vms=vms,
        names_in_folder=frozenset(case.get("names", [])) | {vm.name for vm in vms},
    )


def _host(case: dict[str, Any], vms: tuple[VM, ...]) -> Host:
    name = case["name"]
    return Host(
        name=name,
        moref=name,
        connection_state=case.get("connection", "connected"),
        in_maintenance_mode=case.get("maintenance", False),
        in_quarantine_mode=case.get("quarantine", False),
        memory_gib=case.get("memory_gib", 256),
        reserved_gib=case.get("reserved_gib", 0),
        model="PowerEdge R730",
        gpus=tuple(_gpu(name, gpu, vms) for gpu in case.get("gpus", [{}])),
        datastores=tuple(case.get("datastores", ["vsanDatastore"])),
        networks=tuple(case.get("networks", ["VM Network"])),
        nvswitches=tuple(case.get("nvswitches", ())),
        version=case.get("version", ""),
        cpu_threads=case.get("cpu_threads", 56),
        device_groups=tuple(
            DeviceGroup(name, _members(profile, count), tuple(others))
            for name, profile, count, *others in case.get("device_groups", [])
        ),
    )


def _members(profile: str | None, count: int) -> tuple[Device, ...]:
    """Of a group: vGPUs of this profile, or whole GPUs without one."""
    return tuple(
        VGPUDevice(profile, sequence=n)
        if profile
        else DynamicDevice(((0x10DE, 0x15F8),), sequence=n)
        for n in range(1, count + 1)
    )


def _gpu(host: str, case: dict[str, Any], vms: tuple[VM, ...]) -> GPU:
    address = case.get("address", "0000:3b:00.0")
    holders = [_holder(holder) for holder in case.get("holders", [])]
    holders += [
        Holder(vm.name, vm.powered_on, moref=vm.moref, ours=vm.ownership == "ours")
        for vm in vms
        if vm.host == host and address in {getattr(d, "pci_address", None) for d in vm.devices}
    ]
    return GPU(
        host=host,
        pci_address=address,
        vendor_id=0x10DE,
        device_id=case.get("device_id", 0x15F8),
        name=case.get("name", "Tesla P100 PCIe 16GB"),
        memory_gib=case.get("memory_gib", 16),
        capable=case.get("capable", True),
        enabled=case.get("enabled", case.get("active", True)),
        active=case.get("active", True),
        dependent_device=address,
        system_id=case.get("system_id", f"system-of-{host}"),
        label=case.get("label", ""),
        holders=tuple(holders),
        profiles=tuple(VGPUProfile(*p) for p in case.get("profiles", [])),
    )


def _holder(case: dict[str, Any]) -> Holder:
    return Holder(
        case["vm"],
        case["on"],
        case.get("profile"),
        moref=case.get("moref", case["vm"]),
        shares=case.get("shares", 1),
        ours=case.get("ours", False),
    )


def _vm(case: dict[str, Any], spec: ClusterSpec) -> VM:
    index = case["index"]
    derived = ownership.instance_uuid(VCENTER.instance_uuid, spec.name, index)
    created_from = spec
    if "created_from" in case:
        created_from = ClusterSpec.model_validate({"name": spec.name} | case["created_from"])
    return VM(
        name=case.get("name", spec.vm_name(index)),
        moref=f"vm-{index}",
        host=case["host"],
        powered_on=case.get("on", True),
        instance_uuid=derived,
        ownership=case.get("ownership", "ours"),
        deployment=spec.name,
        index=index,
        generation="g",
        cpus=case.get("cpus", 8),
        memory_gib=case.get("memory_gib", 32),
        memory_locked=spec.has_gpu,
        spec_digest=case.get("digest", created_from.digest()),
        creation_spec=created_from.creation_spec_json(),
        folder=case.get("folder", "f-1"),
        datastores=tuple(case.get("datastores", ["vsanDatastore"])),
        resource_pool=case.get("resource_pool", "rp-1"),
        networks=tuple(case.get("networks", ["VM Network"])),
        devices=_devices(case, spec),
    )


def _devices(case: dict[str, Any], spec: ClusterSpec) -> tuple[Device, ...]:
    if isinstance(spec.accelerator, DynamicPassthrough):
        return (DynamicDevice(((0x10DE, 0x15F8),)),)
    if isinstance(spec.accelerator, VGPU):
        return (VGPUDevice(spec.accelerator.profile),) * spec.accelerator.count
    address = case.get("gpu", "0000:3b:00.0")
    return (PassthroughDevice(address, f"system-of-{case['host']}", "15f8", 4318),)


def _template(case: dict[str, Any]) -> VMTemplate:
    return VMTemplate(
        name=case.get("name", "centos7-tensorflow"),
        moref=case.get("moref", case.get("name", "vm-1")),
        path=case.get("path", "/Lab/vm/centos7-tensorflow"),
        firmware=case.get("firmware", "efi"),
        hardware_version=case.get("hardware_version", 17),
        cpus=8,
        memory_gib=case.get("memory_gib", 32),
        disk_gib=case.get("disk_gib", 40),
        used_gib=case.get("used_gib"),
        nics=tuple(
            NIC(4000 + number, "VirtualVmxnet3", network)
            for number, network in enumerate(case.get("nic_networks", [""] * case.get("nics", 1)))
        ),
        has_gpu=case.get("has_gpu", False),
        vtpm=case.get("vtpm", False),
        host=case.get("host", ""),
        datastores=tuple(case.get("datastores", [])),
        guest_id=case.get("guest_id", "centos7_64Guest"),
        snapshots=tuple(Snapshot(n, n, current=True) for n in case.get("snapshots", [])),
        networks=tuple(case.get("networks", ["VM Network"])),
    )


def _network(case: str | dict[str, Any]) -> Network:
    return Network(case, case) if isinstance(case, str) else Network(**case)


def _datastore(case: dict[str, Any]) -> Datastore:
    name = case.get("name", "vsanDatastore")
    return Datastore(
        name,
        case.get("moref", name),
        case.get("free_gib", 4000),
        case.get("accessible", True),
        maintenance=case.get("maintenance", False),
        hidden=case.get("hidden", ""),
        host_problems=tuple(case.get("host_problems", {}).items()),
    )
