"""Memory that a host must have unreserved before a VM can start there, in GiB."""

from gpuvm.inventory import VM, Host

HYPERVISOR_SHARE = 1 / 64
"""What ESXi is taken to keep of a host that does not tell: 4 GiB of 256."""


def needed_gib(memory_gib: float, cpus: int, *, reserved: bool) -> float:
    """Of a VM: all of its memory where that is ``reserved``, and its overhead in any case."""
    return (memory_gib if reserved else 0.0) + overhead_gib(memory_gib, cpus)


def reserves_gib(vm: VM) -> float:
    return needed_gib(vm.memory_gib, vm.cpus, reserved=vm.memory_locked)


def left_gib(host: Host) -> float:
    own = host.hypervisor_gib
    own = host.memory_gib * HYPERVISOR_SHARE if own is None else own
    return host.memory_gib - own - host.reserved_gib


def overhead_gib(memory_gib: float, cpus: int) -> float:
    """What ESXi itself needs to run a VM of this size.

    Near VMware's table "Overhead Memory on Virtual Machines" (vSphere Resource Management): some
    tens of MiB, about 1/128 of the memory, and about 16 MiB for each virtual CPU.
    """
    return (64 + memory_gib * 1024 / 128 + 16 * cpus) / 1024
