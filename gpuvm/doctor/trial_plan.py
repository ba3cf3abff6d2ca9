"""Plans the spec as `gpuvm plan` does, for the checks."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from gpuvm import planner, selection, storage
from gpuvm.errors import GpuvmError
from gpuvm.inventory import Datastore, Inventory, Network
from gpuvm.planner import Plan
from gpuvm.privileges import Used
from gpuvm.spec import ClusterSpec

Found = TypeVar("Found")


@dataclass(frozen=True)
class TrialPlan:
    """The plan, or the error without one, and the objects it uses, as far as they are known."""

    plan: Plan | GpuvmError
    used: Used

    @property
    def makes_vms(self) -> bool:
        """Whether it creates VMs; assumed if there is no plan."""
        return not isinstance(self.plan, Plan) or bool(self.plan.created)


def make_trial_plan(spec: ClusterSpec, inventory: Inventory) -> TrialPlan:
    try:
        plan = planner.plan(spec, inventory)
    except GpuvmError as error:
        return TrialPlan(error, _named(spec, inventory))
    network = plan.network or _only_network(inventory)
    moves = any(step.move_to for step in plan.steps)
    if not plan.created:
        return TrialPlan(plan, Used(moves=moves))
    return TrialPlan(plan, Used(plan.template, plan.datastores, network, moves))


def _named(spec: ClusterSpec, inventory: Inventory) -> Used:
    """Return the named objects, or the only ones, without regard to placement."""
    template = _tried(lambda: selection.template(spec, inventory))
    network = _tried(lambda: selection.network(spec, inventory, ()))
    return Used(template, _datastores(spec, inventory), network or _only_network(inventory))


def _datastores(spec: ClusterSpec, inventory: Inventory) -> tuple[Datastore, ...]:
    """Return the named datastore, or the only one; free space is checked by a plan only."""
    if isinstance(spec.datastore, str):
        name = spec.datastore
        named = tuple(s for s in inventory.datastores if storage.matches(name, s))
        return named if len(named) == 1 else ()
    accessible = tuple(store for store in inventory.datastores if store.accessible)
    return accessible if spec.datastore is None and len(accessible) == 1 else ()


def _only_network(inventory: Inventory) -> Network | None:
    """Return the cluster's network if it has only one; else the template's is not known here."""
    return inventory.networks[0] if len(inventory.networks) == 1 else None


def _tried(find: Callable[[], Found]) -> Found | None:
    try:
        return find()
    except GpuvmError:
        return None
