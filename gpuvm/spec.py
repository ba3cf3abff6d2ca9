"""The spec of a deployment: ``gpuvm.yaml`` as a :class:`ClusterSpec`.

    name: gpuvm
    hosts: 4
    template: centos7-tensorflow
    accelerator: {mode: passthrough, count: 1}

Every key is optional: an object that is unique in the inventory is used, and shown in the plan.
"""

import hashlib
import json
import re
from datetime import timedelta
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_interface
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from gpuvm.accelerators import Accelerator, NoGPU, Passthrough
from gpuvm.documents import described, read_document
from gpuvm.errors import BadInput, Mistakes
from gpuvm.validation import NO_FLAG, Int, matching, parsed, shown

FILE = Path("gpuvm.yaml")


def _gib(value: Any) -> Any:
    """Convert ``32``, ``"32GiB"``, ``"32 GB"`` and ``"65536MiB"`` to GiB."""
    if not isinstance(value, str):
        return value
    match = re.fullmatch(
        r"\s*([0-9]{1,9}(?:\.[0-9]{1,9})?)\s*(GiB|GB|G|MiB|MB|M|TiB|TB|T)?\s*", value
    )
    if match is None:
        raise ValueError(f"{shown(value)} is not a size such as 32GiB")
    scale = {"M": 1 / 1024, "G": 1, "T": 1024}[(match[2] or "G")[0]]
    return float(match[1]) * scale


def _datastore(value: Any) -> Any:
    """Both kinds are looked at here: pydantic would complain of each that it is not."""
    if isinstance(value, str):
        names = [value]
    elif isinstance(value, dict):
        names = [*value, *value.values()]
    else:
        raise ValueError(f"must be a name, or a name for each host, and is {shown(value)}")  # noqa: TRY004 - pydantic takes no TypeError
    for name in names:
        if not isinstance(name, str) or not 0 < len(name) <= LONGEST_NAME:
            raise ValueError(f"{shown(name)} is no name")
    return value


def _ports(text: str) -> str:
    """Two ports, the lower one first."""
    match = re.fullmatch(r"([0-9]{1,5})-([0-9]{1,5})", text)
    if match is None:
        raise ValueError(f"{shown(text)} is not a range of ports such as 20000-20100")
    low, high = int(match[1]), int(match[2])
    if low > high:
        raise ValueError(f"{text} is reversed: the lower port comes first")
    if low < 1 or high > LAST_PORT:
        raise ValueError(f"{text} is not within 1-{LAST_PORT}")
    return text


LONGEST_NAME = 1000
"""Characters of a name or an inventory path; vCenter itself takes 80 for one name."""
LONGEST_DEADLINE_S = 7 * 24 * 3600
MOST_HOSTS, MOST_PER_HOST = 1000, 128
"""Ten times what a cluster can have (96 hosts), and as many VMs as vGPUs of 16 cards."""
MOST_CPUS, MOST_MEMORY_GIB = 960, 24 * 1024
"""Of one VM, in vSphere 9 (VMware Configuration Maximums)."""
LAST_PORT = 65535

GiB = Annotated[
    float,
    BeforeValidator(_gib),
    Field(gt=0, le=MOST_MEMORY_GIB, allow_inf_nan=False),
    NO_FLAG,
]
Seconds = Annotated[float, Field(gt=0, le=LONGEST_DEADLINE_S, allow_inf_nan=False), NO_FLAG]
Name = Annotated[str, Field(min_length=1, max_length=LONGEST_NAME)]
Datastore = Annotated[str | dict[str, str], BeforeValidator(_datastore)]

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def _idle_time(value: Any) -> Any:
    """``45m``, ``2h`` and ``1d``; a number without a unit could mean anything."""
    if value is None or isinstance(value, timedelta):
        return value
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([smhd])\s*", str(value))
    if match is None:
        raise ValueError(f"'{value}' is not a duration such as 45m, 2h or 1d")
    seconds = float(match[1]) * _SECONDS[match[2]]
    if not 600 <= seconds <= 365 * 86400:
        raise ValueError(f"{value} is not between 10m and 365d")
    return timedelta(seconds=seconds)


IdleTime = Annotated[timedelta, BeforeValidator(_idle_time)]
"""At least ten minutes, so that no guest shuts down between two commands of its user."""


def _unreserved_key(key: str) -> str:
    """Refuse the keys that gpuvm writes: they hold the VM's mark and its cloud-init data."""
    small = key.lower()
    if small.startswith(_RESERVED) or small in _CLOUD_INIT:
        raise ValueError("reserved for gpuvm: remove it")
    return key


_RESERVED = ("gpuvm.", "guestinfo.gpuvm.")
_CLOUD_INIT = {
    f"guestinfo.{what}{end}" for what in ("userdata", "metadata") for end in ("", ".encoding")
}
IPAddress = Annotated[
    IPv4Address | IPv6Address, BeforeValidator(parsed(ip_address, "an IP address"))
]
ExtraConfig = Annotated[
    dict[Annotated[Name, AfterValidator(_unreserved_key)], str], Field(max_length=1000)
]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class AddressRange(_Model):
    """Fixed addresses for the guests, all IPv4 or all IPv6; the VM with index 1 gets the first."""

    first: IPAddress
    last: IPAddress
    prefix: Int = Field(ge=1, le=127)
    """Prefix length, such as 24 for 255.255.255.0."""
    gateway: IPAddress | None = None
    dns: tuple[IPAddress, ...] = Field(default=(), max_length=16)
    domain: str = Field(default="localdomain", min_length=1, max_length=253)

    @model_validator(mode="after")
    def _is_of_one_family(self) -> "AddressRange":
        for what, address in (("last", self.last), ("gateway", self.gateway)):
            if address is not None and address.version != self.first.version:
                raise ValueError(f"{what} {address} is not IPv{self.first.version}, as first is")
        if self.prefix >= self.first.max_prefixlen:
            raise ValueError(f"prefix {self.prefix} leaves no addresses in an IPv4 network")
        return self

    @model_validator(mode="after")
    def _is_a_range(self) -> "AddressRange":
        if int(self.last) < int(self.first):
            raise ValueError(f"last {self.last} is lower than first {self.first}")
        return self

    @model_validator(mode="after")
    def _is_in_one_network(self) -> "AddressRange":
        """Guests in different networks could not reach each other, nor the gateway."""
        network = ip_interface((self.first, self.prefix)).network
        for what, address in (("last", self.last), ("gateway", self.gateway)):
            if address is not None and address not in network:
                raise ValueError(f"{what} {address} is outside {network}, the network of first")
        return self

    @property
    def size(self) -> int:
        return int(self.last) - int(self.first) + 1

    def address(self, index: int) -> str:
        """Return the fixed address of the VM with this index, from 1."""
        return str(self.first + (index - 1))


class Deadlines(_Model):
    """In seconds; the defaults are enough for large templates on slow links."""

    clone_s: Seconds = 1800
    power_on_s: Seconds = 300
    address_s: Seconds = 600
    ready_s: Seconds = 300


class Distributed(_Model):
    ports: Annotated[str, AfterValidator(_ports)] | None = None
    """A range that is open in the guests' firewalls; by default any free port."""
    start_s: Seconds = 60


Placement = Literal["one-per-host", "pack", "spread"]
CloneMode = Literal["full", "linked"]


DeploymentName = Annotated[
    str,
    matching(
        r"[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?",
        "is not a name of a-z and 0-9, hyphens within, 32 at most",
    ),
]


class ClusterSpec(_Model):
    context: Name | None = None
    """Which vCenter it is for; --context and GPUVM_CONTEXT come before it."""
    name: DeploymentName = "gpuvm"
    hosts: Int = Field(default=1, ge=1, le=MOST_HOSTS)
    per_host: Int = Field(default=1, ge=1, le=MOST_PER_HOST)
    placement: Placement = "one-per-host"
    cluster: Name | None = None
    template: Name | None = None
    clone_mode: CloneMode = "full"
    snapshot: Name | None = None
    """Of the template, for linked clones; by default the current one."""
    datastore: Datastore | None = None
    """A name, a pattern such as local-*, or one of these for each host name."""
    storage_policy: Name | None = None
    """Name or id (a UUID), for the VM home and every disk."""
    network: Name | None = None
    addresses: AddressRange | None = None
    folder: Name | None = None
    resource_pool: Name | None = None
    cpus: Int | None = Field(default=None, ge=1, le=MOST_CPUS)
    memory_gib: GiB | None = None
    accelerator: Accelerator = Passthrough()
    annotation: str = Field(default="", max_length=10_000)
    extra_config: ExtraConfig = {}
    deadlines: Deadlines = Deadlines()
    distributed: Distributed = Distributed()
    idle_shutdown: IdleTime | None = None
    """How long guests may be without a run, a login and a process on the GPU."""

    @property
    def vms(self) -> int:
        """The total number of VMs."""
        return self.hosts * self.per_host

    @property
    def has_gpu(self) -> bool:
        return not isinstance(self.accelerator, NoGPU)

    @property
    def names_a_policy(self) -> bool:
        """Whether the policy is given by name, so that its id must be looked up."""
        return self.storage_policy is not None and not _is_uuid(self.storage_policy)

    def creation_spec_json(self) -> str:
        """Return the fields that concern each VM, as compact JSON; the number of VMs does not."""
        fields = type(self).model_fields
        changed = {key for key in self.per_vm_fields() if getattr(self, key) != fields[key].default}
        changes = self.model_dump(mode="json", include=changed)
        return json.dumps(changes, sort_keys=True, separators=(",", ":"))

    @classmethod
    def per_vm_fields(cls) -> tuple[str, ...]:
        """Return the fields that concern each VM, which the number of VMs does not."""
        return tuple(key for key in cls.model_fields if key not in _NOT_OF_ONE_VM)

    @classmethod
    def from_creation_spec(cls, text: str) -> "ClusterSpec | None":
        """Parse what ``creation_spec_json()`` returned; None if it is not valid."""
        try:
            return cls.model_validate_json(text)
        except ValidationError:
            return None

    def digest(self) -> str:
        return hashlib.sha256(self.creation_spec_json().encode()).hexdigest()[:16]

    def vm_name(self, index: int) -> str:
        return f"{self.name}-{index:02d}"


def _is_uuid(text: str) -> bool:
    return re.fullmatch(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}", text) is not None


_NOT_OF_ONE_VM = {
    "context",
    "hosts",
    "per_host",
    "placement",
    "deadlines",
    "distributed",
    "idle_shutdown",
}
COUNT = {"hosts", "per_host"}
"""The fields that set the number of VMs."""


def load(file: Path | None, **changes: object) -> ClusterSpec:
    """Load the file, else ``gpuvm.yaml`` if it exists, and apply ``changes`` of the command line.

    The result's ``model_fields_set`` has the fields that were given. Raises BadInput with file and
    line, or with the option, and Mistakes if several things are wrong.
    """
    chosen = file or FILE
    spec = read_document(chosen, ClusterSpec) if file or chosen.exists() else ClusterSpec()
    given = {key: value for key, value in changes.items() if value is not None}
    try:
        return ClusterSpec.model_validate(spec.model_dump(exclude_unset=True) | given)
    except ValidationError as error:
        mistakes = []
        for detail in error.errors():
            text, hint = described(detail, ClusterSpec)
            option = str(detail["loc"][0]).replace("_", "-")
            mistakes.append(BadInput(f"--{option}: {text}", hint=hint))
        raise mistakes[0] if len(mistakes) == 1 else Mistakes(mistakes) from None
