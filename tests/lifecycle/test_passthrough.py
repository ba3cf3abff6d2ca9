"""Enabling and disabling passthrough, and hosts whose reboot fails."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from simulated_vcenter import QUICK, Rig, batches, rig_of

from gpuvm import lifecycle
from gpuvm.errors import Interrupted, PreflightRefused, TaskFailed
from gpuvm.events import Event, Events
from gpuvm.inventory import Host
from gpuvm.lab.description import Passthrough, VMDescription, describe
from gpuvm.lifecycle import SwitchResult
from gpuvm.vsphere import HostChanged, VSphere

PLAIN, HALF, RIGID, BUSY = (f"esx-0{n}.lab.local" for n in range(1, 5))


@pytest.fixture(scope="module")
def site(home: Path) -> Iterator[Rig]:
    """A plain host; one with an incapable GPU; one that does not reboot; one where a VM runs."""
    shape = describe(hosts=4, gpus_per_host=2)
    off = Passthrough(enabled=False, active=False)
    none = Passthrough(capable=False, enabled=False, active=False)
    hosts = [
        host.model_copy(
            update={"gpus": tuple(g.model_copy(update={"passthrough": off}) for g in host.gpus)}
        )
        for host in shape.hosts
    ]
    unable = hosts[1].gpus[0].model_copy(update={"passthrough": none})
    hosts[1] = hosts[1].model_copy(update={"gpus": (unable, hosts[1].gpus[1])})
    hosts[2] = hosts[2].model_copy(update={"no_reboot": True})
    worker = VMDescription(name="worker", host=BUSY)
    timings = QUICK.model_copy(update={"reboot_s": 0.3})
    shape = shape.model_copy(update={"hosts": tuple(hosts), "timings": timings, "vms": (worker,)})
    with rig_of(home, "passthrough", shape) as rig:
        yield rig


@pytest.fixture
def connection(site: Rig) -> Iterator[VSphere]:
    """The plain host, restored to its initial state after the test."""
    with site.connect() as connection:
        yield connection
        site.clear_faults()
        _switch(connection, PLAIN, enabled=False, leave=True)
        now = _host(connection, PLAIN)
        assert not any(gpu.enabled or gpu.active for gpu in now.gpus)
        assert not now.in_maintenance_mode


def _host(connection: VSphere, name: str) -> Host:
    found = connection.read_inventory().host(name)
    assert found is not None
    return found


def _switch(
    connection: VSphere,
    name: str,
    *,
    enabled: bool = True,
    gpus: Sequence[str] = (),
    leave: bool = False,
    sink: Callable[[Event], None] = lambda _: None,
) -> tuple[SwitchResult, ...]:
    return lifecycle.switch_passthrough(
        [_host(connection, name)],
        connection,
        connection.read_inventory,
        Events(sink),
        enabled=enabled,
        gpus=gpus,
        reboot=True,
        leave_maintenance=leave,
    )


@pytest.mark.parametrize("where", ["call", "task"])
def test_failed_reboot_leaves_no_maintenance_mode(
    site: Rig, connection: VSphere, where: str
) -> None:
    site.fault("RebootHost_Task", "HostCommunication", where=where)
    switched = _switch(connection, PLAIN)
    assert isinstance(switched[0].error, TaskFailed)
    assert str(switched[0].error).startswith(f"{PLAIN}: reboot failed")
    assert not switched[0].in_maintenance_mode
    assert all(one.done for one in _switch(connection, PLAIN))


def test_refused_maintenance_mode_prevents_the_reboot(site: Rig, connection: VSphere) -> None:
    site.fault("EnterMaintenanceMode_Task", "Timedout", where="task")
    site.reset_calls()
    (first, _) = _switch(connection, PLAIN)
    assert "maintenance mode failed" in str(first.error)
    assert not first.in_maintenance_mode
    assert "RebootHost_Task" not in site.calls()


def test_an_administrators_maintenance_mode_stays(site: Rig, connection: VSphere) -> None:
    site.post(f"/hosts/{PLAIN}/maintenance")
    switched = _switch(connection, PLAIN)
    assert all(one.done and one.in_maintenance_mode for one in switched)
    switched = _switch(connection, PLAIN, leave=True)
    assert all(one.done and not one.in_maintenance_mode for one in switched)


def test_interrupt_before_the_reboot_reverts_it(connection: VSphere) -> None:
    with pytest.raises(Interrupted, match=f"{PLAIN} is not in maintenance mode"):
        _switch(connection, PLAIN, sink=_interrupting("rebooting"))


def test_interrupt_during_the_reboot_shows_how_to_continue(site: Rig, connection: VSphere) -> None:
    site.drop_after("RebootHost_Task")
    with pytest.raises(Interrupted) as caught:
        _switch(connection, PLAIN, sink=_interrupting("note"))
    assert "in maintenance mode" in str(caught.value)
    assert caught.value.left == (PLAIN,)
    command = f"gpuvm passthrough enable {PLAIN} --reboot --leave-maintenance"
    assert command in (caught.value.hint or "")
    _await_reconnection(connection, PLAIN)
    switched = _switch(connection, PLAIN, leave=True)
    assert all(one.done and not one.in_maintenance_mode for one in switched)


@pytest.mark.parametrize(
    "method",
    [
        "UpdatePassthruConfig",
        "EnterMaintenanceMode_Task",
        "RebootHost_Task",
        "ExitMaintenanceMode_Task",
    ],
)
def test_lost_answers_are_looked_up(site: Rig, connection: VSphere, method: str) -> None:
    site.drop_after(method)
    site.reset_calls()
    switched = _switch(connection, PLAIN)
    assert all(one.done and one.error is None for one in switched), switched
    assert not any(one.in_maintenance_mode for one in switched)
    assert site.calls()[method] == 1


def test_the_capable_gpus_of_a_host_are_switched(connection: VSphere) -> None:
    unable, able = _switch(connection, HALF)
    assert able.done
    assert able.error is None
    assert isinstance(unable.error, PreflightRefused)
    assert "is not capable" in str(unable.error)


@pytest.mark.parametrize(
    ("host", "why"), [(RIGID, "vCenter cannot reboot"), (BUSY, "worker (DRS is off)")]
)
def test_nothing_is_set_where_the_reboot_is_refused(
    connection: VSphere, host: str, why: str
) -> None:
    switched = _switch(connection, host)
    assert all(why in str(one.error) for one in switched), switched
    assert not any(one.changed or one.gpu.enabled for one in switched)


def _interrupting(name: str) -> Callable[[Event], None]:
    def sink(event: Event) -> None:
        if event.name == name:
            raise KeyboardInterrupt

    return sink


def _await_reconnection(connection: VSphere, name: str) -> None:
    host = _host(connection, name)
    with connection.update_stream() as stream:
        stream.follow_host(name, host.moref)
        for batch in batches(stream, 10.0):
            states = [change for change in batch if isinstance(change, HostChanged)]
            if any(state.connected and state.active for state in states):
                return


def test_only_the_named_card_is_switched(connection: VSphere) -> None:
    second = _host(connection, PLAIN).gpus[1]
    (switched,) = _switch(connection, PLAIN, gpus=[second.pci_address])
    assert switched.gpu.pci_address == second.pci_address
    assert switched.done
    assert [gpu.enabled for gpu in _host(connection, PLAIN).gpus] == [False, True]


def test_gpu_with_vgpus_is_not_switched(home: Path) -> None:
    """Neither gpuvm nor the host itself takes it from the VM that runs with it."""
    shape = describe(hosts=1, vgpu=True).model_copy(update={"timings": QUICK})
    with rig_of(home, "serving", shape) as rig, rig.connect() as connection:
        vgpu = {"mode": "vgpu", "profile": "grid_p100-8q"}
        assert not rig.provision(connection, rig.plan(connection, accelerator=vgpu)).failed
        host = connection.read_inventory().hosts[0]
        (card,) = lifecycle.switch_passthrough(
            [host], connection, connection.read_inventory, Events(), enabled=True
        )
        assert isinstance(card.error, PreflightRefused)
        assert "gpuvm-01" in str(card.error)
        assert not card.gpu.enabled
        with pytest.raises(TaskFailed, match="in use by a virtual machine"):
            connection.switch_passthrough(host, [card.gpu.dependent_device], enabled=True)


def test_dependent_devices_are_switched_together(home: Path) -> None:
    """Naming one card is naming all that go with it, and a VM that runs with any keeps them."""
    shape = describe(hosts=1, gpus_per_host=2)
    (first, second) = shape.hosts[0].gpus
    pair = (first, second.model_copy(update={"dependent_device": first.pci_address}))
    hosts = (shape.hosts[0].model_copy(update={"gpus": pair}),)
    shape = shape.model_copy(
        update={
            "timings": QUICK,
            "hosts": hosts,
            "vms": (VMDescription(name="trainer", host=hosts[0].name, gpu=second.pci_address),),
        }
    )
    with rig_of(home, "pair", shape) as rig, rig.connect() as connection:
        switched = lifecycle.switch_passthrough(
            [connection.read_inventory().hosts[0]],
            connection,
            connection.read_inventory,
            Events(),
            enabled=False,
            gpus=[first.pci_address],
        )
        assert {one.gpu.pci_address for one in switched} == {g.pci_address for g in pair}
        assert all(isinstance(one.error, PreflightRefused) for one in switched)
        assert f"{second.pci_address} by trainer" in str(switched[0].error)
        assert all(gpu.enabled for gpu in connection.read_inventory().gpus)
