"""What is wanted: ``gpuvm.yaml`` as a :class:`ClusterSpec`.

    name: gpuvm
    hosts: 4
    template: centos7-tensorflow
    accelerator: {mode: passthrough, count: 1}

Every key may be left out: what is unique in the inventory is used and said.
"""

import hashlib
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from gpuvm.documents import read_document
from gpuvm.errors import BadInput

FILE = Path("gpuvm.yaml")


def _gib(value: Any) -> Any:
    """``32``, ``"32GiB"``, ``"32 GB"`` and ``"65536MiB"`` become GiB here and nowhere else."""
    if not isinstance(value, str):
        return value
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(GiB|GB|G|MiB|MB|M|TiB|TB|T)?\s*", value)
    if match is None:
        raise ValueError(f"'{value}' is not a size such as 32GiB")
    scale = {"M": 1 / 1024, "G": 1, "T": 1024}[(match[2] or "G")[0]]
    return float(match[1]) * scale


GiB = Annotated[float, BeforeValidator(_gib), Field(gt=0)]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Passthrough(_Model):
    """Fixed DirectPath I/O: the VM gets whole GPUs of its host."""

    mode: Literal["passthrough"] = "passthrough"
    count: int = Field(default=1, ge=1, le=16)
    model: str | None = None
    """Part of the GPU's name, such as P100."""
    mmio_gib: int | None = None
    """64-bit MMIO window; computed from the GPUs' memory when left out."""


class NoGPU(_Model):
    """A VM without a GPU, to compare with."""

    mode: Literal["none"] = "none"


Accelerator = Annotated[Passthrough | NoGPU, Field(discriminator="mode")]


class Deadlines(_Model):
    """Seconds; the defaults are what large templates on slow links need."""

    clone_s: float = Field(default=1800, gt=0)
    power_on_s: float = Field(default=300, gt=0)
    address_s: float = Field(default=600, gt=0)
    ready_s: float = Field(default=300, gt=0)


class Distributed(_Model):
    ports: str | None = Field(default=None, pattern=r"^\d+-\d+$")
    """A range that the guests' firewalls leave open; any free port when left out."""
    start_s: float = Field(default=60, gt=0)


class ClusterSpec(_Model):
    name: str = Field(default="gpuvm", pattern=r"^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$")
    hosts: int = Field(default=1, ge=1)
    cluster: str | None = None
    template: str | None = None
    datastore: str | None = None
    network: str | None = None
    folder: str | None = None
    resource_pool: str | None = None
    cpus: int | None = Field(default=None, ge=1)
    memory_gib: GiB | None = None
    accelerator: Accelerator = Passthrough()
    annotation: str = ""
    extra_config: dict[str, str] = {}
    deadlines: Deadlines = Deadlines()
    distributed: Distributed = Distributed()

    def digest(self) -> str:
        """Of what makes one VM what it is: how many there are is not part of it."""
        wish = self.model_dump_json(exclude={"hosts", "deadlines", "distributed"})
        return hashlib.sha256(wish.encode()).hexdigest()[:16]

    def vm_name(self, index: int) -> str:
        return f"{self.name}-{index:02d}"


def load(file: Path | None, **changes: object) -> ClusterSpec:
    """The file, or ``gpuvm.yaml`` here if there is one, with the command line's ``changes``.

    Raises BadInput with file and line, or with the option.
    """
    chosen = file or FILE
    spec = read_document(chosen, ClusterSpec) if file or chosen.exists() else ClusterSpec()
    given = {key: value for key, value in changes.items() if value is not None}
    try:
        return ClusterSpec.model_validate(spec.model_dump() | given)
    except ValidationError as error:
        first = error.errors()[0]
        raise BadInput(f"--{first['loc'][0]}: {first['msg'].lower()}") from None
