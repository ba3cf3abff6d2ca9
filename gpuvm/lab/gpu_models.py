"""GPU models that a lab can have: ``gpuvm lab up --gpu a100``.

PCI ids are those of the PCI ID repository; ``name`` is what a host lists, ``driver_name`` what the
NVIDIA driver reports in a guest. BAR sizes are from the data sheets.
"""

from dataclasses import dataclass

from gpuvm.devices import NVIDIA_VENDOR_ID
from gpuvm.errors import NotFound


@dataclass(frozen=True)
class GPUModel:
    device_id: int
    sub_device_id: int
    name: str
    driver_name: str
    memory_gib: int
    bars_mib: tuple[int, int, int]
    compute_cap: str
    vendor_id: int = NVIDIA_VENDOR_ID


GPU_MODELS = {
    "p4": GPUModel(0x1BB3, 0x11D8, "GP104GL [Tesla P4]", "Tesla P4", 8, (16, 256, 32), "6.1"),
    "p40": GPUModel(0x1B38, 0x11D9, "GP102GL [Tesla P40]", "Tesla P40", 24, (16, 32768, 32), "6.1"),
    "p100": GPUModel(
        0x15F8,
        0x118F,
        "GP100GL [Tesla P100 PCIe 16GB]",
        "Tesla P100-PCIE-16GB",
        16,
        (16, 16384, 32),
        "6.0",
    ),
    "p100-12": GPUModel(
        0x15F7,
        0x11DA,
        "GP100GL [Tesla P100 PCIe 12GB]",
        "Tesla P100-PCIE-12GB",
        12,
        (16, 16384, 32),
        "6.0",
    ),
    "v100": GPUModel(
        0x1DB4,
        0x1214,
        "GV100GL [Tesla V100 PCIe 16GB]",
        "Tesla V100-PCIE-16GB",
        16,
        (16, 16384, 32),
        "7.0",
    ),
    "v100-32": GPUModel(
        0x1DB6,
        0x124A,
        "GV100GL [Tesla V100 PCIe 32GB]",
        "Tesla V100-PCIE-32GB",
        32,
        (16, 32768, 32),
        "7.0",
    ),
    "t4": GPUModel(0x1EB8, 0x12A2, "TU104GL [Tesla T4]", "Tesla T4", 16, (16, 256, 32), "7.5"),
    "a10": GPUModel(0x2236, 0x1482, "GA102GL [A10]", "NVIDIA A10", 24, (16, 32768, 32), "8.6"),
    "a30": GPUModel(0x20B7, 0x1532, "GA100GL [A30 PCIe]", "NVIDIA A30", 24, (16, 32768, 32), "8.0"),
    "a40": GPUModel(0x2235, 0x145A, "GA102GL [A40]", "NVIDIA A40", 48, (16, 65536, 32), "8.6"),
    "a100": GPUModel(
        0x20F1,
        0x145F,
        "GA100 [A100 PCIe 40GB]",
        "NVIDIA A100-PCIE-40GB",
        40,
        (16, 65536, 32),
        "8.0",
    ),
    "a100-80": GPUModel(
        0x20B5,
        0x1533,
        "GA100 [A100 PCIe 80GB]",
        "NVIDIA A100 80GB PCIe",
        80,
        (16, 131072, 32),
        "8.0",
    ),
    "l4": GPUModel(0x27B8, 0x16CA, "AD104GL [L4]", "NVIDIA L4", 24, (16, 32768, 32), "8.9"),
    "l40s": GPUModel(0x26B9, 0x1851, "AD102GL [L40S]", "NVIDIA L40S", 48, (16, 65536, 32), "8.9"),
    "h100": GPUModel(
        0x2331, 0x1626, "GH100 [H100 PCIe]", "NVIDIA H100 PCIe", 80, (16, 131072, 32), "9.0"
    ),
}


def gpu_model(name: str) -> GPUModel:
    """Raises NotFound, which lists the known names."""
    if name not in GPU_MODELS:
        raise NotFound("GPU model", name, list(GPU_MODELS), where="the lab's GPU models")
    return GPU_MODELS[name]


def model_of(vendor_id: int, device_id: int) -> GPUModel | None:
    """Returns the model with these PCI ids."""
    for model in GPU_MODELS.values():
        if (model.vendor_id, model.device_id) == (vendor_id, device_id):
            return model
    return None
