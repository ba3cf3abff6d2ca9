"""The records of a run as a report reads them (docs/results-format.md).

Fields that are not known here are ignored and lines with an unknown ``event`` or ``kind`` skipped:
a newer workload stays readable. What is known must be right, or BadInput names file and line.
"""

from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from gpuvm.errors import BadInput
from gpuvm.report.reading import Lines, read_json, read_lines


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)


class ManifestGPU(_Record):
    pci_address: str
    model: str = "unknown"


class ManifestVM(_Record):
    name: str = Field(pattern=r"^[^/\x00]*[^/\x00.][^/\x00]*$")
    """Also the name of the VM's folder in the run, hence nothing that leads elsewhere."""
    index: int = 0
    host: str = ""
    address: str | None = None
    role: str = "single"
    accelerator: str = "none"
    gpus: tuple[ManifestGPU, ...] = ()
    simulated: bool | None = None


class ManifestVCenter(_Record):
    name: str
    url: str = ""
    version: str = ""


class Manifest(_Record):
    version: Literal[1] = Field(alias="schema")
    run_id: str
    workload: str
    args: tuple[str, ...] = ()
    distributed: bool = False
    vcenter: ManifestVCenter
    cluster: str = ""
    deployment: str = ""
    started: datetime
    ended: datetime | None = None
    status: Literal["running", "succeeded", "failed", "interrupted"]
    error: str | None = None
    vms: tuple[ManifestVM, ...] = ()
    gpuvm_version: str = ""


class PhaseEvent(_Record):
    kind: Literal["phase"]
    t: float
    name: str
    vm: str | None = None
    state: Literal["start", "end"]
    seconds: float | None = None
    ok: bool | None = None


class WarningEvent(_Record):
    kind: Literal["warning"]
    text: str = ""
    vm: str | None = None


class _Timing(_Record):
    t: float


class Start(_Timing):
    event: Literal["start"]
    device: str | None = None
    device_name: str | None = None
    tensorflow: str | None = None
    keras: str | None = None


class WorkloadPhase(_Timing):
    event: Literal["phase"]
    name: str
    state: Literal["start", "end"]
    seconds: float | None = None


class ShardLine(_Timing):
    event: Literal["shard"]
    worker: int
    workers: int
    examples: int
    of: int
    ids_sha256: str | None = None


class Step(_Timing):
    event: Literal["step"]
    phase: str = "train"
    step: int
    steps: int | None = None
    loss: float | None = None
    step_seconds: float | None = None
    examples_per_second: float | None = None


class Compile(_Timing):
    event: Literal["compile"]
    seconds: float


class Checkpoint(_Timing):
    event: Literal["checkpoint"]
    step: int


class ScoreLine(_Timing):
    event: Literal["score"]
    name: str
    value: float
    split: str | None = None
    decoder: str | None = None
    examples: int | None = None


class End(_Timing):
    event: Literal["end"]
    ok: bool
    seconds: float | None = None
    weights_sha256: str | None = None


class SampleRecord(_Record):
    image: str | None = None
    caption: str
    references: tuple[str, ...] = ()
    exact: bool | None = None


class Results(_Record):
    scores: dict[str, Any] = {}
    samples: tuple[SampleRecord, ...] = ()
    notes: tuple[str, ...] = ()


Timing = Start | WorkloadPhase | ShardLine | Step | Compile | Checkpoint | ScoreLine | End

_MANIFEST = TypeAdapter(Manifest)
_RESULTS = TypeAdapter(Results)
_RUN_EVENT: TypeAdapter[PhaseEvent | WarningEvent] = TypeAdapter(
    Annotated[PhaseEvent | WarningEvent, Field(discriminator="kind")]
)
_TIMING: TypeAdapter[Timing] = TypeAdapter(Annotated[Timing, Field(discriminator="event")])


def read_manifest(run_dir: Path) -> Manifest:
    """Raises BadInput when the folder is not a run or its manifest is corrupt."""
    file = run_dir / "manifest.json"
    if not file.is_file():
        raise BadInput(
            f"{run_dir} is not a run: it has no manifest.json",
            hint="a run is a folder such as runs/captioning-20261124-013000-ab12",
        )
    return read_json(file, _MANIFEST)


def read_results(vm_dir: Path) -> Results | None:
    """What the workload concluded; None when it did not get that far."""
    file = vm_dir / "results.json"
    return read_json(file, _RESULTS) if file.is_file() else None


def read_events(run_dir: Path) -> Lines[PhaseEvent | WarningEvent]:
    return read_lines(run_dir / "events.jsonl", _RUN_EVENT)


def read_timings(vm_dir: Path) -> Lines[Timing]:
    return read_lines(vm_dir / "timings.jsonl", _TIMING)
