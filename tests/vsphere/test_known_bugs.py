"""Those of the peers' known bugs (peers, 2.2) that only a vCenter can show; one test for each.

The others are in tests/test_known_bugs.py.
"""

from dataclasses import replace

import pytest
from simulated_vcenter import Rig, end

from gpuvm import lifecycle, planner
from gpuvm.devices import PassthroughDevice
from gpuvm.errors import TaskFailed
from gpuvm.events import Events
from gpuvm.inventory import VM
from gpuvm.lifecycle.clone_request import clone_request
from gpuvm.spec import ClusterSpec
from gpuvm.vsphere import CloneRequest, VSphere

CHANGING = ("Reconfig", "Customize", "PowerOff", "Relocate", "InstantClone", "Upgrade")
OPTION = "sched.cpu.latencySensitivity"


def test_each_host_is_asked_for_its_own_devices(rig: Rig) -> None:
    """vhpc-toolkit, Ray and govc ask QueryConfigTarget without a host: one systemId for all.

    SkyPilot's catalogue ends after the first host.
    """
    with rig.connect() as connection:
        rig.reset_calls()
        inventory = connection.read_inventory()
    assert len(inventory.hosts) == 6
    assert rig.calls()["QueryConfigTarget"] == 6
    assert len({gpu.system_id for gpu in inventory.gpus}) == 6
    assert None not in {gpu.system_id for gpu in inventory.gpus}


@pytest.mark.parametrize(
    "spec_options",
    [
        {},
        {"accelerator": {"mode": "dynamic"}},
        {"addresses": {"first": "127.77.210.1", "last": "127.77.210.9", "prefix": 16}},
    ],
    ids=["fixed", "dynamic", "addresses"],
)
def test_vm_needs_only_two_tasks(rig: Rig, spec_options: dict[str, object]) -> None:
    """vhpc-toolkit reconfigures four times at once, Ray takes six tasks and a power cycle, SkyPilot
    reconfigures and customizes at the same time. A fixed address needs one more: it goes by the MAC
    addresses of the cards, which a VM has once it is made.
    """
    with rig.connect() as connection:
        plan = rig.plan(connection, hosts=2, name="two", **spec_options)
        rig.reset_calls()
        assert not rig.provision(connection, plan).failed
        calls = rig.calls()
    assert (calls["CloneVM_Task"], calls["PowerOnVM_Task"]) == (2, 2)
    assert calls.get("ReconfigVM_Task", 0) == (2 if "addresses" in spec_options else 0)
    assert set(_changing(rig)) <= {"ReconfigVM_Task"}
    rig.teardown("two")


def test_the_device_is_there_at_the_first_power_on(rig: Rig) -> None:
    """Terraform's VM boots without it, and gets it by a second apply (1137)."""
    with rig.connect() as connection:
        plan = rig.plan(connection, hosts=1, name="first-boot")
        rig.fault("PowerOnVM_Task", "NotSupported")
        result = lifecycle.provision(
            plan, connection, rig.context, Events(), until="powered-on", keep_failed=True
        )
        assert isinstance(result.failed[0].error, TaskFailed)
        (vm,) = rig.own_vms(connection, "first-boot")
        assert not vm.powered_on
        assert vm.devices == plan.steps[0].devices
        assert vm.memory_locked
    rig.clear_faults()
    rig.teardown("first-boot")


def test_a_vm_that_runs_is_not_reconfigured(rig: Rig) -> None:
    """vhpc-toolkit does not look at the power state before it changes devices.

    Here somebody powers the VM on between the plan and the repair that it needs.
    """
    with rig.connect() as connection:
        made = rig.plan(connection, hosts=1, name="runs", extra_config={OPTION: "high"})
        rig.provision(connection, made)
        (vm,) = rig.own_vms(connection, "runs")
        lifecycle.stop([vm], connection, Events(), grace_s=0)
        request = clone_request(made, replace(made.steps[0], vm=vm), rig.context, "")
        task = connection.start_repair(vm, replace(request, extra_config={OPTION: "low"}))
        assert task is not None
        end(connection, "by hand", task)
        (off,) = rig.own_vms(connection, "runs")
        plan = planner.plan_start([off], ClusterSpec(name="runs"), connection.read_inventory())
        end(connection, "by hand", connection.start_power_on(off.moref))
        rig.reset_calls()
        assert not rig.provision(connection, plan).failed
        assert not _changing(rig)
        (again,) = rig.own_vms(connection, "runs")
        assert again.extra_config[OPTION] == "low"
    rig.teardown("runs")


def test_running_vm_needs_no_change(rig: Rig) -> None:
    """Ansible needs the VM powered off, and so is never idempotent (1576)."""
    with rig.connect() as connection:
        rig.provision(connection, rig.plan(connection, hosts=1, name="again"))
        rig.reset_calls()
        plan = rig.plan(connection, hosts=1, name="again")
        assert not plan.changes
        assert not rig.provision(connection, plan).failed
        assert not [m for m in rig.calls() if m.endswith("_Task")]
    rig.teardown("again")


def test_a_fixed_device_names_its_host_even_with_drs(rig: Rig) -> None:
    """Terraform's clone without host_system_id fails with an error that says nothing (1918)."""
    with rig.connect() as connection:
        plan = rig.plan(connection, hosts=1, name="pinned")
        drs = replace(plan, cluster=replace(plan.cluster, drs_places=True))
        request = clone_request(drs, drs.steps[0], rig.context, "ssh-ed25519 A")
        assert request.host == plan.steps[0].host.moref
        vm = _cloned(connection, request)
        assert vm.host == plan.steps[0].host.name
        (device,) = vm.devices
        assert isinstance(device, PassthroughDevice)
        assert device.system_id == plan.steps[0].gpus[0].system_id
    rig.teardown("pinned")


def _changing(rig: Rig) -> list[str]:
    return [method for method in rig.calls() if method.startswith(CHANGING)]


def _cloned(connection: VSphere, request: CloneRequest) -> VM:
    ended = end(connection, "clone", connection.start_clone(request))
    assert ended.error is None, ended.error
    (vm,) = connection.read_vms([ended.result or ""])
    return vm
