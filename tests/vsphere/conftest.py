"""A simulated vCenter with two unrelated VMs that hold a GPU, and quick operations."""

import json
import os
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from gpuvm import lab, settings, vsphere
from gpuvm.lab.description import Timings, VMDescription, describe
from gpuvm.vsphere import VSphere

QUICK = Timings(clone_s=0, power_on_s=0, power_off_s=0, destroy_s=0, boot_s=0)


@dataclass(frozen=True)
class Rig:
    """``control`` is the simulator's own endpoint: it counts calls and adds VMs."""

    context: settings.Context
    control: str

    def connect(self) -> VSphere:
        return vsphere.connect(self.context, settings.password(self.context, None))

    def add(self, **vms: Any) -> None:
        self._post("/vms", vms)

    def reset_calls(self) -> None:
        self._post("/calls/reset", {})

    def calls(self) -> dict[str, int]:
        with urllib.request.urlopen(f"{self.control}/calls") as answer:
            return dict(json.load(answer).get(self.context.user, {}))

    def _post(self, path: str, body: Any) -> None:
        request = urllib.request.Request(
            self.control + path, json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        urllib.request.urlopen(request).close()


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
    reading, writing = os.pipe()
    held = (
        VMDescription(name="trainer", host="esx-05.lab.local", gpu="0000:3b:00.0"),
        VMDescription(name="sleeper", power="off", host="esx-06.lab.local", gpu="0000:3b:00.0"),
    )
    shape = home / "shape.json"
    wished = describe(hosts=6).model_copy(update={"vms": held, "timings": QUICK})
    shape.write_text(wished.to_json())
    status = lab.up(lab.LabOptions(name="vsphere", description=shape), lifeline=reading)
    os.close(reading)
    yield Rig(settings.load("vsphere"), str(status.control_url))
    lab.down("vsphere")
    os.close(writing)


@pytest.fixture(autouse=True)
def same_home(own_directories: None, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPUVM_CONFIG_DIR", str(home / "config"))
    monkeypatch.setenv("GPUVM_STATE_DIR", str(home / "state"))
