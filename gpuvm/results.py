"""The local records of runs: ``runs/<run-id>/`` (docs/results-format.md).

    run = results.create(workload="captioning", …)
    run.sink(event); run.finish("succeeded")
    results.load("captioning-20261124-013000-ab12"); results.load()   # the latest
    results.load(workloads=["captioning"])                            # the latest of those

The manifest exists from the start, with status ``running``, and is replaced atomically.
"""

import json
import re
import secrets
import shutil
import threading
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

import gpuvm
from gpuvm import ownership, paths
from gpuvm.errors import Ambiguous, BadInput, NotFound
from gpuvm.events import Event, JsonlSink
from gpuvm.files import RUN, read_text, write_atomic
from gpuvm.inventory import VCenter
from gpuvm.validation import matching, problem_text

Status = Literal["running", "succeeded", "failed", "interrupted", "cancelled"]
Strategy = Literal["local-sgd", "allreduce"]
Happening = Literal["lost", "back", "given up"]
SCHEMA: Final = 1
"""As gpuvm.files.RUN has it."""
INCIDENTS: Final = "incidents.jsonl"
MANIFEST_KIB = 16 * 1024
"""With the hash of each file of a project of 100,000 files."""


class _Model(BaseModel):
    """Can be read from any version: missing keys have defaults where possible, and unknown keys are
    ignored.
    """

    model_config = ConfigDict(frozen=True, populate_by_name=True, extra="ignore")


class RunGPU(_Model):
    pci_address: str
    model: str = "unknown"
    vendor_id: int | None = None
    device_id: int | None = None


class RunVM(_Model):
    """``role`` is chief, worker or single; ``simulated`` is whether its nvidia-smi says so.

    ``name`` is also its folder in the run, and so must not be another path.
    """

    name: Annotated[str, matching(r"[^/\x00]*[^/\x00.][^/\x00]*", "is no name of a folder")]
    index: int = 0
    host: str = ""
    address: str | None = None
    role: str = "single"
    accelerator: str = "none"
    gpus: tuple[RunGPU, ...] = ()
    simulated: bool | None = False
    cpus: int = 0
    memory_gib: float = 0.0
    """Both 0 in records of older versions."""


class RunVCenter(_Model):
    name: str
    url: str = ""
    version: str = ""


class Incident(_Model):
    """What happened to a worker of a distributed run that went on.

    ``lost_steps`` are the steps of the whole training that were done again, ``seconds`` is how long
    the worker was away.
    """

    at: datetime
    vm: str
    what: Happening
    why: str = ""
    lost_steps: int | None = None
    seconds: float | None = None


class Manifest(_Model):
    version: Literal[1] = Field(default=SCHEMA, alias="schema")
    run_id: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    workload: str
    args: tuple[str, ...] = ()
    distributed: bool = False
    strategy: Strategy | None = None
    """How the workers of a distributed run train together; None in older records."""
    vcenter: RunVCenter
    cluster: str = ""
    deployment: str = ""
    operator: str = ""
    """Who started it, as ``user@host``; empty in older records."""
    then: Literal["shutdown"] | None = None
    """What its guests do after the run."""
    gpus_hidden: bool = False
    """The program saw no GPU, although its VMs have one (``--compare none``)."""
    contract: bool = True
    """Whether its program keeps the workloads' contract (workloads/README.md)."""
    project: Mapping[str, str] = {}
    """The SHA-256 of each file of the user's project."""
    started: datetime
    ended: datetime | None = None
    status: Status = "running"
    error: str | None = None
    warnings: tuple[str, ...] = ()
    vms: tuple[RunVM, ...] = ()
    gpuvm_version: str = ""
    """The gpuvm version that started the run; empty if not recorded."""


class Run:
    """A run's folder; ``sink`` records events."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.dir, self.manifest = folder, manifest
        self._events: JsonlSink | None = None
        self._warnings = list(manifest.warnings)
        self._incidents = threading.Lock()

    @property
    def run_id(self) -> str:
        return self.manifest.run_id

    @property
    def place(self) -> str:
        """Its folder, as messages name it."""
        return paths.shown(self.dir)

    def vm_dir(self, vm: str) -> Path:
        return self.dir / vm

    def sink(self, event: Event) -> None:
        if self._events is None:
            self._events = JsonlSink(self.dir / "events.jsonl")
        self._events(event)
        if event.kind == "warning":
            self._warnings.append(f"{event.vm}: {event.text}" if event.vm else event.text or "")

    def add_incident(
        self,
        vm: str,
        what: Happening,
        why: str = "",
        *,
        lost_steps: int | None = None,
        seconds: float | None = None,
    ) -> None:
        """Appends a line to the record at once; may be called from several threads."""
        incident = Incident(
            at=datetime.now(UTC),
            vm=vm,
            what=what,
            why=why,
            lost_steps=lost_steps,
            seconds=None if seconds is None else round(seconds, 3),
        )
        with self._incidents, (self.dir / INCIDENTS).open("a", encoding="utf-8") as file:
            file.write(f"{incident.model_dump_json()}\n")

    def close(self) -> None:
        """Closes the event log; a later event opens it again."""
        if self._events is not None:
            self._events.close()
            self._events = None

    def update_vms(self, vms: Sequence[RunVM]) -> None:
        """Updates the VMs in the manifest."""
        self._write(self.manifest.model_copy(update={"vms": tuple(vms)}))

    def finish(self, status: Status, error: str | None = None) -> None:
        ended = {"status": status, "error": error, "ended": datetime.now(UTC)}
        change = ended | {"warnings": tuple(self._warnings)}
        self._write(self.manifest.model_copy(update=change))
        self.close()

    def discard(self) -> None:
        """Deletes the record of a run that was refused before anything was sent."""
        self.close()
        shutil.rmtree(self.dir)

    @contextmanager
    def finishing(self, status: Status, error: str) -> Iterator[None]:
        """Finishes the record after the block, whatever happens in it."""
        try:
            yield
        finally:
            self.finish(status, error)

    def _write(self, manifest: Manifest) -> None:
        self.manifest = manifest
        text = manifest.model_dump_json(by_alias=True, indent=2) + "\n"
        write_atomic(self.dir / "manifest.json", text)


def create(
    *,
    workload: str,
    args: Sequence[str],
    distributed: bool,
    strategy: Strategy | None = None,
    vcenter: VCenter,
    cluster: str,
    deployment: str,
    vms: Sequence[RunVM],
    provisioning: Path | None = None,
    then: Literal["shutdown"] | None = None,
    gpus_hidden: bool = False,
    contract: bool = True,
    project: Mapping[str, str] | None = None,
) -> Run:
    """Creates the folder; the events of the provisioning are copied to its record."""
    started = datetime.now(UTC)
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", workload).lstrip(".-") or "run"
    run_id = f"{name}-{started:%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
    folder = (paths.runs_dir() / run_id).absolute()
    folder.mkdir(parents=True)
    manifest = Manifest(
        run_id=run_id,
        workload=workload,
        args=tuple(args),
        distributed=distributed,
        strategy=strategy,
        vcenter=RunVCenter(name=vcenter.name, url=vcenter.url, version=vcenter.version),
        cluster=cluster,
        deployment=deployment,
        operator=ownership.operator(),
        started=started,
        then=then,
        gpus_hidden=gpus_hidden,
        contract=contract,
        project=project or {},
        vms=tuple(vms),
        gpuvm_version=gpuvm.__version__,
    )
    if provisioning is not None and provisioning.exists():
        write_atomic(folder / "events.jsonl", provisioning.read_bytes())
    run = Run(folder, manifest)
    run.update_vms(manifest.vms)
    return run


def adopt(manifest: Manifest) -> Run:
    """The record of a run that was started on another machine, created if necessary."""
    folder = (paths.runs_dir() / manifest.run_id).absolute()
    if (folder / "manifest.json").exists():
        return _load(manifest.run_id)
    folder.mkdir(parents=True, exist_ok=True)
    run = Run(folder, manifest)
    run.update_vms(manifest.vms)
    return run


def load(run_id: str | None = None, *, workloads: Sequence[str] = ()) -> Run:
    """The run with that id or prefix, or the latest run, optionally of these workloads.

    Raises NotFound, Ambiguous and BadInput.
    """
    known = list_runs()
    return _load(_latest(known, workloads) if run_id is None else named(known, run_id))


def named(known: Sequence[str], wanted: str) -> str:
    """The id that was typed, or the only one of ``known`` that begins so.

    Raises Ambiguous with the candidates, NotFound with the latest runs.
    """
    found = [run_id for run_id in known if wanted and run_id.startswith(wanted)]
    if wanted in known or len(found) == 1:
        return wanted if wanted in known else found[0]
    if found:
        raise Ambiguous("run", found[-10:], option="more of its id")
    raise NotFound("run", wanted, known[-10:], where=paths.shown(paths.runs_dir()))


def _event(line: str) -> Event | None:
    """None for what no gpuvm wrote, such as a line that was cut off."""
    try:
        return Event(**json.loads(line))
    except (ValueError, TypeError):
        return None


def _latest(known: Sequence[str], workloads: Sequence[str]) -> str:
    for run_id in reversed(known):
        if not workloads or _load(run_id).manifest.workload in workloads:
            return run_id
    what = f"run of {' or '.join(workloads)}" if workloads else "run"
    raise BadInput(
        f"there is no {what} in {paths.shown(paths.runs_dir())}",
        hint="start one with 'gpuvm run captioning --distributed', or set GPUVM_RUNS_DIR",
    )


def _load(run_id: str) -> Run:
    folder = (paths.runs_dir() / run_id).absolute()
    content = read_text(folder / "manifest.json", limit_kib=MANIFEST_KIB)
    with suppress(ValueError, AttributeError):  # said below
        RUN.check(folder / "manifest.json", json.loads(content).get("schema"))
    try:
        return Run(folder, Manifest.model_validate_json(content))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        where = "".join(
            f"{part}: " for part in (paths.shown(folder / "manifest.json"), key) if part
        )
        raise BadInput(f"{where}{problem_text(first)}") from None


def list_runs() -> list[str]:
    """Run ids, the oldest first."""
    found = [file.parent.name for file in paths.runs_dir().glob("*/manifest.json")]
    return sorted(found, key=when)


def when(run_id: str) -> str:
    """The sort key of run ids: the time, which follows the workload's name."""
    return "-".join(run_id.split("-")[-3:])


def provisioning_record(vcenter_uuid: str, deployment: str) -> Path:
    """The local file of a deployment's provisioning events (docs/results-format.md)."""
    return paths.state_dir() / "provisioning" / vcenter_uuid / f"{deployment}.jsonl"


class Recorder:
    """A sink that buffers events until ``keep`` decides where to write them."""

    def __init__(self) -> None:
        self._buffered: list[Event] = []
        self._sink: JsonlSink | None = None

    def __call__(self, event: Event) -> None:
        if self._sink is None:
            self._buffered.append(event)
        else:
            self._sink(event)

    def keep(self, file: Path, *, older: Container[str] = ()) -> None:
        """Writes the buffered and all further events to ``file``, replacing it.

        What it has of the VMs in ``older``, which stay as they are, remains.
        """
        lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
        stay = [
            line
            for line in lines
            if (event := _event(line)) and (event.vm in older or event.name == "plan")
        ]
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(file, "".join(f"{line}\n" for line in stay))
        self._sink = JsonlSink(file)
        for event in self._buffered:
            self._sink(event)
        self._buffered.clear()

    def close(self) -> None:
        if self._sink is not None:
            self._sink.close()
