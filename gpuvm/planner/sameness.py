"""Whether a VM matches the spec: compared by meaning, not by spelling.

The spec that a VM was created from is in its extraConfig. A default that is written down, or a path
instead of a name, is no difference; a name that resolves to another object now is one.
"""

from collections.abc import Callable, Collection
from typing import Any

from gpuvm import fitting, selection, storage
from gpuvm.accelerators import DynamicPassthrough, Passthrough, written
from gpuvm.devices import DynamicDevice
from gpuvm.errors import GpuvmError
from gpuvm.inventory import VM, Inventory, VMTemplate
from gpuvm.ownership import POLICY_KEY
from gpuvm.planner import capacity, mmio
from gpuvm.spec import ClusterSpec

NO_CREATION_SPEC = "it does not record the spec it was created from"


def differences(
    vm: VM, spec: ClusterSpec, inventory: Inventory, *, unresolved: Collection[str] = ()
) -> tuple[str, ...]:
    """Return how the VM differs from ``spec``, such as ``cpus 8, now 4``; empty if it matches.

    The fields ``unresolved`` name what does not exist: whether the VM has it cannot be said.
    """
    if vm.spec_digest == spec.digest():
        return ()
    created_from = ClusterSpec.from_creation_spec(vm.creation_spec) if vm.creation_spec else None
    if created_from is None:
        return (NO_CREATION_SPEC,)
    comparison = _Comparison(vm, created_from, spec, inventory)
    return tuple(
        _difference_text(field, getattr(created_from, field), getattr(spec, field))
        for field in ClusterSpec.per_vm_fields()
        if field not in unresolved
        and getattr(created_from, field) != getattr(spec, field)
        and not comparison.same(field)
    )


class _Comparison:
    """Compares fields that are written differently in a VM's creation spec and in the spec."""

    def __init__(self, vm: VM, old: ClusterSpec, new: ClusterSpec, inventory: Inventory) -> None:
        self.vm, self.old, self.new, self.inventory = vm, old, new, inventory

    def same(self, field: str) -> bool:
        checks: dict[str, Callable[[], bool]] = {
            "cluster": lambda: self.inventory.host(self.vm.host) is not None,
            "folder": lambda: self.vm.folder == self.inventory.cluster.vm_folder,
            "resource_pool": lambda: self.vm.resource_pool == self.inventory.cluster.resource_pool,
            "template": lambda: self._template(self.old) == self._template(self.new) is not None,
            "snapshot": self._snapshot,
            "datastore": self._datastore,
            "network": self._network,
            "storage_policy": self._storage_policy,
            "cpus": lambda: self._size("cpus") == self.vm.cpus,
            "memory_gib": lambda: self._size("memory_gib") == self.vm.memory_gib,
            "accelerator": self._accelerator,
            "annotation": lambda: self.new.annotation == self.vm.annotation,
        }
        return field in checks and checks[field]()

    def _template(self, spec: ClusterSpec) -> VMTemplate | None:
        """Return the spec's template; None if it names none that exists and fits, or several."""
        try:
            return selection.template(spec, self.inventory)
        except GpuvmError:
            return None

    def _snapshot(self) -> bool:
        source = self._template(self.new)
        if source is None:
            return False
        try:
            old = selection.snapshot(self.old, source)
            return old == selection.snapshot(self.new, source)
        except GpuvmError:
            return False

    def _datastore(self) -> bool:
        """Every datastore matches a spec that names none."""
        name = storage.name_for(self.new, self.vm.host)
        known = self.inventory.datastores
        named = {s.moref for s in known if name is not None and storage.matches(name, s)}
        return self.new.datastore is None or (bool(named) and set(self.vm.datastores) <= named)

    def _network(self) -> bool:
        """A clone is on its template's network if the spec names none."""
        template = self._template(self.new)
        if self.new.network is None:
            return template is not None and set(template.networks) == set(self.vm.networks)
        known, cluster = self.inventory.networks, self.inventory.cluster
        named = {n.moref for n in selection.named(self.new.network, known, cluster)}
        return len(named) == 1 and named <= set(self.vm.networks)

    def _storage_policy(self) -> bool:
        try:
            wanted = selection.storage_policy(self.new, self.inventory)
        except GpuvmError:
            return False
        return wanted is not None and wanted == self.vm.extra_config.get(POLICY_KEY)

    def _size(self, field: str) -> Any:
        template = self._template(self.new)
        return getattr(self.new, field) or (getattr(template, field) if template else None)

    def _accelerator(self) -> bool:
        """Whether a new VM with the same GPUs would get the devices that the VM has."""
        old, new = self.old.accelerator, self.new.accelerator
        if type(old) is not type(new) or self._window(self.old) != self._window(self.new):
            return False
        if isinstance(old, (Passthrough, DynamicPassthrough)):
            return len(self.vm.devices) == getattr(new, "count", 0) and self._has_the_right_gpus()
        same_window = {"mmio_gib": None}
        return old.model_copy(update=same_window) == new.model_copy(update=same_window)

    def _has_the_right_gpus(self) -> bool:
        host, gpus = self.inventory.host(self.vm.host), self._gpus()
        if host is None:
            return False
        if isinstance(self.new.accelerator, Passthrough):
            return len(gpus) == len(self.vm.devices) and all(
                fitting.fits(self.new, g) for g in gpus
            )
        wanted = capacity.devices(self.new, host, gpus, self.inventory.gpus)
        return list(map(_kinds, wanted)) == list(map(_kinds, self.vm.devices))

    def _window(self, spec: ClusterSpec) -> int | None:
        return mmio.window_gib(
            spec, self.vm.devices, self._gpus(), self.inventory.gpus, self.vm.firmware
        )

    def _gpus(self) -> list[Any]:
        return [gpu for gpu in self.inventory.gpus if self.vm.has(gpu)]


def _kinds(device: Any) -> Any:
    """Return what a dynamic device may be bound to; another device as it is."""
    if not isinstance(device, DynamicDevice):
        return device
    return sorted(device.allowed), device.label


def _difference_text(field: str, old: Any, new: Any) -> str:
    """Show short values; of ``extra_config`` and other mappings, only the name."""
    if field == "accelerator":
        was, now = written(old), written(new)
        return f"{field} {was}, now {now}" if was != now else field
    if not all(value is None or isinstance(value, (str, int, float)) for value in (old, new)):
        return field
    was, now = ("not given" if value in (None, "") else value for value in (old, new))
    return f"{field} {was}, now {now}"
