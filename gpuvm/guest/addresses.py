"""From the addresses that a guest reports to the endpoint that gpuvm opens over SSH."""

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address

from typing_extensions import override

from gpuvm.errors import PreflightRefused
from gpuvm.guest.cloudinit import FixedAddress
from gpuvm.guest.connection import Endpoint
from gpuvm.inventory import VM
from gpuvm.settings import Context


def endpoint(vm: VM, context: Context) -> Endpoint:
    """Return the SSH endpoint of ``vm``; its host keys came over the authenticated vCenter API.

    Raises PreflightRefused if none of its addresses is in the context's subnet.
    """
    counts = Awaited(subnet=context.ssh.subnet).among(vm.addresses)
    if vm.addresses and not counts:
        raise PreflightRefused(
            f"{vm.name} has no address in {context.ssh.subnet}: it has {', '.join(vm.addresses)}",
            hint=f"ssh.subnet in the context {context.name} says which addresses are used",
        )
    return Endpoint(
        name=vm.name,
        address=counts[0] if counts else "",
        others=counts[1:],
        port=context.ssh.port,
        user=context.ssh.user,
        key_file=context.key_file,
        host_keys=vm.host_keys,
        trust=context.ssh.trust,
        identity=f"{vm.instance_uuid}-{vm.generation}",
    )


@dataclass(frozen=True)
class Awaited:
    """Accept only the fixed address if there is one, else those in ``subnet``, else all."""

    fixed: FixedAddress | None = None
    subnet: IPv4Network | IPv6Network | None = None

    def among(self, addresses: Sequence[str]) -> tuple[str, ...]:
        """Return the accepted ``addresses``, in their order."""
        if self.fixed is not None:
            wanted = ip_address(self.fixed.address)
            return tuple(a for a in addresses if ip_address(a) == wanted)
        if self.subnet is not None:
            return tuple(a for a in addresses if ip_address(a) in self.subnet)
        return tuple(addresses)

    @override
    def __str__(self) -> str:
        if self.fixed is not None:
            return f"the address {self.fixed.address}"
        return f"an address in {self.subnet}" if self.subnet is not None else "an address"
