"""What a run leaves: ``runs/<run-id>/`` as docs/results-format.md describes it.

    run = results.create(workload="captioning", …)
    run.sink(event); run.finish("succeeded")
    results.load("captioning-20261124-013000-ab12"); results.load()   # the latest
    results.load(workloads=["captioning"])                            # the latest of those

A manifest is there from the first moment, with status ``running``, and is replaced as a whole.
"""

import getpass
import re
import secrets
import shutil
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

import gpuvm
from gpuvm import paths
from gpuvm.errors import Ambiguous, BadInput, NotFound
from gpuvm.events import Event, JsonlSink
from gpuvm.files import write_atomic
from gpuvm.inventory import VCenter

Status = Literal["running", "succeeded", "failed", "interrupted", "cancelled"]
SCHEMA: Final = 1


class _Model(BaseModel):
    """Written by this version, read from any: keys that are missing have a default wherever that
    is possible, and keys that are not known are ignored.
    """

    model_config = ConfigDict(frozen=True, populate_by_name=True, extra="ignore")


class RunGPU(_Model):
    pci_address: str
    model: str = "unknown"
    vendor_id: int | None = None
    device_id: int | None = None


class RunVM(_Model):
    """``role`` is chief, worker or single; ``simulated`` is what its nvidia-smi says of its GPUs.

    ``name`` is also the name of its folder in the run, hence nothing that leads elsewhere.
    """

    name: str = Field(pattern=r"^[^/\x00]*[^/\x00.][^/\x00]*$")
    index: int = 0
    host: str = ""
    address: str | None = None
    role: str = "single"
    accelerator: str = "none"
    gpus: tuple[RunGPU, ...] = ()
    simulated: bool | None = False


class RunVCenter(_Model):
    name: str
    url: str = ""
    version: str = ""


class Manifest(_Model):
    version: Literal[1] = Field(default=SCHEMA, alias="schema")
    run_id: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    workload: str
    args: tuple[str, ...] = ()
    distributed: bool = False
    vcenter: RunVCenter
    cluster: str = ""
    deployment: str = ""
    operator: str = ""
    """Who started it, as ``user@host``; empty in older records."""
    then: Literal["shutdown"] | None = None
    """What its guests do when it has ended."""
    contract: bool = True
    """Whether its program keeps the workloads' contract (workloads/README.md)."""
    project: Mapping[str, str] = {}
    """The files of the user's project, with the SHA-256 of each."""
    started: datetime
    ended: datetime | None = None
    status: Status = "running"
    error: str | None = None
    warnings: tuple[str, ...] = ()
    vms: tuple[RunVM, ...] = ()
    gpuvm_version: str = ""
    """The version that wrote it; empty where the record does not say."""


class Run:
    """One run's folder; ``sink`` takes the events that belong to its record."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.dir, self.manifest = folder, manifest
        self._events: JsonlSink | None = None
        self._warnings = list(manifest.warnings)

    @property
    def run_id(self) -> str:
        return self.manifest.run_id

    def vm_dir(self, vm: str) -> Path:
        return self.dir / vm

    def sink(self, event: Event) -> None:
        if self._events is None:
            self._events = JsonlSink(self.dir / "events.jsonl")
        self._events(event)
        if event.kind == "warning":
            self._warnings.append(f"{event.vm}: {event.text}" if event.vm else event.text or "")

    def close(self) -> None:
        """No more events are expected; one that comes all the same is still recorded."""
        if self._events is not None:
            self._events.close()
            self._events = None

    def describe_vms(self, vms: Sequence[RunVM]) -> None:
        """What was found out about the guests after the run began."""
        self._write(self.manifest.model_copy(update={"vms": tuple(vms)}))

    def finish(self, status: Status, error: str | None = None) -> None:
        ended = {"status": status, "error": error, "ended": datetime.now(UTC)}
        change = ended | {"warnings": tuple(self._warnings)}
        self._write(self.manifest.model_copy(update=change))
        self.close()

    def discard(self) -> None:
        """Remove the record of a run that was refused before anything was sent."""
        self.close()
        shutil.rmtree(self.dir)

    @contextmanager
    def finishing(self, status: Status, error: str) -> Iterator[None]:
        """The last things to do in a run that went wrong; it is finished however they go."""
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
    vcenter: VCenter,
    cluster: str,
    deployment: str,
    vms: Sequence[RunVM],
    provisioning: Path,
    then: Literal["shutdown"] | None = None,
    contract: bool = True,
    project: Mapping[str, str] | None = None,
) -> Run:
    """Makes the folder; the phases of the provisioning before it become part of the record."""
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
        vcenter=RunVCenter(name=vcenter.name, url=vcenter.url, version=vcenter.version),
        cluster=cluster,
        deployment=deployment,
        operator=f"{getpass.getuser()}@{socket.gethostname()}",
        started=started,
        then=then,
        contract=contract,
        project=project or {},
        vms=tuple(vms),
        gpuvm_version=gpuvm.__version__,
    )
    if provisioning.exists():
        (folder / "events.jsonl").write_bytes(provisioning.read_bytes())
    run = Run(folder, manifest)
    run.describe_vms(manifest.vms)
    return run


def adopt(manifest: Manifest) -> Run:
    """The folder of a run that was started on another machine; made if it is not there."""
    folder = (paths.runs_dir() / manifest.run_id).absolute()
    if (folder / "manifest.json").exists():
        return _load(manifest.run_id)
    folder.mkdir(parents=True, exist_ok=True)
    run = Run(folder, manifest)
    run.describe_vms(manifest.vms)
    return run


def load(run_id: str | None = None, *, workloads: Sequence[str] = ()) -> Run:
    """The run of that id or prefix, or the latest, of one of those workloads if any are named.

    Raises NotFound with what there is, Ambiguous and BadInput.
    """
    known = list_runs()
    return _load(_latest(known, workloads) if run_id is None else _named(known, run_id))


def _named(known: Sequence[str], run_id: str) -> str:
    """The id itself or the only one that begins so."""
    found = [known_id for known_id in known if run_id and known_id.startswith(run_id)]
    if run_id in known or len(found) == 1:
        return run_id if run_id in known else found[0]
    if found:
        raise Ambiguous("run", found[-10:], option="more of its id")
    raise NotFound("run", run_id, known[-10:], where=str(paths.runs_dir().absolute()))


def _latest(known: Sequence[str], workloads: Sequence[str]) -> str:
    for run_id in reversed(known):
        if not workloads or _load(run_id).manifest.workload in workloads:
            return run_id
    what = f"run of {' or '.join(workloads)}" if workloads else "run"
    raise BadInput(
        f"there is no {what} in {paths.runs_dir().absolute()}",
        hint="'gpuvm run captioning --distributed' makes one; GPUVM_RUNS_DIR looks elsewhere",
    )


def _load(run_id: str) -> Run:
    folder = (paths.runs_dir() / run_id).absolute()
    try:
        text = (folder / "manifest.json").read_text(encoding="utf-8")
        return Run(folder, Manifest.model_validate_json(text))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise BadInput(f"{folder / 'manifest.json'}: {key}: {first['msg']}") from None


def list_runs() -> list[str]:
    """Run ids, the oldest first."""
    found = [file.parent.name for file in paths.runs_dir().glob("*/manifest.json")]
    return sorted(found, key=when)


def when(run_id: str) -> str:
    """What orders run ids: the time in them, after the workload's name."""
    return "-".join(run_id.split("-")[-3:])


def provisioning_record(vcenter_uuid: str, deployment: str) -> Path:
    """A file of events (docs/results-format.md), on this machine only; it decides nothing."""
    return paths.state_dir() / "provisioning" / vcenter_uuid / f"{deployment}.jsonl"


class Recorder:
    """A sink that holds events back until it is known that they are worth a record."""

    def __init__(self) -> None:
        self._held: list[Event] = []
        self._sink: JsonlSink | None = None

    def __call__(self, event: Event) -> None:
        if self._sink is None:
            self._held.append(event)
        else:
            self._sink(event)

    def keep(self, file: Path) -> None:
        """Replaces the record in ``file`` by what was held and what is to come."""
        file.unlink(missing_ok=True)
        self._sink = JsonlSink(file)
        for event in self._held:
            self._sink(event)
        self._held.clear()

    def close(self) -> None:
        if self._sink is not None:
            self._sink.close()
