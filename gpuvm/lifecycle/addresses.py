"""Which of a guest's addresses count: a report is a belief until SSH has answered there."""

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address

from typing_extensions import override

from gpuvm.guest import FixedAddress


@dataclass(frozen=True)
class Awaited:
    """The fixed address alone where there is one, else those in ``subnet``, else all."""

    fixed: FixedAddress | None = None
    subnet: IPv4Network | IPv6Network | None = None

    def among(self, addresses: Sequence[str]) -> tuple[str, ...]:
        """Those of ``addresses`` that count, in their order."""
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
