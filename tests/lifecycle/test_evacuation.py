"""Hosts that must be rebooted while VMs run there: which VMs are moved, which stay, and why."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from simulated_vcenter import QUICK, Rig, rig_of

from gpuvm import lifecycle
from gpuvm.errors import PreflightRefused, TaskFailed
from gpuvm.events import Events
from gpuvm.lab.description import About, VMDescription, cluster_services, describe
from gpuvm.lifecycle import SwitchResult
from gpuvm.vsphere import VSphere

FIRST, SECOND, THIRD = (f"esx-0{n}.lab.local" for n in range(1, 4))
GPU = "0000:3b:00.0"


@contextmanager
def site(home: Path, name: str, *vms: VMDescription, hosts: int = 2, **shape: Any) -> Iterator[Rig]:
    usual = describe(hosts=hosts)
    timings = QUICK.model_copy(update={"reboot_s": 0.2})
    changes = {"timings": timings, "vms": (*vms, *usual.vms), **shape}
    with rig_of(home, name, usual.model_copy(update=changes)) as rig:
        yield rig


def disable(connection: VSphere, host: str) -> tuple[SwitchResult, ...]:
    inventory = connection.read_inventory()
    return lifecycle.switch_passthrough(
        lifecycle.choose_hosts([host], inventory),
        connection,
        connection.read_inventory,
        Events(),
        enabled=False,
        reboot=True,
    )


def moved(connection: VSphere, *hosts: str) -> dict[str, tuple[str, ...]]:
    chosen = lifecycle.choose_hosts(hosts, connection.read_inventory())
    return lifecycle.moved_first(chosen, connection, enabled=False)


def running(connection: VSphere, host: str) -> list[str]:
    (one,) = [h for h in connection.read_inventory().hosts if h.name == host]
    return [vm.name for vm in connection.residents(one) if not vm.agent]


def test_agents_of_vcenter_do_not_prevent_a_reboot(home: Path) -> None:
    """The usual lab, without DRS: each host that has an agent is rebooted."""
    with site(home, "agents") as rig, rig.connect() as connection:
        (agent,) = connection.residents(connection.read_inventory().hosts[0])
        assert agent.agent
        assert agent.name.startswith("vCLS-")
        assert moved(connection, FIRST) == {}
        (card,) = disable(connection, FIRST)
        assert card.done, card.error
        assert not card.in_maintenance_mode


def test_drs_moves_what_it_can_and_other_vms_are_named(home: Path) -> None:
    vms = (
        VMDescription(name="worker", host=FIRST),
        VMDescription(name="trainer", host=SECOND, gpu=GPU),
        VMDescription(name="anchored", host=SECOND, drs="manual"),
        VMDescription(name="exempt", host=SECOND, drs="disabled"),
        VMDescription(name="light", host=SECOND),
    )
    with site(home, "drs", *vms, drs=True) as rig, rig.connect() as connection:
        assert moved(connection, FIRST, SECOND) == {FIRST: ("worker",)}
        (card,) = disable(connection, SECOND)
        assert isinstance(card.error, PreflightRefused)
        assert str(card.error).endswith(
            "anchored (DRS is not fully automated for it), exempt (DRS is off for it), "
            "trainer (it has a passthrough device)"
        )
        assert card.gpu.enabled
        (card,) = disable(connection, FIRST)
        assert card.done, card.error
        assert running(connection, FIRST) == []
        assert "worker" in running(connection, SECOND)


@pytest.mark.parametrize(
    ("name", "shape", "why"),
    [
        ("drs-off", {}, "DRS is off"),
        (
            "drs-manual",
            {"drs": True, "drs_automation": "partiallyAutomated"},
            "DRS is not fully automated",
        ),
        ("alone", {"drs": True, "hosts": 1}, "no other host of the cluster can take it"),
    ],
)
def test_vm_that_cannot_be_moved_is_named_with_the_reason(
    home: Path, name: str, shape: dict[str, Any], why: str
) -> None:
    worker = VMDescription(name="worker", host=FIRST)
    with site(home, name, worker, **shape) as rig, rig.connect() as connection:
        assert moved(connection, FIRST) == {}
        (card,) = disable(connection, FIRST)
        assert str(card.error).endswith(f"does not move these running VMs: worker ({why})")
        assert card.gpu.enabled


@pytest.mark.parametrize("option", [False, True])
def test_vgpus_are_moved_where_the_cluster_option_is_set(home: Path, option: bool) -> None:
    """The host's second card is switched, while a VM runs with a vGPU of the first."""
    shape = describe(hosts=2, gpus_per_host=2, vgpu=True)
    changes = {"timings": QUICK, "drs": True, "vgpu_evacuation": option}
    with (
        rig_of(home, f"vgpu-{option}", shape.model_copy(update=changes)) as rig,
        rig.connect() as connection,
    ):
        vgpu = {"mode": "vgpu", "profile": "grid_p100-8q"}
        rig.provision(connection, rig.plan(connection, hosts=1, accelerator=vgpu))
        (vm,) = rig.own_vms(connection, "gpuvm")
        (host,) = [h for h in connection.read_inventory().hosts if h.name == vm.host]
        (resident,) = [one for one in connection.residents(host) if not one.agent]
        assert ("vGPU" in resident.stays) is not option
        free = next(gpu for gpu in host.gpus if not gpu.holders)
        (card,) = lifecycle.switch_passthrough(
            [host],
            connection,
            connection.read_inventory,
            Events(),
            enabled=True,
            gpus=[free.pci_address],
            reboot=True,
        )
        assert card.done is option, card.error
        (vm,) = rig.own_vms(connection, "gpuvm")
        assert (vm.host != host.name) is option


def test_host_that_cannot_be_evacuated_names_its_vms(home: Path) -> None:
    """Before 8.0.3 agents need DRS, too; that is known when the task has failed, and not before."""
    about = About(version="7.0.3", api_version="7.0.3.0")
    with site(home, "left", about=about) as rig, rig.connect() as connection:
        rig.fault("EnterMaintenanceMode_Task", "Timedout", where="task")
        (card,) = disable(connection, FIRST)
        assert isinstance(card.error, TaskFailed)
        assert "vCLS-" in (card.error.hint or "")
        assert "(DRS is off); retreat mode" in (card.error.hint or "")


def test_the_number_of_agents() -> None:
    assert [cluster_services(hosts).count for hosts in (1, 2, 64)] == [1, 2, 2]
