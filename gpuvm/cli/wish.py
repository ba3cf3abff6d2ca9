"""From a wish to a plan, and how a plan is shown: what `plan` and `provision` have in common."""

from typing import Any

from gpuvm import planner
from gpuvm.cli import output
from gpuvm.cli.session import Session
from gpuvm.inventory import Inventory
from gpuvm.planner import Plan
from gpuvm.spec import ClusterSpec

WHAT = {"create": "create", "power-on": "power on", "keep": "unchanged", "remove": "remove"}


def read_inventory(session: Session, wanted: ClusterSpec) -> Inventory:
    return session.vsphere.read_inventory(
        cluster=wanted.cluster, folder=wanted.folder, resource_pool=wanted.resource_pool
    )


def make_plan(session: Session, wanted: ClusterSpec, *, scale_down: bool) -> Plan:
    inventory = read_inventory(session, wanted)
    return planner.plan(wanted, inventory, scale_down=scale_down)


def show_plan(plan: Plan) -> None:
    """The table of hosts, GPUs and VMs, and under it what each new VM will be."""
    rows = [
        (
            step.host.name,
            ", ".join(f"{gpu.pci_address} {gpu.name}" for gpu in step.gpus) or "-",
            step.name,
            WHAT[step.action],
        )
        for step in plan.steps
    ]
    output.table(("HOST", "GPU", "VM", "ACTION"), rows)
    if any(step.action == "create" for step in plan.steps):
        output.line(_each(plan))
    for finding in plan.findings:
        output.line(f"note: {finding.text}" + (f" ({finding.hint})" if finding.hint else ""))


def described(plan: Plan) -> dict[str, Any]:
    """The plan as ``--json`` has it."""
    return {
        "deployment": plan.spec.name,
        "cluster": plan.cluster.path,
        "template": plan.template.name,
        "datastore": plan.datastore.name,
        "cpus": plan.cpus,
        "memory_gib": plan.memory_gib,
        "mmio_gib": plan.mmio_gib,
        "changes": len(plan.changes),
        "steps": [
            {
                "vm": step.name,
                "index": step.index,
                "action": step.action,
                "host": step.host.name,
                "gpus": [{"pci_address": gpu.pci_address, "model": gpu.name} for gpu in step.gpus],
            }
            for step in plan.steps
        ],
        "findings": [{"text": f.text, "hint": f.hint} for f in plan.findings],
    }


def _each(plan: Plan) -> str:
    memory = "all reserved" if plan.mmio_gib else "not reserved"
    mmio = f", 64-bit MMIO {plan.mmio_gib} GiB" if plan.mmio_gib else ""
    network = plan.network.name if plan.network else "the template's network"
    return (
        f"each new VM: full clone of {plan.template.path} in {plan.cluster.path} on "
        f"{plan.datastore.name} and {network}, {plan.cpus} CPUs, "
        f"{plan.memory_gib:g} GiB ({memory}){mmio}"
    )
