"""The parameters of a guest at power-on: one JSON file in the VM's folder.

FOLDER/boot.json     this file
FOLDER/disk/         home, tmp, ssh (host key), cloud: kept while the VM exists
FOLDER/root/         where the guest's private root is mounted, in its own namespace only
FOLDER/opt/          the guest's own programs where there are no namespaces
FOLDER/console.log   the log of the guest's server
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from gpuvm.files import write_atomic

TROUBLES = "guestinfo.lab.troubles"
"""Set in a template's ``extra_config``, or in that of gpuvm.yaml; docs/lab.md lists them."""


@dataclass(frozen=True)
class SimulatedGPU:
    """A GPU as the driver in a guest shows it; ``bus_id`` is its PCI address in the guest."""

    name: str
    uuid: str
    bus_id: str
    vendor_id: int
    device_id: int
    memory_mib: int
    compute_cap: str


@dataclass(frozen=True)
class Boot:
    """``guestinfo`` are the VM's ``guestinfo.*`` keys; ``hidden`` paths are masked in the guest."""

    vm: str
    addresses: tuple[str, ...]
    port: int
    isolated: bool
    gpus: tuple[SimulatedGPU, ...]
    guestinfo: dict[str, str]
    hidden: tuple[str, ...]

    @property
    def troubles(self) -> frozenset[str]:
        """The faults to simulate: ``guestinfo.lab.troubles``, separated by commas."""
        return frozenset(self.guestinfo.get(TROUBLES, "").replace(" ", "").split(",")) - {""}

    def save(self, file: Path) -> None:
        write_atomic(file, json.dumps(asdict(self), indent=1))

    @staticmethod
    def load(file: Path) -> "Boot":
        data = json.loads(file.read_text(encoding="utf-8"))
        gpus = tuple(SimulatedGPU(**gpu) for gpu in data.pop("gpus"))
        addresses, hidden = tuple(data.pop("addresses")), tuple(data.pop("hidden"))
        return Boot(addresses=addresses, gpus=gpus, hidden=hidden, **data)
