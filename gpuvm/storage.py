"""Which datastore each new VM goes to: one for all of them, or its host's own.

Nothing is guessed: hosts that share a datastore use the one that is named, or the only one; where
they share none, each uses the only one that it has. A pattern such as ``local-*`` leaves the
choice, and the one with the most room is taken.
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

MARGIN = 0.05
MARGIN_GIB = 1.0
"""Of margin for each VM, beside the share of its disks and swap file."""


def check_names(spec: ClusterSpec, inventory: Inventory) -> None:
    """A misspelt name is said before anything else; raises NotFound and Ambiguous."""
    if isinstance(spec.datastore, dict):
        known = [host.name for host in inventory.hosts]
        for host in spec.datastore:
            if host not in known:
                raise NotFound("host", host, known, where="datastore: in gpuvm.yaml")
    for word in _words(spec):
        if not _is_pattern(word):
            selection.choose("datastore", word, inventory.datastores, (), inventory.cluster)
        elif not any(matches(word, store) for store in inventory.datastores):
            raise NotFound("datastore", word, [store.name for store in inventory.datastores])


def matches(word: str, store: Datastore) -> bool:
    """``word`` is what gpuvm.yaml calls it, or a pattern that its name is like."""
    return fnmatchcase(store.name, word) if _is_pattern(word) else selection.is_named(store, word)


def word_for(spec: ClusterSpec, host: str) -> str | None:
    """Return what the spec names as this host's datastore, or None."""
    return spec.datastore.get(host) if isinstance(spec.datastore, dict) else spec.datastore


class Storage:
    """Which datastores the VMs of a spec may go to, for each host."""

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
        """Whether a name in the spec matches nothing or several things; see ``check_names``."""
        try:
            check_names(self.spec, self.inventory)
        except BadInput:
            return True
        return False

    def usable(self, store: Datastore, host: Host) -> bool:
        return self._why_not(store, host) is None

    def why_left_out(self, host: Host) -> str | None:
        """Why no new VM can be on this host; None when one can.

        Whether a datastore that all share has room for all is told of all of them, not of a host.
        """
        if self.source is None or self.misnamed:
            return None
        reasons = {s.name: self._why_no_room(s, host) for s in self.inventory.datastores}
        if any(why is None for why in reasons.values()):
            return None
        word = word_for(self.spec, host.name)
        if isinstance(self.spec.datastore, dict) and word is None:
            return "datastore: in gpuvm.yaml names none for it"
        named = [s for s in self.inventory.datastores if word is None or matches(word, s)]
        there = [s for s in named if s.moref in host.datastores]
        told = "; ".join(f"{s.name}: {reasons[s.name]}" for s in (there or named))
        return f"no datastore for its VMs ({told})" if told else "it has no datastore"

    def choose(self, hosts: Sequence[Host]) -> dict[str, Datastore]:
        """By host; ``hosts`` has each as often as it gets VMs.

        Raises Ambiguous and BadInput, and PreflightRefused where a datastore has too little room.
        """
        there = {host.name: host for host in hosts}
        fitting = {name: self._fitting(host) for name, host in there.items()}
        common = [s for s in self.inventory.datastores if all(s in f for f in fitting.values())]
        if common and isinstance(self.spec.datastore, (str, type(None))):
            chosen = dict.fromkeys(there, self._one_of(common, self.spec.datastore))
        else:
            chosen = {
                name: self._one_of(stores, word_for(self.spec, name))
                for name, stores in fitting.items()
            }
        self._check_room(chosen, Counter(host.name for host in hosts))
        return chosen

    def _fitting(self, host: Host) -> list[Datastore]:
        return [s for s in self.inventory.datastores if self.usable(s, host)]

    def _one_of(self, fitting: Sequence[Datastore], word: str | None) -> Datastore:
        """The only one, or by a pattern the roomiest."""
        if fitting and word is not None and _is_pattern(word):
            return max(fitting, key=lambda store: (store.free_gib, store.name))
        if not fitting:
            known = ", ".join(store.name for store in self.inventory.datastores) or "none"
            raise BadInput("no fitting datastore", hint=f"the datastores are: {known}")
        if len(fitting) > 1:
            labels = sorted(selection.distinct(s, self.inventory.datastores) for s in fitting)
            raise Ambiguous("datastore", labels, option="--datastore")
        return fitting[0]

    def _why_not(self, store: Datastore, host: Host) -> str | None:
        word = word_for(self.spec, host.name)
        if self.spec.datastore is not None and (word is None or not matches(word, store)):
            return "it is not the one that is named"
        away = self.source is not None and self.source.datastores
        if self.spec.clone_mode == "linked" and away and store.moref not in away:
            return "linked clones stay with their template"
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
                    hint="another one with --datastore, or clone_mode: linked"
                    if needed.disks_gib
                    else None,
                )


@dataclass(frozen=True)
class Space:
    """What new VMs fill of their datastore when they are made and started.

    The swap file of a running VM is as large as its memory that is not reserved; with a GPU all of
    it is. The margin is for logs, NVRAM and what others write meanwhile.
    """

    clones: int
    source: str
    disks_gib: float
    swap_gib: float
    growth_gib: float = 0
    """What thin disks may still grow by, in the course of time."""

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
        need = (
            f"clone of {self.source} needs" if self.clones == 1 else f"clones of {self.source} need"
        )
        return (
            f"{self.clones} {need} {self.gib:.0f} GiB: {self.disks_gib:.0f} of disks, "
            f"{self.swap_gib:.0f} of swap files, {self.margin_gib:.0f} of margin"
        )


def _words(spec: ClusterSpec) -> Iterator[str]:
    if isinstance(spec.datastore, dict):
        yield from spec.datastore.values()
    elif spec.datastore is not None:
        yield spec.datastore


def _is_pattern(word: str) -> bool:
    return any(sign in word for sign in "*?[")
