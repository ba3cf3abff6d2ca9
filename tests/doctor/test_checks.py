"""The checks of doctor; each case changes one property of a healthy site."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
from healthy_site import SITE, TEMPLATE, UUID, VMFS, gpu, host

from gpuvm import doctor, ownership, privileges
from gpuvm.devices import Holder, VGPUProfile
from gpuvm.doctor import Check, CheckInput
from gpuvm.inventory import (
    VM,
    Datastore,
    Inventory,
    Licence,
    MoRef,
    Network,
)
from gpuvm.spec import ClusterSpec

LOCAL = "local-of-esx-02"
ADDRESSES = {"first": "10.0.0.1", "last": "10.0.0.9", "prefix": 24}
VGPU = {"mode": "vgpu", "profile": "grid_p100-4q"}


def examined(
    inventory: Inventory = SITE,
    missing: Mapping[MoRef, Sequence[str]] | None = None,
    licences: Mapping[str, Licence] | None = None,
    **spec_options: Any,
) -> list[Check]:
    spec = ClusterSpec.model_validate(spec_options)
    trial = doctor.make_trial_plan(spec, inventory)
    given = CheckInput(spec, inventory, trial, missing or {}, "ca", licences)
    return list(doctor.run_checks(given))


def of(checks: Sequence[Check], level: str) -> list[tuple[str, str]]:
    return [(check.name, check.text) for check in checks if check.level == level]


def line(checks: Sequence[Check], name: str) -> str:
    return next(check.text for check in checks if check.name == name)


def asked(inventory: Inventory = SITE, **spec_options: Any) -> privileges.Required:
    spec = ClusterSpec.model_validate(spec_options)
    used = doctor.make_trial_plan(spec, inventory).used
    return privileges.to_provision(spec, inventory, used)


def test_a_healthy_site_is_all_ok() -> None:
    checks = examined(hosts=2)
    assert {check.level for check in checks} == {"ok"}
    assert line(checks, "plan") == "VMs: 2 to create"
    assert "2 clones of tf need 86 GiB" in line(checks, "datastore")


def test_plan_is_tried_and_reports_each_problem_once() -> None:
    """A problem that another check reports is not reported again by the plan check."""
    bios = replace(SITE, templates=(replace(TEMPLATE, firmware="bios"),))
    assert of(examined(bios), "failure") == [
        ("template", "tf: its firmware is bios; Tesla P100 in passthrough needs EFI")
    ]
    (refused,) = of(examined(hosts=3), "failure")
    assert refused == ("plan", "3 more VMs needed, GPUs has 2 hosts left with 1 free GPU")


def test_all_reasons_for_a_refusal_are_reported() -> None:
    reported = of(examined(hosts=3, datastore="nowhere"), "failure")
    assert [name for name, _ in reported] == ["plan", "plan"]
    assert reported[0][1] == "datastore 'nowhere' not found"


def test_skipped_host_is_reported_once() -> None:
    away = replace(SITE, hosts=(host("esx-01", in_maintenance_mode=True), host("esx-02")))
    reported = [check.text for check in examined(away) if "esx-01" in check.text]
    assert reported == ["esx-01 is left out: in maintenance mode"]


def test_a_warning_does_not_hide_the_plans_refusal() -> None:
    both = (replace(TEMPLATE, firmware="bios"), replace(TEMPLATE, name="b", firmware="bios"))
    assert ("plan", "no suitable VM template") in of(
        examined(replace(SITE, templates=both)), "failure"
    )


def test_the_datastore_is_that_of_the_hosts_that_the_plan_uses() -> None:
    """The second host has none in common with the first, and is not needed."""
    local = Datastore(LOCAL, "store-2", 4000, accessible=True)
    apart = replace(
        SITE,
        hosts=(host("esx-01"), host("esx-02", datastores=("store-2",))),
        datastores=(*SITE.datastores, local),
    )
    assert line(examined(apart), "datastore").startswith(VMFS)
    assert not of(examined(apart), "failure")


def test_privileges_are_checked_on_the_objects_of_the_plan() -> None:
    other = replace(
        SITE,
        templates=(TEMPLATE, replace(TEMPLATE, name="other", moref="vm-2")),
        datastores=(*SITE.datastores, Datastore("other", "store-2", 9, accessible=True)),
        networks=(*SITE.networks, Network("other", "net-2")),
    )
    wanted = asked(other, template="tf", network="VM Network")
    assert set(wanted) == {"folder-1", "pool-1", "vm-1", "store-1", "net-1"}


@pytest.mark.parametrize(
    ("spec_options", "where", "privilege"),
    [
        ({}, "folder-1", "VirtualMachine.Config.AddRemoveDevice"),
        ({}, "folder-1", "VirtualMachine.Config.Resource"),
        ({"clone_mode": "linked"}, "vm-1", "VirtualMachine.State.CreateSnapshot"),
        ({"clone_mode": "linked"}, "vm-1", "VirtualMachine.Provisioning.MarkAsVM"),
        ({"network": "VM Network"}, "folder-1", "VirtualMachine.Config.EditDevice"),
    ],
)
def test_privileges_depend_on_the_spec(spec_options: Any, where: str, privilege: str) -> None:
    assert privilege in asked(**spec_options)[where]
    assert privilege not in asked(accelerator={"mode": "none"})[where]


def test_missing_privileges_are_named_with_their_object() -> None:
    missing = {"folder-1": ("VirtualMachine.Interact.PowerOn",), "pool-1": privileges.POOL}
    reported = dict(of(examined(missing=missing), "failure"))
    assert reported["privileges"] == (
        "missing: VirtualMachine.Interact.PowerOn on folder /Lab/vm; "
        "Resource.AssignVMToPool on resource pool /Lab/host/GPUs/Resources"
    )


def test_vms_are_moved_at_start_but_not_under_drs() -> None:
    missing = {"folder-1": privileges.MOVE}
    dynamic: dict[str, Any] = {"accelerator": {"mode": "dynamic"}}
    assert not of(examined(missing=missing), "warning"), "a fixed GPU stays"
    reported = examined(missing=missing, **dynamic)
    assert of(reported, "warning") == [
        ("privileges", "missing: Resource.ColdMigrate on folder /Lab/vm")
    ]
    drs = replace(SITE, cluster=replace(SITE.cluster, drs_places=True))
    assert not of(examined(drs, missing, **dynamic), "warning")


def test_unchecked_privileges_are_reported() -> None:
    several = replace(SITE, networks=(*SITE.networks, Network("other", "net-2")))
    assert line(examined(several), "privileges").endswith(
        "since not yet chosen: template's network"
    )


def test_licences() -> None:
    plus = Licence("vSphere 8 Enterprise Plus")
    standard = Licence("vSphere 8 Standard", "2026-01-31", expired=True)
    known = {UUID: Licence("vCenter Server 8"), "of-esx-01": plus, "of-esx-02": standard}
    checks = examined(licences=known)
    assert line(checks, "licences") == (
        "vCenter: vCenter Server 8; hosts: 1 with vSphere 8 Enterprise Plus, "
        "1 with vSphere 8 Standard (until 2026-01-31)"
    )
    assert of(checks, "warning") == [
        ("licences", "esx-02: vSphere 8 Standard expired on 2026-01-31")
    ]
    with_vgpu = examined(licences=known, accelerator=VGPU)
    assert ("licences", "esx-02: vSphere 8 Standard does not include vGPUs") in of(
        with_vgpu, "warning"
    )
    assert "licence server" in line(with_vgpu, "vGPU licence")


def test_licences_that_cannot_be_read_are_no_failure() -> None:
    assert ("licences", "unknown: they could not be read") in of(examined(), "ok")


@pytest.mark.parametrize(
    ("api", "mode", "level"),
    [
        ("6.7.0", "passthrough", "warning"),
        ("6.7.0", "dynamic", "failure"),
        ("7.0.3", "dynamic", "ok"),
        ("8.0.3.0", "dynamic", "ok"),
    ],
)
def test_dynamic_needs_api_7(api: str, mode: str, level: str) -> None:
    old = replace(SITE, vcenter=replace(SITE.vcenter, api_version=api))
    checks = examined(old, accelerator={"mode": mode})
    assert checks[0].level == level
    assert bool(of(checks, "failure")) == (level == "failure")
    assert len(of(checks, "failure")) <= 1, "neither template nor plan says it again"


def test_an_old_host_under_a_new_vcenter() -> None:
    old = replace(SITE, hosts=(host("esx-01", version="6.7.0"), host("esx-02")))
    assert of(examined(old, accelerator={"mode": "dynamic"}), "warning") == [
        (
            "hosts",
            "esx-01: ESXi 6.7.0 has no Dynamic DirectPath I/O, available since 7.0",
        ),
        (
            "plan",
            (
                "esx-01 is left out: ESXi 6.7.0 runs virtual hardware up to version 15, "
                "the template has 17"
            ),
        ),
    ]


def test_vgpu_driver_is_detected_by_the_offered_profiles() -> None:
    shared = {"enabled": False, "active": False, "shared_direct": True}
    quarters = (VGPUProfile("grid_p100-4q", 4),)
    offering = host("esx-01", gpus=(gpu("esx-01", profiles=quarters, **shared),))
    without = host("esx-02", gpus=(gpu("esx-02", **shared),))
    checks = examined(replace(SITE, hosts=(offering, without, host("esx-03"))), accelerator=VGPU)
    reported = [(check.level, check.text) for check in checks if check.name == "vGPU"]
    assert [level for level, _ in reported] == ["ok", "failure", "warning"]
    assert "offers grid_p100-4q" in reported[0][1]
    assert "the host offers no vGPU type" in reported[1][1]
    assert "cannot be checked" in reported[2][1]
    lenient = examined(replace(SITE, hosts=(without, host("esx-03"))))
    assert not of(lenient, "failure"), "another spec does not need it"


def test_warning_for_a_shared_gpu_that_the_next_reboot_switches() -> None:
    """Also while it is in use, because whoever reboots the host may not know."""
    user = Holder("trainer", powered_on=True, profile="grid_p100-4q")
    going = gpu(
        "esx-01",
        profiles=(VGPUProfile("grid_p100-4q", 4),),
        enabled=True,
        active=False,
        holders=(user,),
    )
    checks = examined(
        replace(SITE, hosts=(host("esx-01", gpus=(going,)),)), accelerator={"mode": "none"}
    )
    (warning,) = [c for c in checks if c.name == "GPUs" and c.hint]
    assert "host reboot pending" in warning.text
    assert "passthrough disable esx-01 --gpu 0000:3b:00.0" in (warning.hint or "")


def test_existing_vms_need_no_template() -> None:
    """An unsuitable template, or missing privileges on it, do not matter if no VM is created."""
    spec = ClusterSpec()
    made = ownership.instance_uuid(UUID, spec.name, 1)
    vm = VM(
        name="gpuvm-01",
        moref="vm-9",
        host="esx-01",
        powered_on=True,
        instance_uuid=made,
        ownership="ours",
        deployment=spec.name,
        index=1,
        spec_digest=spec.digest(),
    )
    there = replace(SITE, vms=(vm,), templates=(replace(TEMPLATE, firmware="bios"),))
    checks = examined(there)
    assert line(checks, "plan") == "VMs: 1 unchanged"
    assert not of(checks, "failure")
    assert set(asked(there)) == {"folder-1", "pool-1"}
