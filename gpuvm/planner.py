"""plan(spec, inventory) -> Plan: what is wanted minus what is there. Pure: no clock, no network.

    plan(spec, inventory, hosts=4)

A :class:`Plan` is shown before anything is touched; running the same wish again gives a plan that
changes nothing.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

from gpuvm import ownership, selection
from gpuvm.errors import BadInput, PreflightRefused, Unplaceable
from gpuvm.inventory import (
    GPU,
    VM,
    Cluster,
    Datastore,
    Host,
    Inventory,
    Network,
    VCenter,
    VMTemplate,
)
from gpuvm.spec import ClusterSpec, NoGPU, Passthrough

Action = Literal["create", "power-on", "keep", "remove"]


@dataclass(frozen=True)
class Finding:
    """Something worth knowing that does not stop the plan."""

    text: str
    hint: str | None = None


@dataclass(frozen=True)
class Step:
    """What will be done with one VM; ``vm`` is the existing one, None for one to create."""

    action: Action
    name: str
    index: int
    host: Host
    gpus: tuple[GPU, ...]
    instance_uuid: str
    vm: VM | None = None


@dataclass(frozen=True)
class Plan:
    """``cpus`` and ``memory_gib`` are those of each new VM; ``mmio_gib`` is None without a GPU."""

    spec: ClusterSpec
    vcenter: VCenter
    cluster: Cluster
    template: VMTemplate
    datastore: Datastore
    network: Network | None
    cpus: int
    memory_gib: float
    mmio_gib: int | None
    steps: tuple[Step, ...]
    findings: tuple[Finding, ...] = ()

    @property
    def changes(self) -> tuple[Step, ...]:
        return tuple(step for step in self.steps if step.action != "keep")

    @property
    def wanted(self) -> tuple[Step, ...]:
        """The VMs that are there when the plan is done."""
        return tuple(step for step in self.steps if step.action != "remove")


def plan(spec: ClusterSpec, inventory: Inventory, *, scale_down: bool = False) -> Plan:
    """Decides which VM goes to which host and GPU.

    Raises NotFound and Ambiguous for names, PreflightRefused and Unplaceable (with the table of
    who holds what) when the wish cannot be met; nothing was touched then.
    """
    selection.check_names(spec, inventory)
    template = selection.template(spec, inventory)
    cpus, memory_gib = spec.cpus or template.cpus, spec.memory_gib or template.memory_gib
    steps, findings = _steps(spec, inventory, memory_gib, scale_down=scale_down)
    created = [step for step in steps if step.action == "create"]
    _check_names(created, inventory)
    return Plan(
        spec=spec,
        vcenter=inventory.vcenter,
        cluster=inventory.cluster,
        template=template,
        datastore=selection.datastore(
            spec, inventory, [s.host for s in steps], template, len(created)
        ),
        network=selection.network(spec, inventory, [s.host for s in steps]),
        cpus=cpus,
        memory_gib=memory_gib,
        mmio_gib=_mmio_gib(spec, steps),
        steps=tuple(steps),
        findings=(*findings, *_memory_findings(memory_gib, steps)),
    )


def replan_lost(
    plan: Plan, lost: Step, inventory: Inventory, promised: Collection[str]
) -> Step | None:
    """Another place for a VM whose GPU somebody else took first, or None when there is none.

    ``inventory`` was read after the loss; ``promised`` are the hosts that other VMs are going to
    by now, which are no candidates, as those of the plan are not.
    """
    used = {step.host.name for step in plan.wanted} | set(promised)
    for host in inventory.hosts:
        fits = not host.unusable and not _too_small(host, plan.memory_gib)
        if host.name not in used and fits and _enough(plan.spec, _free_gpus(plan.spec, host)):
            return _create(plan.spec, inventory, lost.index, host)
    return None


def mmio_window_gib(memory_gib_of_each: Sequence[int]) -> int:
    """The 64-bit MMIO window for these GPUs: a power of two above their memory, at least 64.

    VMware's rule is the next power of two *above* the sum; a window that is too large does no harm,
    one that is too small keeps the VM from powering on. Of the two published rules for sums that
    are no power of two (48 -> 64 or 128) the larger result is taken.
    """
    total = sum(memory_gib_of_each)
    above = 1 << total.bit_length()
    doubled = above * 2 if total & (total - 1) else above
    return max(64, doubled)


def _steps(
    spec: ClusterSpec, inventory: Inventory, memory_gib: float, *, scale_down: bool
) -> tuple[list[Step], list[Finding]]:
    ours = inventory.ours(spec.name)
    surplus = [vm for vm in ours if (vm.index or 0) > spec.hosts]
    if surplus and not scale_down:
        raise PreflightRefused(
            f"{len(ours)} VMs of '{spec.name}' exist, {spec.hosts} wanted: "
            f"{_names(surplus)} would be removed",
            hint="say --scale-down if that is what you want",
        )
    kept = [vm for vm in ours if vm not in surplus]
    steps = [_existing(spec, inventory, vm) for vm in kept]
    missing = [i for i in range(1, spec.hosts + 1) if i not in {vm.index for vm in kept}]
    hosts, findings = _place(spec, inventory, missing, steps, memory_gib)
    steps += [_create(spec, inventory, i, h) for i, h in zip(missing, hosts, strict=True)]
    steps.sort(key=lambda step: step.index)
    steps += [_step("remove", vm, inventory) for vm in surplus]
    return steps, [*findings, *_copies(spec, inventory)]


def _existing(spec: ClusterSpec, inventory: Inventory, vm: VM) -> Step:
    if vm.spec_digest != spec.digest():
        raise PreflightRefused(
            f"{vm.name} was made from another wish than the one in force now",
            hint=f"'gpuvm teardown' first, or another deployment name than '{spec.name}'",
        )
    return _step("keep" if vm.powered_on else "power-on", vm, inventory)


def _step(action: Action, vm: VM, inventory: Inventory) -> Step:
    host = next((h for h in inventory.hosts if h.name == vm.host), None)
    if host is None:
        raise PreflightRefused(f"{vm.name} is on {vm.host}, which is not in the cluster")
    addresses = {device.pci_address for device in vm.devices}
    gpus = tuple(gpu for gpu in host.gpus if gpu.pci_address in addresses)
    return Step(action, vm.name, vm.index or 0, host, gpus, vm.instance_uuid, vm)


def _create(spec: ClusterSpec, inventory: Inventory, index: int, host: Host) -> Step:
    gpus = _free_gpus(spec, host)[: _count(spec)]
    derived = ownership.instance_uuid(inventory.vcenter.instance_uuid, spec.name, index)
    return Step("create", spec.vm_name(index), index, host, gpus, derived)


def _place(
    spec: ClusterSpec,
    inventory: Inventory,
    missing: Sequence[int],
    existing: Sequence[Step],
    memory_gib: float,
) -> tuple[list[Host], list[Finding]]:
    """One host for each missing VM, one VM per host."""
    used = {step.host.name for step in existing}
    findings, fitting = [], []
    for host in inventory.hosts:
        if host.name in used:
            continue
        why = host.unusable or _too_small(host, memory_gib)
        if why is not None:
            findings.append(Finding(f"{host.name} is left out: {why}"))
        elif _enough(spec, _free_gpus(spec, host)):
            fitting.append(host)
    if len(fitting) < len(missing):
        raise _unplaceable(spec, inventory, len(existing), len(fitting), findings)
    return fitting[: len(missing)], findings


def _count(spec: ClusterSpec) -> int:
    return spec.accelerator.count if isinstance(spec.accelerator, Passthrough) else 0


def _free_gpus(spec: ClusterSpec, host: Host) -> tuple[GPU, ...]:
    if isinstance(spec.accelerator, NoGPU):
        return ()
    model = (spec.accelerator.model or "").lower()
    return tuple(gpu for gpu in host.gpus if gpu.free and model in gpu.name.lower())


def _enough(spec: ClusterSpec, gpus: Sequence[GPU]) -> bool:
    return len(gpus) >= _count(spec)


def _too_small(host: Host, memory_gib: float) -> str | None:
    free = host.memory_gib - host.reserved_gib
    if free >= memory_gib:
        return None
    return f"{memory_gib:g} GiB would be reserved and {max(free, 0):.0f} GiB are unreserved"


def _unplaceable(
    spec: ClusterSpec,
    inventory: Inventory,
    existing: int,
    fitting: int,
    findings: Sequence[Finding],
) -> Unplaceable:
    wanted = spec.hosts - existing
    hosts = "1 host" if fitting == 1 else f"{fitting} hosts"
    what = f"{_count(spec)} free GPU{'s' if _count(spec) > 1 else ''}"
    need = what if isinstance(spec.accelerator, Passthrough) else "room for the VM"
    reasons = "".join(f"; {finding.text}" for finding in findings)
    return Unplaceable(
        f"{wanted} more VM{'s' if wanted > 1 else ''} wanted, {hosts} of "
        f"{inventory.cluster.name} left with {need}{reasons}",
        table=[(g.host, g.pci_address, g.name, g.state) for g in inventory.gpus],
        hint=f"at most --hosts {existing + fitting} fits now" if existing + fitting else None,
    )


def _check_names(created: Sequence[Step], inventory: Inventory) -> None:
    """A name is the lock between two operators, so a taken one is nobody's to work around."""
    for step in created:
        if step.name in inventory.names_in_folder:
            raise PreflightRefused(
                f"a VM named {step.name} exists in the folder and is not ours",
                hint="choose another deployment name: 'name:' in gpuvm.yaml or --name",
            )


def _copies(spec: ClusterSpec, inventory: Inventory) -> list[Finding]:
    return [
        Finding(f"{vm.name} is a copy of one of our VMs; it is left alone")
        for vm in inventory.copies(spec.name)
    ]


def _mmio_gib(spec: ClusterSpec, steps: Sequence[Step]) -> int | None:
    if isinstance(spec.accelerator, NoGPU):
        return None
    given = spec.accelerator.mmio_gib
    if given is not None:
        if given & (given - 1) or given <= 0:
            raise BadInput(f"accelerator.mmio_gib: {given} is not a power of two")
        return given
    windows = [mmio_window_gib([gpu.memory_gib or 0 for gpu in step.gpus]) for step in steps]
    return max(windows, default=None)


def _memory_findings(memory_gib: float, steps: Sequence[Step]) -> list[Finding]:
    largest = max((sum(g.memory_gib or 0 for g in step.gpus) for step in steps), default=0)
    if memory_gib >= 1.5 * largest:
        return []
    return [
        Finding(
            f"{memory_gib:g} GiB of memory is little beside {largest} GiB of GPU memory",
            hint=f"memory_gib: {int(1.5 * largest)} or more is the usual advice",
        )
    ]


def _names(vms: Sequence[VM]) -> str:
    return ", ".join(vm.name for vm in vms)
