"""A plan as a value: its steps, one per VM, and what is worth knowing beside them."""

from dataclasses import dataclass
from typing import Literal

from gpuvm.devices import GPU, Device
from gpuvm.inventory import VM, Cluster, Datastore, Host, Network, Snapshot, VCenter, VMTemplate
from gpuvm.spec import ClusterSpec

Action = Literal["create", "power-on", "keep", "remove"]


@dataclass(frozen=True)
class Finding:
    """Something worth knowing that does not stop the plan."""

    text: str
    hint: str | None = None


@dataclass(frozen=True)
class Step:
    """What will be done with one VM; ``vm`` is the existing one, None for one to create.

    ``gpus`` are those that the plan counts on: with ``passthrough`` these very ones, else the ones
    that are free for what ``devices`` ask for, and vCenter decides at power-on.
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
    """A powered-off VM goes to this host first, because its own has no GPU for it."""
    mmio_gib: int | None = None
    """Its 64-bit MMIO window; None leaves it as it is, and there is none that no GPU needs."""
    datastore: Datastore | None = None
    """Where a new VM's disks go."""

    @property
    def runs_on(self) -> Host:
        return self.move_to or self.host


@dataclass(frozen=True)
class Plan:
    """``cpus`` and ``memory_gib`` are those of each new VM.

    ``template`` is None when no VM is to be made.
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
    """Its id."""
    starts_only: bool = False
    """Of the spec only what it gives is applied to running guests: it may be another machine's."""

    @property
    def datastores(self) -> tuple[Datastore, ...]:
        """Where the new VMs' disks go: one for all, or each host's own."""
        return tuple(dict.fromkeys(step.datastore for step in self.created if step.datastore))

    @property
    def mmio_gib(self) -> int | None:
        """The largest 64-bit MMIO window of its VMs; None where none needs one."""
        return max((step.mmio_gib for step in self.steps if step.mmio_gib), default=None)

    @property
    def changes(self) -> tuple[Step, ...]:
        return tuple(step for step in self.steps if step.action != "keep")

    @property
    def wanted(self) -> tuple[Step, ...]:
        """The VMs that are there when the plan is done."""
        return tuple(step for step in self.steps if step.action != "remove")

    @property
    def created(self) -> tuple[Step, ...]:
        return tuple(step for step in self.steps if step.action == "create")
