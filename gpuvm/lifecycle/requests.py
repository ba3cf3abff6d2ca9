"""From a planned step to the one CloneVM_Task that carries everything, and to a guest's address."""

from gpuvm import guest, ownership
from gpuvm.inventory import VM
from gpuvm.planner import Plan, Step
from gpuvm.settings import Context
from gpuvm.vsphere import CloneRequest


def clone_request(plan: Plan, step: Step, context: Context, public_key: str) -> CloneRequest:
    """The VM as it is wanted; a VM that exists keeps the generation that it was created with."""
    generation = (step.vm.generation if step.vm else None) or ownership.new_generation()
    mark = ownership.Mark(plan.spec.name, step.index, plan.spec.digest(), generation)
    first_boot = guest.user_data(
        hostname=step.name,
        instance_id=f"{step.instance_uuid}-{generation}",
        user=context.ssh.user,
        authorized_keys=(public_key, *context.ssh.authorized_keys),
    )
    return CloneRequest(
        name=step.name,
        instance_uuid=step.instance_uuid,
        template=plan.template.moref,
        host=step.host.moref,
        resource_pool=plan.cluster.resource_pool,
        datastore=plan.datastore.moref,
        folder=plan.cluster.vm_folder,
        network=plan.network.moref if plan.network else None,
        cpus=plan.cpus,
        memory_gib=plan.memory_gib,
        gpus=step.gpus,
        mmio_gib=plan.mmio_gib,
        extra_config={**plan.spec.extra_config, **first_boot, **mark.extra_config()},
        annotation=plan.spec.annotation or f"Made by gpuvm for the deployment '{plan.spec.name}'.",
    )


def endpoint(vm: VM, context: Context) -> guest.Endpoint:
    """How ``vm`` is reached over SSH; its host keys came over the authenticated vCenter API."""
    return guest.Endpoint(
        name=vm.name,
        address=vm.address or "",
        port=context.ssh.port,
        user=context.ssh.user,
        key_file=context.key_file,
        host_keys=vm.host_keys,
        trust=context.ssh.trust,
        identity=f"{vm.instance_uuid}-{vm.generation}",
    )
