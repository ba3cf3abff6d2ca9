"""Which of the addresses that a guest reports gpuvm tries over SSH."""

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address

from typing_extensions import override

from gpuvm.guest import FixedAddress


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
