"""How a VM gets its GPU: a union of five modes, discriminated by ``mode``.

    accelerator: {mode: passthrough, count: 1, model: P100}
    accelerator: {mode: dynamic, label: training}
    accelerator: {mode: vgpu, profile: grid_p100-4q}
    accelerator: {mode: device-group, group: "Nvidia:2@nvidia_a100-40c%NVLink"}
    accelerator: {mode: none}

On the command line the same in one word: ``passthrough:model=P100``, ``vgpu:grid_p100-4q``.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from gpuvm.errors import BadInput

PCIAddress = Annotated[str, Field(pattern=r"^[0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]$")]
PCIId = Annotated[int, Field(ge=0, le=0xFFFF)]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class _WithGPU(_Model):
    count: int = Field(default=1, ge=1, le=16)
    """Devices in each VM."""
    mmio_gib: int | None = None
    """64-bit MMIO window, a power of two; 0 for GPUs with small BARs: they need no window, nor EFI.

    By default it is computed from the GPUs."""


class Passthrough(_WithGPU):
    """Fixed DirectPath I/O: the VM gets whole GPUs of its host, chosen when it is created."""

    mode: Literal["passthrough"] = "passthrough"
    model: str | None = None
    """Part of the GPU's name, such as P100."""
    addresses: tuple[PCIAddress, ...] = ()
    """Only these PCI addresses of each host, such as 0000:3b:00.0."""
    label: str | None = None
    """The hardware label of the device, set on the host."""


class DynamicPassthrough(_WithGPU):
    """Dynamic DirectPath I/O: a whole GPU of a kind, bound when the VM is powered on.

    Needs API 7.0 and hardware version 17. Without ids, those of the cluster's matching GPUs apply.
    """

    mode: Literal["dynamic"] = "dynamic"
    model: str | None = None
    vendor_id: PCIId | None = None
    device_id: PCIId | None = None
    label: str | None = None


class VGPU(_WithGPU):
    """A vGPU, by the name of a profile that the hosts offer."""

    mode: Literal["vgpu"] = "vgpu"
    profile: str = Field(min_length=1)


class DeviceGroup(_Model):
    """A vendor device group: connected GPUs, assigned to a VM together (API 8.0.0.1).

    The hosts define its name and its devices (``gpuvm gpus`` lists them).
    """

    mode: Literal["device-group"] = "device-group"
    group: str = Field(min_length=1)
    mmio_gib: int | None = None
    """As in the other modes."""


class NoGPU(_Model):
    """A VM without a GPU, for comparison."""

    mode: Literal["none"] = "none"


AnyAccelerator = Passthrough | DynamicPassthrough | VGPU | DeviceGroup | NoGPU
Accelerator = Annotated[AnyAccelerator, Field(discriminator="mode")]

_ADAPTER: TypeAdapter[AnyAccelerator] = TypeAdapter(Accelerator)
_MODES = ("passthrough", "dynamic", "vgpu:PROFILE", "device-group:NAME", "none")
_DEFAULT_KEY = {"vgpu": "profile", "device-group": "group"}
"""The key of a value that has none on the command line."""


def parse(text: str) -> AnyAccelerator:
    """Parse ``MODE`` or ``MODE:KEY=VALUE,…``; a vGPU profile or device group needs no key.

    Raises BadInput.
    """
    mode, _, rest = text.partition(":")
    if mode not in {known.partition(":")[0] for known in _MODES}:
        raise BadInput(
            f"--accelerator: unknown mode '{mode}'", hint="the modes are: " + ", ".join(_MODES)
        )
    try:
        return _ADAPTER.validate_python({"mode": mode, **_values(mode, rest)})
    except ValidationError as error:
        raise _bad(text, mode, error) from None


def _bad(text: str, mode: str, error: ValidationError) -> BadInput:
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"][1:])
    kinds = (Passthrough, DynamicPassthrough, VGPU, DeviceGroup, NoGPU)
    known = next(k.model_fields for k in kinds if k.model_fields["mode"].default == mode)
    keys = ", ".join(key for key in known if key != "mode") or "no keys"
    if first["type"] == "extra_forbidden":
        return BadInput(f"--accelerator {text}: unknown key '{where}'", hint=f"{mode} has {keys}")
    return BadInput(f"--accelerator {text}: {where}: {first['msg'].lower()}")


def _values(mode: str, rest: str) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for part in filter(None, _parts(rest)):
        key, equals, value = part.partition("=")
        if not equals and mode in _DEFAULT_KEY:
            key, value = _DEFAULT_KEY[mode], part
        elif not equals:
            raise BadInput(f"--accelerator: '{part}' is not KEY=VALUE", hint="such as model=P100")
        values[key] = (*values.get(key, ()), value) if key == "addresses" else _number(key, value)
    return values


def _parts(rest: str) -> list[str]:
    return [part.strip() for part in rest.split(",")]


def _number(key: str, value: str) -> Any:
    """Parse PCI ids as hex, as other tools write them, with or without 0x."""
    if key not in ("vendor_id", "device_id"):
        return value
    try:
        return int(value, 16)
    except ValueError:
        raise BadInput(f"--accelerator: {key}={value} is not a hex number such as 15f8") from None
