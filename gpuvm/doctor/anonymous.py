"""A report of a site that can be attached to a public issue: versions, counts, failed checks.

It has only counts and values that the API defines. No name, address, path, id or free text of the
site is included, so nothing has to be redacted.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import gpuvm
from gpuvm.devices import GPU
from gpuvm.doctor.model import Check, CheckInput
from gpuvm.errors import GpuvmError, SeveralRefused, TaskFailed
from gpuvm.inventory import Host, VMTemplate

SCHEMA = 1


def anonymous(given: CheckInput, checks: Sequence[Check]) -> dict[str, Any]:
    """Return the report as JSON data; docs/vsphere-versions.md describes it."""
    inventory = given.inventory
    return {
        "schema": SCHEMA,
        "gpuvm": gpuvm.__version__,
        "vcenter": {
            "version": _version(inventory.vcenter.version),
            "api_version": _version(inventory.vcenter.api_version),
            "tls": given.tls,
        },
        "spec": {
            "accelerator": given.spec.accelerator.mode,
            "placement": given.spec.placement,
            "clone_mode": given.spec.clone_mode,
            "hosts": given.spec.hosts,
            "per_host": given.spec.per_host,
            "named": sorted(
                key
                for key in ("cluster", "template", "datastore", "network", "folder", "addresses")
                if getattr(given.spec, key) is not None
            ),
        },
        "cluster": {
            "drs_places": inventory.cluster.drs_places,
            "hosts": _counted(map(_host, inventory.hosts)),
            "gpus": _counted(map(_gpu, inventory.gpus)),
            "templates": _counted(map(_template, inventory.templates)),
            "datastores": len(inventory.datastores),
            "networks": _counted(
                {"distributed": bool(n.portgroup_key)} for n in inventory.networks
            ),
            "vms_of_gpuvm": len(inventory.vms),
            "vms_without_configuration": len(inventory.unreadable),
            "notes": len(inventory.notes),
        },
        "privileges_missing": sorted({p for several in given.missing.values() for p in several}),
        "checks": _counted({"check": c.name, "level": c.level} for c in checks),
        "refusals": _refusals(given.trial.plan),
    }


def _host(host: Host) -> dict[str, Any]:
    return {
        "esxi": _version(host.version),
        "connection": host.connection_state,
        "in_maintenance_mode": host.in_maintenance_mode,
        "gpus": len(host.gpus),
        "device_groups": len(host.device_groups),
        "rebinds_without_reboot": host.rebinds,
        "tells_hypervisor_memory": host.hypervisor_gib is not None,
        "does_not_answer": bool(host.problem),
        "not_shown": bool(host.hidden or host.gpus_hidden),
    }


def _gpu(gpu: GPU) -> dict[str, Any]:
    return {
        "vendor_id": f"{gpu.vendor_id & 0xFFFF:04x}",
        "device_id": f"{gpu.device_id & 0xFFFF:04x}",
        "capable": gpu.capable,
        "enabled": gpu.enabled,
        "active": gpu.active,
        "shared": bool(gpu.profiles),
        "holders": len(gpu.holders),
        "tells_system_id": bool(gpu.system_id),
    }


def _template(template: VMTemplate) -> dict[str, Any]:
    return {
        "firmware": template.firmware if template.firmware in ("bios", "efi") else "other",
        "hardware_version": template.hardware_version,
        "network_cards": len(template.nics),
        "snapshots": len(template.snapshots),
        "encrypted": template.encrypted,
        "not_shown": bool(template.hidden),
    }


def _refusals(plan: object) -> list[dict[str, Any]]:
    """Count refusals by type; their texts contain names."""
    if not isinstance(plan, GpuvmError):
        return []
    several = plan.errors if isinstance(plan, SeveralRefused) else (plan,)
    return _counted(
        {"kind": type(e).__name__, "fault": e.fault if isinstance(e, TaskFailed) else None}
        for e in several
    )


def _version(text: str) -> str:
    """Return digits and dots only: a version may have other text."""
    found = re.match(r"\d+(\.\d+)*", text)
    return found[0] if found else "unknown"


def _counted(shapes: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return each shape once, with its count."""
    counts = Counter(tuple(shape.items()) for shape in shapes)
    return [{"count": count, **dict(shape)} for shape, count in counts.most_common()]
