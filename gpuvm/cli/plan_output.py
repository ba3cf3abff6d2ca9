"""Prints a plan, for the commands plan, provision and start."""

from typing import Any

from gpuvm.cli import output
from gpuvm.cli.tables import Prose, unbroken
from gpuvm.devices import DynamicDevice, VGPUDevice
from gpuvm.inventory import VMTemplate
from gpuvm.planner import Plan, Step
from gpuvm.text import counted

WHAT = {"create": "create", "power-on": "power on", "keep": "unchanged", "remove": "remove"}


def show_plan(plan: Plan) -> None:
    """Print the table of hosts, GPUs and VMs, and below it the settings of new VMs."""
    rows: list[tuple[str, ...]] = [
        (
            step.host.name,
            _gpus(step),
            step.name,
            WHAT[step.action]
            + (f", moved to {unbroken(step.move_to.name)}" if step.move_to else ""),
        )
        for step in plan.steps
    ]
    columns: tuple[str, ...] = ("HOST", Prose("GPU"), "VM", Prose("ACTION"))
    if len(plan.datastores) > 1:
        columns = (*columns, "DATASTORE")
        stores = [step.datastore.name if step.datastore else "-" for step in plan.steps]
        rows = [(*row, store) for row, store in zip(rows, stores, strict=True)]
    output.table(columns, rows)
    if plan.created and plan.template:
        output.line(_each(plan, plan.template))
    for finding in plan.findings:
        output.line(f"note: {finding.text}" + (f" ({finding.hint})" if finding.hint else ""))


def plan_json(plan: Plan) -> dict[str, Any]:
    """Return the plan for ``--json``."""
    return {
        "deployment": plan.spec.name,
        "cluster": plan.cluster.path,
        "template": plan.template.name if plan.template else None,
        "clone_mode": plan.spec.clone_mode,
        "datastore": plan.datastores[0].name if len(plan.datastores) == 1 else None,
        "accelerator": plan.spec.accelerator.model_dump(mode="json"),
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
                "move_to": step.move_to.name if step.move_to else None,
                "gpus": [{"pci_address": gpu.pci_address, "model": gpu.name} for gpu in step.gpus],
                "mmio_gib": step.mmio_gib,
                "datastore": step.datastore.name if step.datastore else None,
            }
            for step in plan.steps
        ],
        "findings": [{"text": f.text, "hint": f.hint} for f in plan.findings],
    }


def _gpus(step: Step) -> str:
    """Return the planned GPUs; unless a device is fixed, vCenter chooses at power-on."""
    shares = [device.profile for device in step.devices if isinstance(device, VGPUDevice)]
    if shares:
        return ", ".join(f"vGPU {profile}" for profile in shares)
    dynamic = any(isinstance(device, DynamicDevice) for device in step.devices)
    bound = " (bound at power-on)" if dynamic and step.gpus else ""
    return (", ".join(f"{gpu.pci_address} {gpu.name}" for gpu in step.gpus) or "-") + bound


def _each(plan: Plan, template: VMTemplate) -> str:
    memory = "all reserved" if plan.spec.has_gpu else "not reserved"
    mmio = f", 64-bit MMIO {plan.mmio_gib} GiB" if plan.mmio_gib else ""
    network = plan.network.name if plan.network else "the template's network"
    store = plan.datastores[0].name if len(plan.datastores) == 1 else "its host's own datastore"
    source = f" from snapshot {plan.snapshot.name}" if plan.snapshot else ""
    return (
        f"each new VM: {plan.spec.clone_mode} clone of {template.path}{source} in "
        f"{plan.cluster.path} on {store} and {network}, {counted(plan.cpus or 0, 'CPU')}, "
        f"{plan.memory_gib:g} GiB ({memory}){mmio}"
    )
