"""From a planned step to a single CloneVM_Task."""

from dataclasses import replace
from datetime import UTC, datetime

from gpuvm import guest, ownership
from gpuvm.accelerators import DeviceGroup, DynamicPassthrough
from gpuvm.inventory import VM
from gpuvm.planner import Plan, Step
from gpuvm.settings import Context
from gpuvm.spec import ClusterSpec
from gpuvm.vsphere import CloneRequest


def clone_request(plan: Plan, step: Step, context: Context, public_key: str) -> CloneRequest:
    """Return the VM as the plan wants it; an existing VM keeps its generation."""
    spec = plan.spec
    if step.vm is not None:
        return _of_existing(plan, step, step.vm)
    generation = ownership.new_generation()
    mark = ownership.Mark(
        deployment=spec.name,
        index=step.index,
        spec_digest=spec.digest(),
        generation=generation,
        creation_spec=spec.creation_spec_json(),
        disks=plan.template.disks or None if plan.template else None,
        operator=ownership.operator(),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    first_boot = guest.user_data(
        hostname=step.name,
        instance_id=f"{step.instance_uuid}-{generation}",
        user=context.ssh.user,
        authorized_keys=(public_key, *context.ssh.authorized_keys),
    )
    by_drs = plan.cluster.drs_places and isinstance(spec.accelerator, DynamicPassthrough)
    return CloneRequest(
        name=step.name,
        instance_uuid=step.instance_uuid,
        template=plan.template.moref if plan.template else "",
        host=None if by_drs else step.host.moref,
        resource_pool=plan.cluster.resource_pool,
        datastore=step.datastore.moref if step.datastore else "",
        folder=plan.cluster.vm_folder,
        cpus=plan.cpus,
        memory_gib=plan.memory_gib,
        devices=step.devices,
        mmio_gib=step.mmio_gib,
        extra_config={**spec.extra_config, **first_boot, **mark.extra_config()},
        annotation=spec.annotation or f"Made by gpuvm for the deployment '{spec.name}'.",
        network=plan.network,
        nics=plan.template.nics if plan.template else (),
        snapshot=plan.snapshot.moref if plan.snapshot else None,
        storage_policy=plan.storage_policy,
        device_group=_device_group(spec),
        own_tpm=plan.template.vtpm if plan.template else False,
        cores_per_socket=plan.template.cores_per_socket if plan.template else 1,
    )


def _of_existing(plan: Plan, step: Step, vm: VM) -> CloneRequest:
    """Return the repairs of an existing VM: size and devices, never its first-boot data.

    A plan that only starts VMs has no sizes, so they stay as they are. Options come from the VM's
    own creation spec, because gpuvm.yaml may have changed since.
    """
    own = ClusterSpec.from_creation_spec(vm.creation_spec)
    same_policy = own is not None and own.storage_policy == plan.spec.storage_policy
    return CloneRequest(
        name=step.name,
        instance_uuid=step.instance_uuid,
        template="",
        host=step.runs_on.moref,
        resource_pool=plan.cluster.resource_pool,
        datastore="",
        folder=plan.cluster.vm_folder,
        cpus=plan.cpus,
        memory_gib=plan.memory_gib,
        devices=step.devices,
        mmio_gib=step.mmio_gib,
        extra_config=own.extra_config if own else {},
        annotation=vm.annotation,
        device_group=_device_group(own) if own else "",
        storage_policy=plan.storage_policy if same_policy else None,
    )


def _device_group(spec: ClusterSpec) -> str:
    return spec.accelerator.group if isinstance(spec.accelerator, DeviceGroup) else ""


def awaited(spec: ClusterSpec, step: Step, context: Context) -> guest.Awaited:
    """Return the addresses to accept for a VM; its creation spec may name a fixed one."""
    own = ClusterSpec.from_creation_spec(step.vm.creation_spec) if step.vm is not None else spec
    fixed = _fixed_address(own, step.index) if own is not None else None
    return guest.Awaited(fixed, context.ssh.subnet)


def networked(request: CloneRequest, vm: VM, awaited: guest.Awaited) -> CloneRequest:
    """Add the guest's network configuration, which needs the MAC addresses of the created VM."""
    metadata = vm.extra_config.get(guest.METADATA)
    if awaited.fixed is None or not metadata or not vm.macs:
        return request
    configured = guest.with_network(metadata, vm.macs, awaited.fixed)
    return replace(request, metadata={guest.METADATA: configured})


def _fixed_address(spec: ClusterSpec, index: int) -> guest.FixedAddress | None:
    wanted = spec.addresses
    if wanted is None:
        return None
    return guest.FixedAddress(
        address=wanted.address(index),
        prefix=wanted.prefix,
        gateway=str(wanted.gateway) if wanted.gateway else None,
        dns=tuple(map(str, wanted.dns)),
        domain=wanted.domain,
    )
