"""Reads the records of a run for a report (docs/results-format.md).

Unknown fields and lines with an unknown ``event`` or ``kind`` are ignored, so that records of newer
workloads can be read. Known fields must be valid, or BadInput names file and line.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from gpuvm.errors import BadInput
from gpuvm.results import INCIDENTS, Incident, Manifest
from gpuvm.validation import problem_text


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)


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
    params: Any = None


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
    of: Any = None
    loss: float | None = None
    step_seconds: float | None = None
    examples_per_second: float | None = None

    communication_seconds: float | None = None


class Average(_Timing):
    """After a round of local SGD; ``seconds`` is that of the whole call: sending, waiting for the
    others, receiving. ``step`` counts the steps of all workers.
    """

    event: Literal["average"]
    phase: str = "train"
    step: int
    members: tuple[int, ...] = ()
    seconds: float
    waited_seconds: float | None = None


class Rejoined(_Timing):
    """The round of local SGD whose average comes next was lost."""

    event: Literal["rejoined"]
    phase: str = "train"


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
    of: str | None = None
    baseline_of: str | None = None
    means: str | None = None


class End(_Timing):
    event: Literal["end"]
    ok: bool
    steps: int | None = None
    seconds: float | None = None
    weights_sha256: str | None = None


class GPUSample(_Record):
    """Of one GPU at one time; see gpuvm/guest/scripts/gpu_samples.py."""

    t: float = Field(allow_inf_nan=False)
    gpu: int
    uuid: str = ""
    utilization: float | None = Field(default=None, allow_inf_nan=False)
    memory_mib: float | None = Field(default=None, allow_inf_nan=False)
    power_w: float | None = Field(default=None, allow_inf_nan=False)
    interval_s: float = Field(default=2.0, gt=0, allow_inf_nan=False)


class SampleRecord(_Record):
    image: str | None = None
    caption: str
    references: tuple[str, ...] = ()
    exact: bool | None = None
    at: dict[str, float] = {}
    sheet: bool = False


class Results(_Record):
    scores: dict[str, Any] = {}
    samples: tuple[SampleRecord, ...] = ()
    notes: tuple[str, ...] = ()


Timing = (
    Start
    | WorkloadPhase
    | ShardLine
    | Step
    | Average
    | Rejoined
    | Compile
    | Checkpoint
    | ScoreLine
    | End
)

_MANIFEST = TypeAdapter(Manifest)
_RESULTS = TypeAdapter(Results)
_RUN_EVENT: TypeAdapter[PhaseEvent | WarningEvent] = TypeAdapter(
    Annotated[PhaseEvent | WarningEvent, Field(discriminator="kind")]
)
_GPU_SAMPLE = TypeAdapter(GPUSample)
_INCIDENT = TypeAdapter(Incident)
_TIMING: TypeAdapter[Timing] = TypeAdapter(Annotated[Timing, Field(discriminator="event")])


Record = TypeVar("Record")


@dataclass(frozen=True)
class Lines(Generic[Record]):
    """``truncated``: the last line was incomplete and skipped: the writer was killed."""

    records: tuple[Record, ...]
    truncated: bool = False
    exists: bool = True


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
    """The workload's results; None when it did not finish."""
    file = vm_dir / "results.json"
    return read_json(file, _RESULTS) if file.is_file() else None


def read_events(run_dir: Path) -> Lines[PhaseEvent | WarningEvent]:
    return read_lines(run_dir / "events.jsonl", _RUN_EVENT)


def read_timings(vm_dir: Path) -> Lines[Timing]:
    return read_lines(vm_dir / "timings.jsonl", _TIMING)


def read_scores(vm_dir: Path) -> Lines[Timing]:
    """Only the lines with scores, and those of starts: a run has thousands of others."""
    return read_lines(vm_dir / "timings.jsonl", _TIMING, having=(b'"score"', b'"start"'))


def read_incidents(run_dir: Path) -> Lines[Incident]:
    return read_lines(run_dir / INCIDENTS, _INCIDENT, tagged=False)


def read_gpu_samples(vm_dir: Path) -> Lines[GPUSample]:
    return read_lines(vm_dir / "gpu_samples.jsonl", _GPU_SAMPLE, tagged=False)


def read_json(file: Path, kind: TypeAdapter[Record]) -> Record:
    """Raises BadInput with file and line for invalid JSON or invalid content."""
    text = file.read_bytes()
    try:
        return kind.validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        line = _json_line(text, first)
        raise BadInput(f"{file}:{line}: {_problem_text(first, first['loc'])}") from None


def read_lines(
    file: Path, kind: TypeAdapter[Record], *, tagged: bool = True, having: Sequence[bytes] = ()
) -> Lines[Record]:
    """Reads a record from each line; of a tagged union, lines with an unknown tag are skipped.

    Lines without any text of ``having`` are passed over unread.

    Raises BadInput with file and line for other errors, except a truncated last line.
    """
    if not file.is_file():
        return Lines((), exists=False)
    lines = file.read_bytes().split(b"\n")
    records: list[Record] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip() or (having and not any(text in line for text in having)):
            continue
        try:
            records.append(kind.validate_json(line))
        except ValidationError as error:
            first = error.errors()[0]
            if first["type"] == "union_tag_invalid":
                continue
            if first["type"] == "json_invalid" and number == len(lines):
                return Lines(tuple(records), truncated=True)
            # A union's location begins with the tag, which is not a field.
            raise BadInput(
                f"{file}:{number}: {_problem_text(first, first['loc'][tagged:])}"
            ) from None
    return Lines(tuple(records))


def _problem_text(detail: ErrorDetails, loc: Sequence[int | str]) -> str:
    where = ".".join(str(part) for part in loc)
    if detail["type"] == "json_invalid":
        return f"not JSON: {detail['ctx']['error']}"
    if detail["type"] == "union_tag_not_found":
        return f"{detail['ctx']['discriminator']} is missing".replace("'", "")
    if detail["type"] == "missing":
        return f"{where} is missing"
    message = problem_text(detail)
    return f"{where}: {message}" if where else message


def _json_line(text: bytes, detail: ErrorDetails) -> int:
    """The line of the syntax error, or of the deepest existing part of the location."""
    if detail["type"] == "json_invalid":
        broken = re.search(r"line (\d+)", detail["ctx"]["error"])
        return int(broken[1]) if broken else 1
    line, node = 1, yaml.compose(text, Loader=yaml.SafeLoader)  # JSON is YAML, with line numbers
    for part in detail["loc"]:
        child = _child(node, part)
        if child is None:
            break
        line, node = child.start_mark.line + 1, child
    return line


def _child(node: yaml.Node | None, part: int | str) -> yaml.Node | None:
    if isinstance(node, yaml.MappingNode):
        return next((value for key, value in node.value if key.value == part), None)
    if isinstance(node, yaml.SequenceNode) and isinstance(part, int):
        return node.value[part] if part < len(node.value) else None
    return None
