"""A simulated vCenter with two unrelated VMs that hold a GPU, and quick operations."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from simulated_vcenter import QUICK, Rig, rig_of

from gpuvm.lab.description import VMDescription, describe


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, built_once: Path) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GPUVM_CACHE_DIR", str(built_once))
        patch.setenv("GPUVM_CONFIG_DIR", str(folder / "config"))
        patch.setenv("GPUVM_STATE_DIR", str(folder / "state"))
        yield folder


@pytest.fixture(scope="module")
def rig(home: Path) -> Iterator[Rig]:
    held = (
        VMDescription(name="trainer", host="esx-05.lab.local", gpu="0000:3b:00.0"),
        VMDescription(name="sleeper", power="off", host="esx-06.lab.local", gpu="0000:3b:00.0"),
    )
    shape = describe(hosts=6).model_copy(update={"vms": held, "timings": QUICK})
    with rig_of(home, "vsphere", shape) as made:
        yield made


@pytest.fixture(autouse=True)
def same_home(own_directories: None, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPUVM_CONFIG_DIR", str(home / "config"))
    monkeypatch.setenv("GPUVM_STATE_DIR", str(home / "state"))
