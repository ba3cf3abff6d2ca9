"""pyVmomi against the simulated vCenter. The simulator's rules have their own tests, in Go."""

import json
import os
import ssl
import subprocess
import time
import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from pyVim.connect import Disconnect, SmartConnect
from pyVmomi import vim, vmodl

from gpuvm.lab import build
from gpuvm.lab.description import About, Description, Timings, describe

PASSWORD = "correct horse"
COLLECTOR = vmodl.query.PropertyCollector
VERSIONS = {"6.7": "6.7.0", "7.0.3.0": "7.0.3", "8.0.3.0": "8.0.3"}
NO_TIME = Timings(clone_s=0, power_on_s=0, power_off_s=0, boot_s=0, destroy_s=0)


class VCenter:
    """A running gpuvm-vcsim, which ends with the test."""

    def __init__(self, folder: Path, ready: dict[str, Any], cleanup: ExitStack) -> None:
        self.folder, self.ready, self._cleanup = folder, ready, cleanup

    def connect(self, user: str = "administrator@lab.local") -> vim.ServiceInstance:
        context = ssl.create_default_context(cafile=self.ready["ca_file"])
        port = urllib.parse.urlsplit(self.ready["url"]).port
        si: vim.ServiceInstance = SmartConnect(
            host="127.0.0.1", port=port, user=user, pwd=PASSWORD, sslContext=context
        )
        self._cleanup.callback(Disconnect, si)
        return si


def until(condition: Callable[[], object], what: str, deadline_s: float = 20) -> None:
    end = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < end, f"not in time: {what}"
        time.sleep(0.02)


@contextmanager
def running(folder: Path, description: Description) -> Iterator[VCenter]:
    (folder / "site.json").write_text(description.to_json())
    names = {user.name: PASSWORD for user in description.users}
    (folder / "passwords.json").write_text(json.dumps(names))
    command = [build.vcsim_binary(), "--state-dir", folder, "--description", folder / "site.json"]
    lifeline, own = os.pipe()
    with ExitStack() as cleanup:
        arguments = [*map(str, command), "--parent-fd", str(lifeline)]
        process = subprocess.Popen(arguments, pass_fds=[lifeline], stderr=subprocess.DEVNULL)
        os.close(lifeline)
        cleanup.callback(process.wait, timeout=20)
        cleanup.callback(os.close, own)
        ready = folder / "ready.json"
        until(lambda: ready.exists() or process.poll() is not None, "the simulated vCenter answers")
        yield VCenter(folder, json.loads(ready.read_text()), cleanup)


@pytest.fixture
def vcenter(tmp_path: Path) -> Iterator[VCenter]:
    with running(tmp_path, describe(hosts=2, vms=3).model_copy(update={"timings": NO_TIME})) as v:
        yield v


def everything(si: vim.ServiceInstance, kind: type) -> list[Any]:
    manager = si.content.viewManager
    assert manager is not None
    view = manager.CreateContainerView(si.content.rootFolder, [kind], True)
    try:
        return list(view.view)
    finally:
        view.Destroy()


def finished(task: vim.Task) -> vim.TaskInfo:
    until(lambda: task.info.state not in {"queued", "running"}, f"the end of {task}")
    return task.info


def made_by(task: vim.Task) -> vim.VirtualMachine:
    machine = finished(task).result
    assert isinstance(machine, vim.VirtualMachine)
    return machine


WHOLE_OBJECTS = {
    vim.VirtualMachine: "runtime summary config guest capability layoutEx storage network snapshot",
    vim.HostSystem: "config hardware summary runtime capability configManager vm network datastore",
    vim.ClusterComputeResource: "summary host configurationEx resourcePool environmentBrowser",
    vim.ResourcePool: "runtime config summary vm owner",
    vim.Datastore: "summary info host vm capability",
    vim.Network: "summary vm host name",
    vim.Folder: "childEntity childType name",
}


@pytest.mark.parametrize("api_version", VERSIONS)
def test_whole_objects_can_be_read(tmp_path: Path, api_version: str) -> None:
    about = About(api_version=api_version, version=VERSIONS[api_version])
    with running(tmp_path, describe(hosts=1, vms=1).model_copy(update={"about": about})) as v:
        si = v.connect()
        seen = si.content.about
        assert (seen.apiVersion, seen.version) == (api_version, VERSIONS[api_version])
        for kind, names in WHOLE_OBJECTS.items():
            for item in everything(si, kind):
                assert all(str(getattr(item, name)) for name in names.split())
        machine = next(m for m in everything(si, vim.VirtualMachine) if not m.config.template)
        assert machine.runtime.faultToleranceState == "notConfigured"
        assert machine.summary.runtime.powerState == "poweredOn"
        assert machine.snapshot is None
        assert machine.parentVApp is None


def test_refusal_has_its_reason(vcenter: VCenter) -> None:
    si = vcenter.connect()
    host = everything(si, vim.HostSystem)[0]
    machine = made_by(clone(si, host, device_id="5624"))  # decimal: what many get wrong
    error = finished(machine.PowerOnVM_Task()).error
    assert isinstance(error, vim.fault.GenericVmConfigFault)
    # pyVmomi's stubs leave it out.
    assert error.msg == "Module 'DevicePowerOn' power on failed."  # type: ignore[attr-defined]
    messages = " ".join(str(message.message) for message in error.faultMessage)
    assert "The systemId does not match the current system" in messages
    assert finished(machine.Destroy_Task()).state == "success"
    right = made_by(clone(si, host, device_id="15f8"))
    assert finished(right.PowerOnVM_Task()).state == "success"


def test_guestinfo_reaches_another_session(vcenter: VCenter) -> None:
    product, tools = vcenter.connect(), vcenter.connect("tools@lab.local")
    host = everything(product, vim.HostSystem)[0]
    machine = made_by(clone(product, host))
    assert finished(machine.PowerOnVM_Task()).state == "success"
    spec = COLLECTOR.FilterSpec(
        objectSet=[COLLECTOR.ObjectSpec(obj=machine)],
        propSet=[COLLECTOR.PropertySpec(type=vim.VirtualMachine, pathSet=["config.extraConfig"])],
    )
    collector = product.content.propertyCollector
    collector.CreateFilter(spec, partialUpdates=False)
    first = collector.WaitForUpdatesEx("", None)
    assert first is not None
    key = vim.option.OptionValue(key="guestinfo.gpuvm.ssh_host_keys", value="AAAA")
    by_tools = next(m for m in everything(tools, vim.VirtualMachine) if m._moId == machine._moId)
    finished(by_tools.ReconfigVM_Task(vim.vm.ConfigSpec(extraConfig=[key])))
    update = collector.WaitForUpdatesEx(first.version, COLLECTOR.WaitOptions(maxWaitSeconds=10))
    assert update is not None
    change = update.filterSet[0].objectSet[0].changeSet[0]
    assert (key.key, key.value) in [(option.key, option.value) for option in change.val]


def clone(si: vim.ServiceInstance, host: vim.HostSystem, device_id: str = "15f8") -> vim.Task:
    """One task that makes a VM with the host's first GPU."""
    cluster = everything(si, vim.ClusterComputeResource)[0]
    target = cluster.environmentBrowser.QueryConfigTarget(host)
    found = next(p for p in target.pciPassthrough if p.pciDevice.vendorId == 0x10DE)
    backing = vim.vm.device.VirtualPCIPassthrough.DeviceBackingInfo(
        deviceName=found.pciDevice.deviceName,
        id=found.pciDevice.id,
        deviceId=device_id,
        systemId=found.systemId,
        vendorId=found.pciDevice.vendorId,
    )
    device = vim.vm.device.VirtualPCIPassthrough(key=-100, backing=backing)
    template = next(m for m in everything(si, vim.VirtualMachine) if m.config.template)
    options = {"pciPassthru.use64bitMMIO": "TRUE", "pciPassthru.64bitMMIOSizeGB": "32"}
    config = vim.vm.ConfigSpec(
        memoryReservationLockedToMax=True,
        deviceChange=[vim.vm.device.VirtualDeviceSpec(operation="add", device=device)],
        extraConfig=[vim.option.OptionValue(key=k, value=v) for k, v in options.items()],
    )
    where = vim.vm.RelocateSpec(host=host, pool=cluster.resourcePool)
    spec = vim.vm.CloneSpec(location=where, config=config, powerOn=False, template=False)
    task: vim.Task = template.CloneVM_Task(template.parent, f"clone-{device_id}", spec)
    return task
