"""Known bugs of ten other tools that attach GPUs, one test for each (peers, 2.2).

Each test fails for the tool that it names, on the very thing that it is known to get wrong. Those
that only a vCenter can show are in tests/vsphere/test_known_bugs.py.
"""

from dataclasses import replace
from typing import Any

import healthy_site
import pytest
from pyVmomi import vim, vmodl

from gpuvm import accelerators, planner, selection
from gpuvm.devices import GPU, DynamicDevice, PassthroughDevice, VGPUDevice
from gpuvm.inventory import (
    NIC,
    VM,
    Host,
    Inventory,
    Network,
    VMTemplate,
)
from gpuvm.planner import capacity
from gpuvm.spec import ClusterSpec
from gpuvm.vsphere import gpus, pci_devices
from gpuvm.vsphere.clone import CloneRequest, clone_spec, repair_spec
from gpuvm.vsphere.faults import task_failed
from gpuvm.vsphere.virtual_machines import devices_of

Kinds = vim.vm.device.VirtualPCIPassthrough
UUID = "4f1f6f8e-0000-4000-8000-000000000001"


def gpu(**changes: Any) -> GPU:
    """A free P100 of host esx-01."""
    return replace(healthy_site.gpu("esx-01", system_id="system-1"), **changes)


def request(**changes: Any) -> CloneRequest:
    values: dict[str, Any] = {
        "name": "gpuvm-01",
        "instance_uuid": "u",
        "template": "vm-1",
        "host": "host-1",
        "resource_pool": "pool-1",
        "datastore": "store-1",
        "folder": "folder-1",
        "cpus": 8,
        "memory_gib": 32,
        "devices": (capacity.fixed(gpu()),),
        "mmio_gib": 64,
        "extra_config": {"gpuvm.cluster": "gpuvm"},
        "annotation": "",
    }
    return CloneRequest(**(values | changes))


def reference(kind: Any, moref: str) -> Any:
    return kind(moref, None)


def spec_of(**changes: Any) -> Any:
    return clone_spec(request(**changes), reference)


@pytest.mark.parametrize(
    ("device_id", "text"), [(0x15F8, "15f8"), (0x0FB0, "fb0"), (0x0000, "0"), (0xFFFE, "fffe")]
)
def test_device_id_is_unsigned_hex(device_id: int, text: str) -> None:
    """vhpc-toolkit and Ray strip characters ('' for 0), govc prints a negative number for 0x8000+,
    Terraform sends none, and a decimal one does not power on (govmomi 2248).
    """
    backing = pci_devices.backing(capacity.fixed(gpu(device_id=device_id)))
    assert backing.deviceId == text
    assert backing.deviceName == "Tesla P100", "nor has Terraform's backing a name"


def test_vendor_id_is_the_signed_short_in_a_fixed_backing() -> None:
    """Terraform's ParseInt(x, 16, 16) refuses vendors from 0x8000 on, such as Intel."""
    assert pci_devices.backing(capacity.fixed(gpu(vendor_id=0x8086))).vendorId == -32634
    assert pci_devices.backing(capacity.fixed(gpu())).vendorId == 4318


def test_ids_of_a_dynamic_backing_are_unsigned() -> None:
    """vhpc-toolkit hands the host's signed numbers on, which match nothing from 0x8000 on."""
    backing = pci_devices.backing(DynamicDevice(((0x8086, 0xFFFE),)))
    assert (backing.allowedDevice[0].vendorId, backing.allowedDevice[0].deviceId) == (32902, 65534)


def test_a_dynamic_backing_assigns_nothing_itself() -> None:
    """Ray writes the device id into assignedId, which is vCenter's to fill."""
    assert pci_devices.backing(DynamicDevice(((0x10DE, 0x15F8),), "training")).assignedId is None
    assert (
        pci_devices.backing(DynamicDevice(((0x10DE, 0x15F8),), "training")).customLabel
        == "training"
    )


def test_equal_addresses_keep_their_own_hosts_system_id() -> None:
    """vhpc-toolkit, Ray and govc keep {address: systemId}: one id for four hosts."""
    other = gpu(host="esx-02", system_id="system-2")
    backings = [pci_devices.backing(capacity.fixed(one)) for one in (gpu(), other)]
    assert [b.systemId for b in backings] == ["system-1", "system-2"]
    assert backings[0].id == backings[1].id


def test_a_device_without_system_id_is_not_sent() -> None:
    """Terraform takes the first entry's for all of them."""
    with pytest.raises(ValueError, match="no systemId"):
        pci_devices.backing(capacity.fixed(gpu(system_id=None)))


def test_several_devices_have_different_keys() -> None:
    """vhpc-toolkit sets none, Terraform the same for two (1285): they become one device."""
    two = (capacity.fixed(gpu()), capacity.fixed(gpu(pci_address="0000:af:00.0")))
    keys = [change.device.key for change in spec_of(devices=two).config.deviceChange]
    assert len(set(keys)) == 2
    assert all(key < 0 for key in keys)


def test_everything_is_in_one_request() -> None:
    """vhpc-toolkit sends four reconfigurations at once, Ray six tasks, Terraform three."""
    config = spec_of().config
    options = {option.key: option.value for option in config.extraConfig}
    assert config.memoryReservationLockedToMax is True
    assert config.cpuHotAddEnabled is config.memoryHotAddEnabled is False
    assert options["pciPassthru.use64bitMMIO"] == "TRUE"
    assert options["pciPassthru.64bitMMIOSizeGB"] == "64"
    assert options["gpuvm.cluster"] == "gpuvm", "marked from the moment that it exists"
    assert len(config.deviceChange) == 1


def test_the_clone_is_not_powered_on_before_it_was_read_back() -> None:
    """vhpc-toolkit's linked clones run before their device is added."""
    assert spec_of(snapshot="snapshot-1").powerOn is False
    assert spec_of(snapshot="snapshot-1").location.diskMoveType == "createNewChildDiskBacking"
    assert spec_of(snapshot="snapshot-1").location.datastore is not None, "and it drops this"


def test_mmio_depends_on_the_gpus_not_on_the_vm() -> None:
    """SkyPilot takes twice the VM's memory, Ray always 64, vhpc-toolkit always 256."""
    assert planner.mmio_window_gib([16]) == 64
    assert planner.mmio_window_gib([16, 16, 16]) == 128
    assert planner.mmio_window_gib([80]) == 256
    window = planner.mmio_window_gib([40] * 8)
    assert window & (window - 1) == 0, "a power of two"
    assert isinstance(spec_of().config.extraConfig[1].value, str), "and text in extraConfig"


@pytest.mark.parametrize(
    "backing",
    [
        Kinds.DynamicBackingInfo(deviceName="", allowedDevice=[]),
        Kinds.VmiopBackingInfo(vgpu="grid_p100-4q"),
        Kinds.PluginBackingInfo(),
    ],
    ids=lambda b: type(b).__name__,
)
def test_any_kind_of_backing_is_read(backing: Any) -> None:
    """vhpc-toolkit's remove_pci and Terraform (1265) fall over one that is not fixed."""
    fixed = Kinds.DeviceBackingInfo(id="0000:3b:00.0", deviceId="15f8", systemId="s", vendorId=4318)
    cards = [Kinds(key=1, backing=backing), Kinds(key=2, backing=fixed)]
    found = [d for d in devices_of(cards) if isinstance(d, PassthroughDevice)]
    assert [d.pci_address for d in found] == ["0000:3b:00.0"]


def test_several_vgpus_are_several_devices() -> None:
    """Packer drops the whole hardware step with more than one; Ansible knows one, by its label."""
    config = spec_of(devices=(VGPUDevice("grid_p100-4q"),) * 2).config
    changes = config.deviceChange
    assert (config.numCPUs, config.memoryMB) == (8, 32 * 1024), "the rest of the step is there too"
    assert [change.device.backing.vgpu for change in changes] == ["grid_p100-4q"] * 2
    assert len({change.device.key for change in changes}) == 2


def test_existing_vgpus_are_counted() -> None:
    """Ansible's force adds one more each time; its _vgpu_absent is undefined without one."""
    one, two = (VGPUDevice("grid_p100-4q", key=7),), (VGPUDevice("grid_p100-4q"),) * 2
    assert [c.operation for c in pci_devices.changes(one, two)] == ["add"]
    assert [c.operation for c in pci_devices.changes(one, ())] == ["remove"]
    assert pci_devices.changes(one, (VGPUDevice("grid_p100-4q"),)) == []
    assert pci_devices.changes((), ()) == []


def test_second_gpu_of_the_same_kind_is_found() -> None:
    """Terraform's data source returns on the first match (1572)."""
    row = {
        "hardware.pciDevice": [card("0000:3b:00.0"), card("0000:af:00.0")],
        "config.pciPassthruInfo": [],
    }
    assert [g.pci_address for g in gpus.gpus_of("esx-01", row, gpus.Target(), {})] == [
        "0000:3b:00.0",
        "0000:af:00.0",
    ]


def test_states_are_found_by_id_not_by_position() -> None:
    """SkyPilot zips two lists that have no common order, and sells a Matrox as a 12 GB GPU."""
    row = {
        "hardware.pciDevice": [card("0000:3b:00.0"), card("0000:04:00.0", vendor=0x102B)],
        "config.pciPassthruInfo": [info("0000:04:00.0", False), info("0000:3b:00.0", True)],
    }
    (found,) = gpus.gpus_of("esx-01", row, gpus.Target(), {})
    assert found.pci_address == "0000:3b:00.0"
    assert found.active


def test_enabled_is_not_active() -> None:
    """All of them report success for a device that waits for its host's reboot."""
    pending = gpu(active=False)
    assert not pending.free
    assert pending.state == "passthrough enabled, host reboot pending"


def test_a_repair_changes_only_what_differs() -> None:
    """Terraform's locked-to-max is silently false unless the reservation is given too (2692)."""
    spec = repair_spec(made(memory_locked=False), request())
    assert spec is not None
    assert spec.memoryReservationLockedToMax is True
    assert spec.numCPUs is None
    assert not spec.deviceChange
    assert repair_spec(made(), request()) is None


def test_a_changed_device_is_removed_by_its_key() -> None:
    """Packer edits a device without saying which one: its edit has no key."""
    wanted = capacity.fixed(gpu(pci_address="0000:af:00.0"))
    added, removed = pci_devices.changes(made().devices, (wanted,))
    assert (removed.operation, removed.device.key) == ("remove", 13000)
    assert added.operation == "add"
    assert added.device.key < 0


def test_edit_has_the_key_of_its_device() -> None:
    """Packer's has none."""
    changes = spec_of(network=Network("other", "network-1"), nics=(NIC(4000, "VirtualVmxnet3"),))
    (edit,) = [c for c in changes.config.deviceChange if c.operation == "edit"]
    assert edit.device.key == 4000


def test_hardware_version_is_looked_at_before_a_device_is_added() -> None:
    """CAPV adds the device, then upgrades to the version that it needs (1749)."""
    dynamic, fixed = ClusterSpec(accelerator=accelerators.parse("dynamic")), ClusterSpec()
    old, there = template(hardware_version=13), site()
    assert selection.unfit_for(old, dynamic, there) == (
        "Dynamic DirectPath I/O needs hardware version 17, it has 13"
    )
    assert selection.unfit_for(template(hardware_version=17), dynamic, there) is None
    assert selection.unfit_for(old, fixed, there) is None, "a fixed device does not need it"
    assert spec_of().config.version is None, "and nothing is upgraded beside it"


def test_every_message_of_a_fault_is_reported() -> None:
    """CAPV shows no reason why a VM does not power on (1920): it is in faultMessage only."""
    reason = "PCIPassthru: total number of pages needed (1) exceeds limit (917504)"
    messages = [vmodl.LocalizableMessage(key=k, message=m) for k, m in (("a", reason), ("b", "b!"))]
    fault = vim.fault.GenericVmConfigFault(reason="x", faultMessage=messages)
    error = task_failed("power on", "gpuvm-01", fault, "Module 'DevicePowerOn' power on failed.")
    for reported in ("DevicePowerOn", reason, "b!"):
        assert reported in str(error)
    assert "accelerator.mmio_gib" in (error.hint or "")


@pytest.mark.parametrize(
    ("class_id", "counts"),
    [
        (0x0300, True),
        (0x0302, True),
        (0x1200, True),
        (0x0403, False),
        (0x0680, False),
        (0x0C03, False),
    ],
)
def test_nvidia_devices_that_are_not_gpus(class_id: int, counts: bool) -> None:
    """A host lists audio functions, USB controllers and NVSwitches of NVIDIA's too; SkyPilot and
    Ray go by names.
    """
    assert gpus.is_gpu(card("0000:3b:00.0", class_id=class_id)) == counts
    assert not gpus.is_gpu(card("0000:3b:00.0", vendor=0x102B, class_id=class_id))
    switches = gpus.nvswitches_of({"hardware.pciDevice": [card("0000:3b:00.0", class_id=class_id)]})
    assert bool(switches) == (class_id == 0x0680)


def test_ids_need_not_be_given() -> None:
    """Packer fails without all four (ParseInt of nothing), and takes a list as alternatives."""
    spec = ClusterSpec(accelerator=accelerators.parse("dynamic:count=2"))
    esx = host("esx-01", gpu(), gpu(pci_address="0000:af:00.0", device_id=0x15F9))
    wanted = capacity.devices(spec, esx, esx.gpus, esx.gpus)
    assert len(wanted) == 2, "two devices, each of any kind that the cluster has"
    assert {d.allowed for d in wanted if isinstance(d, DynamicDevice)} == {
        ((0x10DE, 0x15F8), (0x10DE, 0x15F9))
    }
    one = ClusterSpec(accelerator=accelerators.parse("dynamic:device_id=15f9"))
    (device,) = capacity.devices(one, esx, esx.gpus, esx.gpus)
    assert isinstance(device, DynamicDevice)
    assert device.allowed == ((0x10DE, 0x15F9),)


def test_fixed_device_sets_the_host() -> None:
    """Terraform's error without host_system_id says nothing of it (1918)."""
    esx = host("esx-01", gpu())
    step = planner.plan(ClusterSpec(template="tf"), site(esx)).steps[0]
    (device,) = step.devices
    assert isinstance(device, PassthroughDevice)
    assert (device.system_id, step.host.name) == ("system-1", "esx-01")
    assert spec_of(devices=step.devices, host=esx.moref).location.host._moId == esx.moref


def test_vm_that_runs_or_moved_is_left_as_it_is() -> None:
    """Ansible wants it powered off, and on the right host, before it does anything (1576)."""
    dynamic = DynamicDevice(((0x10DE, 0x15F8),))
    empty, full = host("esx-01"), host("esx-02", gpu(host="esx-02"))
    off = made(powered_on=False, devices=(dynamic,))
    (step,) = planner.plan_start([off], ClusterSpec(), site(empty, full)).steps
    assert step.action == "power-on"
    assert step.move_to == full
    running = made(powered_on=True, devices=(dynamic,))
    assert not planner.plan_start([running], ClusterSpec(), site(empty, full)).changes


def made(**changes: Any) -> VM:
    """As request() wants it."""
    values: dict[str, Any] = {
        "name": "gpuvm-01",
        "moref": "vm-7",
        "host": "esx-01",
        "powered_on": False,
        "instance_uuid": "u",
        "cpus": 8,
        "memory_gib": 32,
        "memory_locked": True,
        "devices": devices_of([pci(13000, pci_devices.backing(capacity.fixed(gpu())))]),
        "extra_config": {
            "pciPassthru.use64bitMMIO": "TRUE",
            "pciPassthru.64bitMMIOSizeGB": "64",
            "gpuvm.cluster": "gpuvm",
        },
    }
    return VM(**(values | changes))


def pci(key: int, backing: Any) -> Any:
    return Kinds(key=key, backing=backing)


def template(hardware_version: int = 17) -> VMTemplate:
    return replace(healthy_site.TEMPLATE, hardware_version=hardware_version)


def host(name: str, *its: GPU) -> Host:
    return healthy_site.host(name, gpus=its)


def site(*hosts: Host) -> Inventory:
    return replace(healthy_site.SITE, hosts=hosts)


def card(address: str, vendor: int = 0x10DE, class_id: int = 0x0302) -> Any:
    return vim.host.PciDevice(
        id=address,
        vendorId=vendor,
        deviceId=0x15F8,
        classId=class_id,
        deviceName="card",
        vendorName="",
        bus=0,
        slot=0,
        function=0,
        subVendorId=0,
        subDeviceId=0,
    )


def info(address: str, active: bool) -> Any:
    return vim.host.PciPassthruInfo(
        id=address,
        dependentDevice=address,
        passthruCapable=True,
        passthruEnabled=active,
        passthruActive=active,
    )
