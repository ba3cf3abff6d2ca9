"""What a guest gets at power-on: one JSON file in the VM's folder.

FOLDER/boot.json     this
FOLDER/disk/         home, tmp, ssh (host key), cloud: kept while the VM exists
FOLDER/root/         where the guest's private root is mounted, in its own namespace only
FOLDER/opt/          the guest's own programs where there are no namespaces
FOLDER/console.log   what the guest's server has to say
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

TROUBLES = "guestinfo.lab.troubles"
"""Set in a template's ``extra_config``, or in that of gpuvm.yaml; docs/lab.md lists them."""


@dataclass(frozen=True)
class SimulatedGPU:
    """A card as the driver in a guest shows it; ``bus_id`` is the guest's own address for it."""

    name: str
    uuid: str
    bus_id: str
    vendor_id: int
    device_id: int
    memory_mib: int
    compute_cap: str


@dataclass(frozen=True)
class Boot:
    """``guestinfo`` are the VM's ``guestinfo.*`` keys; ``hidden`` are never seen in the guest."""

    vm: str
    addresses: tuple[str, ...]
    port: int
    isolated: bool
    gpus: tuple[SimulatedGPU, ...]
    guestinfo: dict[str, str]
    hidden: tuple[str, ...]

    @property
    def troubles(self) -> frozenset[str]:
        """What is to be wrong with the guest: ``guestinfo.lab.troubles``, separated by commas."""
        return frozenset(self.guestinfo.get(TROUBLES, "").replace(" ", "").split(",")) - {""}

    def save(self, file: Path) -> None:
        file.write_text(json.dumps(asdict(self), indent=1), encoding="utf-8")

    @staticmethod
    def load(file: Path) -> "Boot":
        data = json.loads(file.read_text(encoding="utf-8"))
        gpus = tuple(SimulatedGPU(**gpu) for gpu in data.pop("gpus"))
        addresses, hidden = tuple(data.pop("addresses")), tuple(data.pop("hidden"))
        return Boot(addresses=addresses, gpus=gpus, hidden=hidden, **data)
