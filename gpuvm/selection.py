"""Which template, datastore and network: the named one, else the only one that fits.

Nothing is guessed: several that fit are an error that lists them.
"""

from collections.abc import Iterable, Sequence
from typing import TypeVar

from gpuvm.errors import Ambiguous, BadInput, NotFound, PreflightRefused
from gpuvm.inventory import Datastore, Host, Inventory, Network, VMTemplate
from gpuvm.spec import ClusterSpec, Passthrough

Named = TypeVar("Named", VMTemplate, Datastore, Network)


def check_names(spec: ClusterSpec, inventory: Inventory) -> None:
    """A misspelt name is said before anything else is looked at; raises NotFound."""
    if spec.datastore is not None:
        _choose("datastore", spec.datastore, inventory.datastores, ())
    if spec.network is not None:
        _choose("network", spec.network, inventory.networks, ())


def template(spec: ClusterSpec, inventory: Inventory) -> VMTemplate:
    unfit = {t.name: _unfit(t, spec) for t in inventory.templates}
    fitting = [t for t in inventory.templates if unfit[t.name] is None]
    chosen = _choose("VM template", spec.template, inventory.templates, fitting)
    why = unfit[chosen.name]
    if why is not None:
        raise PreflightRefused(f"VM template {chosen.name}: {why}", hint="see docs/template.md")
    return chosen


def datastore(
    spec: ClusterSpec,
    inventory: Inventory,
    hosts: Sequence[Host],
    source: VMTemplate,
    clones: int,
) -> Datastore:
    shared = [
        d
        for d in inventory.datastores
        if d.accessible and all(d.name in h.datastores for h in hosts)
    ]
    chosen = _choose("datastore", spec.datastore, inventory.datastores, shared)
    if hosts and chosen not in shared:
        away = [h.name for h in hosts if chosen.name not in h.datastores]
        raise PreflightRefused(f"datastore {chosen.name} is not reachable from {', '.join(away)}")
    needed = source.disk_gib * clones
    if needed > chosen.free_gib:
        raise PreflightRefused(
            f"datastore {chosen.name} has {chosen.free_gib:.0f} GiB free, "
            f"{clones} clones of {source.name} need {needed:.0f} GiB"
        )
    return chosen


def network(spec: ClusterSpec, inventory: Inventory, hosts: Sequence[Host]) -> Network | None:
    """None leaves the clone on its template's network."""
    if spec.network is None:
        return None
    everywhere = [n for n in inventory.networks if all(n.name in h.networks for h in hosts)]
    chosen = _choose("network", spec.network, inventory.networks, everywhere)
    if chosen not in everywhere:
        raise PreflightRefused(f"network {chosen.name} is not there on every host of the plan")
    return chosen


def _unfit(template: VMTemplate, spec: ClusterSpec) -> str | None:
    if template.has_gpu:
        return "it has a GPU attached; clones would all name the same device"
    if isinstance(spec.accelerator, Passthrough) and template.firmware != "efi":
        return f"its firmware is {template.firmware}; GPU passthrough needs EFI"
    return None


def _choose(kind: str, name: str | None, known: Iterable[Named], fitting: Iterable[Named]) -> Named:
    """The named one; without a name the only one that fits."""
    everything, choices = tuple(known), tuple(fitting)
    if name is not None:
        for one in everything:
            if one.name == name:
                return one
        raise NotFound(kind, name, [one.name for one in everything])
    if not choices:
        raise BadInput(f"no fitting {kind}", hint=_none_fits(kind, everything))
    if len(choices) > 1:
        raise Ambiguous(
            kind, sorted(c.name for c in choices), option=f"--{kind.removeprefix('VM ')}"
        )
    return choices[0]


def _none_fits(kind: str, everything: Sequence[Named]) -> str:
    names = ", ".join(one.name for one in everything)
    return f"the {kind}s are: {names}" if names else f"there is no {kind} at all"
