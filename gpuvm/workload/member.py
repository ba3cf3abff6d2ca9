"""A VM that takes part in a run."""

from dataclasses import dataclass

from gpuvm.devices import GPU
from gpuvm.guest import Endpoint
from gpuvm.inventory import VM


@dataclass(frozen=True)
class Member:
    endpoint: Endpoint
    vm: VM
    gpus: tuple[GPU, ...]

    @property
    def name(self) -> str:
        return self.vm.name
