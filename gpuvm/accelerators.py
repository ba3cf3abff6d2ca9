"""How a VM gets its GPU: a union of five modes, discriminated by ``mode``.

    accelerator: {mode: passthrough, count: 1, model: P100}
    accelerator: {mode: dynamic, label: training}
    accelerator: {mode: vgpu, profile: grid_p100-4q}
    accelerator: {mode: device-group, group: "Nvidia:2@nvidia_a100-40c%NVLink"}
    accelerator: {mode: none}

On the command line, and in gpuvm.yaml too, the same in one word: ``passthrough:model=P100``,
``vgpu:grid_p100-4q``.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from gpuvm.errors import BadInput, Mistakes
from gpuvm.validation import Int, matching, problem_text

PCIAddress = Annotated[
    str,
    matching(
        r"[0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]", "is not a PCI address such as 0000:3b:00.0"
    ),
]
PCIId = Annotated[int, Field(ge=0, le=0xFFFF)]
Word = Annotated[str, Field(min_length=1, max_length=200)]
LARGEST_WINDOW_GIB = 65536


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class _WithGPU(_Model):
    count: Int = Field(default=1, ge=1, le=16)
    """Devices in each VM."""
    mmio_gib: Int | None = Field(default=None, ge=0, le=LARGEST_WINDOW_GIB)
    """64-bit MMIO window, a power of two; 0 for GPUs with small BARs: they need no window, nor EFI.

    By default it is computed from the GPUs."""


class Passthrough(_WithGPU):
    """Fixed DirectPath I/O: the VM gets whole GPUs of its host, chosen when it is created."""

    mode: Literal["passthrough"] = "passthrough"
    model: Word | None = None
    """Part of the GPU's name, such as P100."""
    addresses: tuple[PCIAddress, ...] = Field(default=(), max_length=64)
    """Only these PCI addresses of each host, such as 0000:3b:00.0."""
    label: Word | None = None
    """The hardware label of the device, set on the host."""


class DynamicPassthrough(_WithGPU):
    """Dynamic DirectPath I/O: a whole GPU of a kind, bound when the VM is powered on.

    Needs API 7.0 and hardware version 17. Without ids, those of the cluster's matching GPUs apply.
    """

    mode: Literal["dynamic"] = "dynamic"
    model: Word | None = None
    vendor_id: PCIId | None = None
    device_id: PCIId | None = None
    label: Word | None = None


class VGPU(_WithGPU):
    """A vGPU, by the name of a profile that the hosts offer."""

    mode: Literal["vgpu"] = "vgpu"
    profile: Word


class DeviceGroup(_Model):
    """A vendor device group: connected GPUs, assigned to a VM together (API 8.0.0.1).

    The hosts define its name and its devices (``gpuvm gpus`` lists them).
    """

    mode: Literal["device-group"] = "device-group"
    group: Word
    mmio_gib: Int | None = Field(default=None, ge=0, le=LARGEST_WINDOW_GIB)
    """As in the other modes."""


class NoGPU(_Model):
    """A VM without a GPU, for comparison."""

    mode: Literal["none"] = "none"


AnyAccelerator = Passthrough | DynamicPassthrough | VGPU | DeviceGroup | NoGPU

_MODES = ("passthrough", "dynamic", "vgpu:PROFILE", "device-group:NAME", "none")
_HEX = ("vendor_id", "device_id")
_DEFAULT_KEY = {"vgpu": "profile", "device-group": "group"}
"""The key of a value that has none on the command line."""


def _keys_of(value: Any) -> Any:
    """``MODE`` or ``MODE:KEY=VALUE,…`` as keys and values; whatever is no text as it is."""
    if not isinstance(value, str):
        return value
    mode, _, rest = value.partition(":")
    if mode not in {known.partition(":")[0] for known in _MODES}:
        raise ValueError(f"unknown mode '{mode[:40]}': the modes are {', '.join(_MODES)}")
    return {"mode": mode, **_values(mode, rest)}


Accelerator = Annotated[AnyAccelerator, Field(discriminator="mode"), BeforeValidator(_keys_of)]

_ADAPTER: TypeAdapter[AnyAccelerator] = TypeAdapter(Accelerator)


def parse(text: str) -> AnyAccelerator:
    """Parse ``MODE`` or ``MODE:KEY=VALUE,…``; a vGPU profile or device group needs no key.

    Raises BadInput.
    """
    try:
        return _ADAPTER.validate_python(text)
    except ValidationError as error:
        mistakes = [_mistake(text, detail) for detail in error.errors()]
        raise mistakes[0] if len(mistakes) == 1 else Mistakes(mistakes) from None


def written(accelerator: AnyAccelerator) -> str:
    """As ``parse`` reads it, without what is the default."""
    mode = accelerator.mode
    unnamed = _DEFAULT_KEY.get(mode)
    given = accelerator.model_dump(exclude_defaults=True, exclude={"mode"})
    parts: list[str] = []
    for key in sorted(given, key=lambda key: key != unnamed):
        for value in given[key] if isinstance(given[key], tuple) else (given[key],):
            text = f"{value:04x}" if key in _HEX else str(value)
            parts.append(text if key == unnamed else f"{key}={text}")
    return f"{mode}:{','.join(parts)}" if parts else mode


def _mistake(text: str, detail: ErrorDetails) -> BadInput:
    mode, where = text.partition(":")[0], ".".join(str(part) for part in detail["loc"][1:])
    if detail["type"] != "extra_forbidden":
        key = f" {text}: {where}" if where else ""
        return BadInput(f"--accelerator{key}: {problem_text(detail)}")
    kinds = (Passthrough, DynamicPassthrough, VGPU, DeviceGroup, NoGPU)
    known = next(k.model_fields for k in kinds if k.model_fields["mode"].default == mode)
    keys = ", ".join(key for key in known if key != "mode") or "no keys"
    return BadInput(f"--accelerator {text}: unknown key '{where}'", hint=f"{mode} has {keys}")


def _values(mode: str, rest: str) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for part in filter(None, _parts(rest)):
        key, equals, value = part.partition("=")
        if not equals and mode in _DEFAULT_KEY:
            key, value = _DEFAULT_KEY[mode], part
        elif not equals:
            raise ValueError(f"'{part}' is not KEY=VALUE, such as model=P100")
        if key in values and key != "addresses":
            raise ValueError(f"{key} is given twice")
        values[key] = (*values.get(key, ()), value) if key == "addresses" else _number(key, value)
    return values


def _parts(rest: str) -> list[str]:
    return [part.strip() for part in rest.split(",")]


def _number(key: str, value: str) -> Any:
    """Parse PCI ids as hex, as other tools write them, with or without 0x."""
    if key not in _HEX:
        return value
    try:
        return int(value, 16)
    except ValueError:
        raise ValueError(f"{key}={value} is not a hex number such as 15f8") from None
