"""A plan as a value: its steps, one per VM, and its findings."""

from dataclasses import dataclass
from typing import Literal

from gpuvm.devices import GPU, Device
from gpuvm.inventory import VM, Cluster, Datastore, Host, Network, Snapshot, VCenter, VMTemplate
from gpuvm.spec import ClusterSpec

Action = Literal["create", "power-on", "keep", "remove"]


@dataclass(frozen=True)
class Finding:
    """A warning that does not stop the plan."""

    text: str
    hint: str | None = None


@dataclass(frozen=True)
class LeftOut:
    """Why a host takes no new VM, and what would change that."""

    why: str
    remedy: str


@dataclass(frozen=True)
class Step:
    """The action for one VM; ``vm`` is the existing VM, None for one to create.

    ``gpus`` are the GPUs that the plan allocates: with ``passthrough`` exactly these; otherwise
    free GPUs that ``devices`` allow, of which vCenter chooses at power-on.
    """

    action: Action
    name: str
    index: int
    host: Host
    gpus: tuple[GPU, ...]
    devices: tuple[Device, ...]
    instance_uuid: str
    vm: VM | None = None
    move_to: Host | None = None
    """Host to migrate a powered-off VM to first, because its own has no GPU for it."""
    mmio_gib: int | None = None
    """64-bit MMIO window; None sets none, and does not change an existing VM's."""
    datastore: Datastore | None = None
    """For the disks of a new VM."""

    @property
    def runs_on(self) -> Host:
        return self.move_to or self.host


@dataclass(frozen=True)
class Plan:
    """``cpus`` and ``memory_gib`` are those of each new VM.

    ``template`` is None if no VM is created.
    """

    spec: ClusterSpec
    vcenter: VCenter
    cluster: Cluster
    template: VMTemplate | None
    snapshot: Snapshot | None
    network: Network | None
    cpus: int | None
    memory_gib: float | None
    steps: tuple[Step, ...]
    findings: tuple[Finding, ...] = ()
    storage_policy: str | None = None
    """The policy's id."""
    starts_only: bool = False
    """Of the spec only what it gives is applied to running guests: it may be another machine's."""

    @property
    def datastores(self) -> tuple[Datastore, ...]:
        """The datastores of the new VMs: one for all, or one for each host."""
        return tuple(dict.fromkeys(step.datastore for step in self.created if step.datastore))

    @property
    def mmio_gib(self) -> int | None:
        """The largest 64-bit MMIO window of its VMs; None if no VM needs one."""
        return max((step.mmio_gib for step in self.steps if step.mmio_gib), default=None)

    @property
    def changes(self) -> tuple[Step, ...]:
        return tuple(step for step in self.steps if step.action != "keep")

    @property
    def wanted(self) -> tuple[Step, ...]:
        """The steps of the VMs that exist after the plan was applied."""
        return tuple(step for step in self.steps if step.action != "remove")

    @property
    def created(self) -> tuple[Step, ...]:
        return tuple(step for step in self.steps if step.action == "create")
