"""The datastore of each new VM: one for all VMs, or one for each host.

Nothing is guessed: hosts that share a datastore use the named one, or the only one; without a
shared one, each host uses its only one. Of several that match a pattern such as ``local-*``, the
one with the most free space is used.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from typing_extensions import override

from gpuvm import selection
from gpuvm.errors import Ambiguous, BadInput, NotFound, PreflightRefused
from gpuvm.inventory import Datastore, Host, Inventory, MoRef, VMTemplate
from gpuvm.spec import ClusterSpec
from gpuvm.text import counted

MARGIN = 0.05
MARGIN_GIB = 1.0
"""Margin for each VM, besides the share of its disks and swap file."""


def check_names(spec: ClusterSpec, inventory: Inventory) -> None:
    """Raise NotFound or Ambiguous for names in ``datastore``."""
    if isinstance(spec.datastore, dict):
        known = [host.name for host in inventory.hosts]
        for host in spec.datastore:
            if host not in known:
                raise NotFound("host", host, known, where="datastore: in gpuvm.yaml")
    for name in _names(spec):
        if not _is_pattern(name):
            selection.choose("datastore", name, inventory.datastores, (), inventory.cluster)
        elif not any(matches(name, store) for store in inventory.datastores):
            raise NotFound("datastore", name, [store.name for store in inventory.datastores])


def matches(name: str, store: Datastore) -> bool:
    """Return whether the name in gpuvm.yaml, or the pattern, matches the datastore."""
    return fnmatchcase(store.name, name) if _is_pattern(name) else selection.is_named(store, name)


def name_for(spec: ClusterSpec, host: str) -> str | None:
    """Return what the spec names as this host's datastore, or None."""
    return spec.datastore.get(host) if isinstance(spec.datastore, dict) else spec.datastore


class Storage:
    """The datastores that each host can use for the VMs of a spec."""

    def __init__(self, spec: ClusterSpec, inventory: Inventory, source: VMTemplate | None) -> None:
        self.spec, self.inventory, self.source = spec, inventory, source
        usable = [host for host in inventory.hosts if not host.unusable]
        self.shared = [
            store
            for store in inventory.datastores
            if len(usable) > 1 and all(self.usable(store, host) for host in usable)
        ]

    @property
    def misnamed(self) -> bool:
        """Whether a name in the spec matches no datastore, or several; see ``check_names``."""
        try:
            check_names(self.spec, self.inventory)
        except BadInput:
            return True
        return False

    def usable(self, store: Datastore, host: Host) -> bool:
        return self._why_not(store, host) is None

    def why_left_out(self, host: Host) -> str | None:
        """Return why no datastore of this host can take a new VM, or None.

        The free space of a shared datastore is checked in ``choose``, for all VMs at once.
        """
        if self.source is None or self.misnamed:
            return None
        reasons = {s.name: self._why_no_room(s, host) for s in self.inventory.datastores}
        if any(why is None for why in reasons.values()):
            return None
        name = name_for(self.spec, host.name)
        if isinstance(self.spec.datastore, dict) and name is None:
            return "datastore: in gpuvm.yaml has no entry for it"
        named = [s for s in self.inventory.datastores if name is None or matches(name, s)]
        mounted = [s for s in named if s.moref in host.datastores]
        text = "; ".join(f"{s.name}: {reasons[s.name]}" for s in (mounted or named))
        return f"no datastore for its VMs ({text})" if text else "it has no datastore"

    def choose(self, hosts: Sequence[Host]) -> dict[str, Datastore]:
        """Return the datastore by host name; ``hosts`` contains a host once for each of its VMs.

        Raises Ambiguous and BadInput, and PreflightRefused if a datastore has too little space.
        """
        by_name = {host.name: host for host in hosts}
        fitting = {name: self._fitting(host) for name, host in by_name.items()}
        common = [s for s in self.inventory.datastores if all(s in f for f in fitting.values())]
        if common and isinstance(self.spec.datastore, (str, type(None))):
            chosen = dict.fromkeys(by_name, self._one_of(common, self.spec.datastore))
        else:
            chosen = {
                name: self._one_of(stores, name_for(self.spec, name))
                for name, stores in fitting.items()
            }
        self._check_room(chosen, Counter(host.name for host in hosts))
        return chosen

    def _fitting(self, host: Host) -> list[Datastore]:
        return [s for s in self.inventory.datastores if self.usable(s, host)]

    def _one_of(self, fitting: Sequence[Datastore], name: str | None) -> Datastore:
        """Return the only one, or for a pattern the one with the most free space."""
        if fitting and name is not None and _is_pattern(name):
            return max(fitting, key=lambda store: (store.free_gib, store.name))
        if not fitting:
            known = ", ".join(store.name for store in self.inventory.datastores) or "none"
            raise BadInput("no suitable datastore", hint=f"the datastores are: {known}")
        if len(fitting) > 1:
            labels = sorted(selection.distinct(s, self.inventory.datastores) for s in fitting)
            raise Ambiguous("datastore", labels, option="--datastore")
        return fitting[0]

    def _why_not(self, store: Datastore, host: Host) -> str | None:
        name = name_for(self.spec, host.name)
        if self.spec.datastore is not None and (name is None or not matches(name, store)):
            return "it is not the datastore that the spec names"
        of_template = self.source is not None and self.source.datastores
        if self.spec.clone_mode == "linked" and of_template and store.moref not in of_template:
            return "linked clones must be on their template's datastore"
        return store.why_not_on(host)

    def _why_no_room(self, store: Datastore, host: Host) -> str | None:
        why = self._why_not(store, host)
        if why is not None or store in self.shared or store.hidden or self.source is None:
            return why
        space = Space.of(self.spec, self.source, 1)
        return f"{store.free_gib:.0f} GiB free, {space}" if space.gib > store.free_gib else None

    def _check_room(self, chosen: Mapping[str, Datastore], vms: Mapping[str, int]) -> None:
        clones: Counter[MoRef] = Counter()
        for name, store in chosen.items():
            clones[store.moref] += vms[name]
        for store in dict.fromkeys(chosen.values()):
            if self.source is None or store.hidden:
                continue
            needed = Space.of(self.spec, self.source, clones[store.moref])
            if needed.gib > store.free_gib:
                raise PreflightRefused(
                    f"datastore {store.name} has {store.free_gib:.0f} GiB free, {needed}",
                    hint="choose another with --datastore, or use clone_mode: linked"
                    if needed.disks_gib
                    else None,
                )


@dataclass(frozen=True)
class Space:
    """Space that new VMs need on their datastore once they run.

    The swap file of a running VM is as large as its unreserved memory; with a GPU, all memory is
    reserved. The margin is for logs, NVRAM and other writers.
    """

    clones: int
    source: str
    disks_gib: float
    swap_gib: float
    growth_gib: float = 0
    """How much the thin disks can still grow."""

    @staticmethod
    def of(spec: ClusterSpec, source: VMTemplate, clones: int) -> "Space":
        memory_gib = spec.memory_gib or source.memory_gib
        used_gib = source.disk_gib if source.used_gib is None else source.used_gib
        copies = clones if spec.clone_mode == "full" else 0
        return Space(
            clones,
            source.name,
            disks_gib=used_gib * copies,
            swap_gib=0 if spec.has_gpu else memory_gib * clones,
            growth_gib=(source.disk_gib - used_gib) * copies,
        )

    @property
    def margin_gib(self) -> float:
        return self.clones * MARGIN_GIB + (self.disks_gib + self.swap_gib) * MARGIN

    @property
    def gib(self) -> float:
        return self.disks_gib + self.swap_gib + self.margin_gib

    @override
    def __str__(self) -> str:
        need = counted(
            self.clones, f"clone of {self.source} needs", f"clones of {self.source} need"
        )
        return (
            f"{need} {self.gib:.0f} GiB: {self.disks_gib:.0f} of disks, "
            f"{self.swap_gib:.0f} of swap files, {self.margin_gib:.0f} of margin"
        )


def _names(spec: ClusterSpec) -> Iterator[str]:
    if isinstance(spec.datastore, dict):
        yield from spec.datastore.values()
    elif spec.datastore is not None:
        yield spec.datastore


def _is_pattern(name: str) -> bool:
    return any(sign in name for sign in "*?[")
