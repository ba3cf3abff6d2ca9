"""From the inventory to powered-on VMs: what is read, what is changed, in how many calls."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pyVmomi import vim
from simulated_vcenter import Rig, end, quick_site, repair, rig_of

from gpuvm import lifecycle, planner
from gpuvm.devices import PassthroughDevice
from gpuvm.errors import Ambiguous, NotFound, TaskFailed, Unplaceable
from gpuvm.events import Events
from gpuvm.inventory import VM
from gpuvm.lifecycle.clone_request import clone_request
from gpuvm.planner import Plan
from gpuvm.spec import ClusterSpec
from gpuvm.vsphere import Task, VSphere

CONSTANT, PER_VM = 20, 6
UNRELATED = 1000


@pytest.fixture(scope="module")
def large(home: Path) -> Iterator[Rig]:
    with rig_of(home, "large", quick_site(64)) as rig:
        yield rig


@pytest.fixture
def crowded(home: Path) -> Iterator[Rig]:
    """A separate vCenter, because reading a thousand VMs would slow down the other tests."""
    with rig_of(home, "crowded", quick_site(4)) as rig:
        yield rig


def _plan(connection: VSphere, hosts: int = 4, name: str = "gpuvm") -> Plan:
    return lifecycle.make_plan(ClusterSpec(hosts=hosts, name=name), connection)


def _provision(rig: Rig, name: str, hosts: int = 4) -> dict[str, int]:
    """Login and logout included; returns the calls by method."""
    rig.reset_calls()
    with rig.connect() as connection:
        plan = _plan(connection, hosts, name)
        result = lifecycle.provision(plan, connection, rig.context, Events(), until="address")
        assert not result.failed, result
    return dict(rig.calls())


def _round_trips(calls: dict[str, int]) -> int:
    return sum(n for method, n in calls.items() if method != "WaitForUpdatesEx")


def test_gpus_and_their_holders(rig: Rig) -> None:
    with rig.connect() as connection:
        gpus = connection.read_inventory().gpus
    states = {gpu.host: gpu.state for gpu in gpus}
    assert states["esx-01.lab.local"] == "free"
    assert states["esx-05.lab.local"] == "held by trainer (powered on)"
    assert states["esx-06.lab.local"] == "held by sleeper (powered off)"
    assert {(gpu.vendor_id, gpu.device_id, gpu.memory_gib) for gpu in gpus} == {
        (0x10DE, 0x15F8, 16)
    }


def test_equal_addresses_have_their_own_hosts_system_id(rig: Rig) -> None:
    with rig.connect() as connection:
        gpus = connection.read_inventory().gpus
    assert len({gpu.pci_address for gpu in gpus}) == 1
    assert len({gpu.system_id for gpu in gpus}) == len(gpus)


def test_more_than_is_free_is_refused_with_the_table(rig: Rig) -> None:
    with rig.connect() as connection, pytest.raises(Unplaceable) as caught:
        _plan(connection, hosts=5)
    assert "trainer" in str(caught.value.table)


@pytest.mark.parametrize("what", ["cluster", "folder", "resource_pool"])
def test_unknown_names(rig: Rig, what: str) -> None:
    with rig.connect() as connection, pytest.raises((NotFound, Ambiguous)) as caught:
        connection.read_inventory(**{what: "nowhere"})
    assert "nowhere" in str(caught.value)


def test_clone_is_complete_when_it_is_read_back(rig: Rig) -> None:
    with rig.connect() as connection:
        plan = _plan(connection, hosts=1, name="whole")
        request = clone_request(plan, plan.steps[0], rig.context, "ssh-ed25519 AAAA test")
        vm = _clone(connection, request)
        assert connection.start_repair(vm, request) is None, "nothing is left to mend"
    assert vm.ownership == "ours"
    assert vm.memory_locked
    assert not vm.hot_add
    assert not vm.powered_on
    assert vm.instance_uuid == request.instance_uuid
    assert vm.extra_config["pciPassthru.64bitMMIOSizeGB"] == "64"
    (device,) = vm.devices
    assert isinstance(device, PassthroughDevice)
    assert device.device_id == "15f8", "unsigned hex without 0x"
    assert device.vendor_id == 0x10DE
    assert device.system_id == plan.steps[0].gpus[0].system_id
    rig.teardown("whole")


def test_differences_are_repaired_by_one_reconfigure(rig: Rig) -> None:
    with rig.connect() as connection:
        plan = _plan(connection, hosts=1, name="mended")
        request = clone_request(plan, plan.steps[0], rig.context, "ssh-ed25519 AAAA test")
        vm = _clone(connection, replace(request, devices=(), annotation="other"))
        assert repair(connection, vm, request).error is None
        (again,) = connection.read_vms([vm.moref])
        assert connection.start_repair(again, request) is None
    assert again.memory_locked
    assert len(again.devices) == 1
    rig.teardown("mended")


def test_given_options_are_read_back(rig: Rig) -> None:
    """They are part of the clone, so nothing is reconfigured unless it differs from the spec."""
    options = {"sched.cpu.latencySensitivity": "high", "disk.EnableUUID": "TRUE", "removed": ""}
    rig.reset_calls()
    with rig.connect() as connection:
        plan = rig.plan(connection, hosts=2, name="options", extra_config=options)
        assert not rig.provision(connection, plan).failed
        (first, _) = rig.own_vms(connection, "options")
        assert first.extra_config["disk.EnableUUID"] == "TRUE"
    assert "ReconfigVM_Task" not in rig.calls()
    rig.teardown("options")


def test_start_keeps_settings_outside_the_vms_creation_spec(rig: Rig) -> None:
    """gpuvm.yaml may have changed since; a start was not planned to change the VM."""
    with rig.connect() as connection:
        rig.provision(connection, rig.plan(connection, hosts=1, name="as-it-was"))
        (vm,) = rig.own_vms(connection, "as-it-was")
        lifecycle.stop([vm], connection, Events(), grace_s=0)
        (vm,) = rig.own_vms(connection, "as-it-was")
        today = ClusterSpec(name="as-it-was", extra_config={"disk.EnableUUID": "TRUE"})
        rig.reset_calls()
        start = planner.plan_start([vm], today, connection.read_inventory())
        assert not rig.provision(connection, start).failed
    assert "ReconfigVM_Task" not in rig.calls()
    rig.teardown("as-it-was")


def test_manual_copy_is_never_taken_for_an_own_vm(rig: Rig) -> None:
    with rig.connect() as connection:
        plan = _plan(connection, hosts=1, name="copied")
        request = clone_request(plan, plan.steps[0], rig.context, "ssh-ed25519 AAAA test")
        own = _clone(connection, request)
        by_hand = replace(request, name="by-hand", template=own.moref, devices=(), extra_config={})
        copy = _clone(connection, by_hand)
        assert copy.ownership == "copy"
        result = lifecycle.teardown([own, copy], connection, Events())
        assert [o.name for o in result.outcomes] == [own.name]
        assert {vm.name for vm in connection.read_marked()} >= {"by-hand"}
        end(connection, "by-hand", connection.start_destroy(copy.moref))


def test_fault_is_shown_completely_with_a_hint(rig: Rig) -> None:
    """A window that is too small is accepted by the reconfigure and refused at power-on."""
    with rig.connect() as connection:
        plan = _plan(connection, hosts=1, name="faulty")
        request = clone_request(plan, plan.steps[0], rig.context, "ssh-ed25519 AAAA test")
        vm = _clone(connection, replace(request, mmio_gib=1))
        ended = end(connection, vm.name, connection.start_power_on(vm.moref))
        assert isinstance(ended.error, TaskFailed)
        assert "DevicePowerOn" in ended.error.messages[0]
        assert "total number of pages needed" in str(ended.error)
        assert "accelerator.mmio_gib" in (ended.error.hint or "")
    rig.teardown("faulty")


def test_holder_of_a_gpu_taken_meanwhile_is_named(rig: Rig) -> None:
    """Two plans made from one inventory; only the four free GPUs are there to go to."""
    with rig.connect() as connection:
        first, second = _plan(connection, 4, "quick"), _plan(connection, 1, "slow")
        lifecycle.provision(first, connection, rig.context, Events(), until="powered-on")
        result = lifecycle.provision(second, connection, rig.context, Events(), until="powered-on")
        (outcome,) = result.failed
        assert "held by quick-01" in str(outcome.error)
        assert not [vm for vm in connection.read_marked() if vm.deployment == "slow"], (
            "the own VM is removed"
        )
    rig.teardown("quick")


def test_two_vms_that_lose_their_gpus_move_to_two_other_hosts(rig: Rig) -> None:
    with rig.connect() as connection:
        first, second = _plan(connection, 2, "quick"), _plan(connection, 2, "slow")
        lifecycle.provision(first, connection, rig.context, Events(), until="powered-on")
        result = lifecycle.provision(second, connection, rig.context, Events(), until="powered-on")
        assert not result.failed, result
        taken = {step.host.name for step in first.steps}
        hosts = [outcome.host for outcome in result.outcomes]
        assert len(set(hosts)) == 2
        assert not taken & set(hosts)
    rig.teardown("quick")
    rig.teardown("slow")


def test_teardown_continues_if_a_vm_was_powered_off_meanwhile(rig: Rig) -> None:
    with rig.connect() as connection:
        plan = _plan(connection, 1, "stopped")
        lifecycle.provision(plan, connection, rig.context, Events(), until="powered-on")
        (seen,) = [vm for vm in connection.read_marked() if vm.deployment == "stopped"]
        end(connection, seen.name, connection.start_power_off(seen.moref))
        result = lifecycle.teardown([seen], connection, Events())
        assert not result.failed, result
        assert connection.read_vms([seen.moref]) == ()


def test_teardown_continues_if_a_vm_was_powered_on_meanwhile(rig: Rig) -> None:
    with rig.connect() as connection:
        plan = _plan(connection, 1, "started")
        seen = _clone(connection, clone_request(plan, plan.steps[0], rig.context, "ssh-ed25519 A"))
        end(connection, seen.name, connection.start_power_on(seen.moref))
        assert not lifecycle.teardown([seen], connection, Events()).failed
        assert connection.read_vms([seen.moref]) == ()


def test_round_trips_do_not_grow_with_unrelated_vms(crowded: Rig) -> None:
    """A plan takes as many; what follows depends on which VMs get on at the same moment."""
    alone = _planning(crowded)
    crowded.add(name="unrelated-{i}", count=UNRELATED, power="off")
    among_many = _planning(crowded)
    assert _round_trips(among_many) - _pages(among_many) == _round_trips(alone), (alone, among_many)
    whole = _provision(crowded, "crowded")
    crowded.teardown("crowded")
    assert _round_trips(whole) - _pages(whole) <= CONSTANT + 4 * PER_VM, whole


def test_round_trips_do_not_grow_with_hosts(large: Rig) -> None:
    """64 hosts with a GPU each, one of which is the plan's."""
    calls = _provision(large, "one", hosts=1)
    large.teardown("one")
    assert _round_trips(calls) <= CONSTANT + PER_VM, calls
    assert calls["QueryConfigTarget"] == 1


def _planning(rig: Rig) -> dict[str, int]:
    rig.reset_calls()
    with rig.connect() as connection:
        _plan(connection)
    return dict(rig.calls())


def _pages(calls: dict[str, int]) -> int:
    """Only the number of pages of a long answer may grow."""
    return calls.get("ContinueRetrievePropertiesEx", 0)


def _clone(connection: VSphere, request: Any) -> VM:
    ended = end(connection, request.name, connection.start_clone(request))
    assert ended.error is None, ended.error
    (vm,) = connection.read_vms([ended.result or ""])
    return vm


@pytest.mark.parametrize("kind", ["template", "datastore", "network", "cluster"])
def test_everything_is_named_by_name_path_or_moref(rig: Rig, kind: str) -> None:
    """The paths are those that plans and errors print."""
    with rig.connect() as connection:
        inventory = connection.read_inventory()
        found: Any = {
            "template": inventory.templates[0],
            "datastore": inventory.datastores[0],
            "network": inventory.networks[0],
            "cluster": inventory.cluster,
        }[kind]
        assert found.path.startswith("/Lab/")
        for wanted in (found.name, found.path, found.moref):
            assert rig.plan(connection, hosts=1, **{kind: wanted}).created
        with pytest.raises(NotFound, match="nosuch"):
            rig.plan(connection, hosts=1, **{kind: "/Lab/nosuch"})


def test_name_with_a_slash_is_found_unescaped(rig: Rig) -> None:
    """A vCenter stores it as %2f; the vSphere Client shows a slash."""
    with rig.connect() as connection:
        cluster = connection._reference(
            vim.ClusterComputeResource, connection.read_inventory().cluster.moref
        )
        before = cluster.name
        cluster.Rename_Task(newName="GPU%2fCluster")
        try:
            for wanted in ("GPU/Cluster", "GPU%2fCluster"):
                assert connection.read_inventory(cluster=wanted).cluster.moref == cluster._moId
        finally:
            cluster.Rename_Task(newName=before)


def test_ambiguous_template_name(rig: Rig) -> None:
    with rig.connect() as connection:
        one = connection.read_inventory().templates[0]
        top = connection._reference(vim.Folder, connection.read_inventory().cluster.vm_folder)
        archive = top.CreateFolder("Archive")
        template = connection._reference(vim.VirtualMachine, one.moref)
        spec = vim.vm.CloneSpec(location=vim.vm.RelocateSpec(), powerOn=False, template=True)
        task = template.CloneVM_Task(folder=archive, name=one.name, spec=spec)
        twin = end(connection, "twin", Task(task._moId, "clone")).result
        try:
            with pytest.raises(Ambiguous) as caught:
                rig.plan(connection, hosts=1, template=one.name)
            assert set(caught.value.choices) == {one.path, f"/Lab/vm/Archive/{one.name}"}
            for path in caught.value.choices:
                plan = rig.plan(connection, hosts=1, template=path)
                assert plan.template is not None
                assert plan.template.path == path
        finally:
            gone = connection._reference(vim.VirtualMachine, str(twin)).Destroy_Task()
            end(connection, "twin", Task(gone._moId, "destroy"))
            archive.Destroy_Task()
