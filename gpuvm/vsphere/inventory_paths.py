"""The vCenter's inventory tree: paths, clusters, folders, resource pools, and where VMs are."""

from collections.abc import Iterator, Sequence
from typing import Any

from pyVmomi import vim

from gpuvm.errors import Ambiguous, NotFound, NotVisible
from gpuvm.inventory import is_called
from gpuvm.vsphere.properties import Row, extra_config


class Tree:
    def __init__(self, rows: dict[Any, Row]) -> None:
        self.rows = rows

    def path(self, ref: Any) -> str:
        """Return the inventory path, such as ``/Lab/host/GPU-Cluster``."""
        parts: list[str] = []
        while ref in self.rows:
            parts.append(self.rows[ref].get("name", "?"))
            ref = self.rows[ref].get("parent")
        return "/" + "/".join(reversed(parts))

    def cluster(self, wanted: str | None) -> Any:
        """Return the cluster of that name, inventory path or MoRef id; by default the only one."""
        clusters = self._all(vim.ClusterComputeResource)
        if not clusters:
            raise NotVisible(
                "any cluster", "move the hosts into one: standalone hosts are not used"
            )
        return self._named("cluster", clusters, wanted, option="--cluster")

    def datacenter(self, ref: Any) -> Any | None:
        """Return the object's datacenter; None if the account cannot see it.

        A permission on a cluster alone does not show the folders above it.
        """
        while ref in self.rows and not isinstance(ref, vim.Datacenter):
            ref = self.rows[ref].get("parent")
        return ref if ref in self.rows else None

    def folder(self, cluster: Any, wanted: str | None) -> Any:
        """Return the folder for new VMs: the datacenter's VM folder, or a named one below it."""
        top = self.rows.get(self.datacenter(cluster), {}).get("vmFolder")
        if wanted is None:
            return self._visible(
                top,
                f"the VM folder of {self.path(cluster)}'s datacenter",
                "set folder: in gpuvm.yaml to one that it can see",
            )
        folders = self._all(vim.Folder)
        below = [ref for ref in folders if top is None or self._is_below(ref, top)]
        return self._named("folder", below, wanted, option="folder: with its full path")

    def pool(self, cluster: Any, wanted: str | None) -> Any:
        """Return the cluster's root resource pool, or a named one below it."""
        root = self.rows[cluster].get("resourcePool")
        top = self._visible(root, f"the resource pool of {self.path(cluster)}")
        if wanted is None:
            return top
        below = [ref for ref in self._all(vim.ResourcePool) if self._is_below(ref, top)]
        return self._named("resource pool", below, wanted, option="resource_pool: with its path")

    def browser(self, cluster: Any) -> Any | None:
        """Return the cluster's environment browser, which QueryConfigTarget belongs to.

        The property is optional: a cluster whose only host does not respond has none.
        """
        return self.rows[cluster].get("environmentBrowser")

    def templates(self) -> list[Any]:
        return [ref for ref, row in self._vms() if row.get("config.template")]

    def unreadable(self) -> list[Any]:
        """Return VMs whose configuration cannot be read, as a missing config.template shows."""
        return [ref for ref, row in self._vms() if "config.template" not in row]

    def marked(self) -> list[Any]:
        return [ref for ref, row in self._vms() if extra_config(row)]

    def vms_on(self, hosts: Sequence[Any]) -> list[Any]:
        """Return VMs, without templates, that are or may be registered on these hosts."""
        candidates = {*hosts, None}
        return [
            ref
            for ref, row in self._vms()
            if row.get("runtime.host") in candidates and not row.get("config.template")
        ]

    def names_in(self, folder: Any) -> list[str]:
        return [
            row["name"]
            for row in self.rows.values()
            if row.get("parent") == folder and "name" in row
        ]

    def _visible(self, ref: Any | None, what: str, instead: str = "") -> Any:
        if ref is None or ref not in self.rows:
            raise NotVisible(what, instead)
        return ref

    def _vms(self) -> Iterator[tuple[Any, Row]]:
        return ((ref, row) for ref, row in self.rows.items() if isinstance(ref, vim.VirtualMachine))

    def _all(self, kind: Any) -> list[Any]:
        return [ref for ref in self.rows if isinstance(ref, kind)]

    def _is_below(self, ref: Any, top: Any) -> bool:
        while ref in self.rows:
            if ref == top:
                return True
            ref = self.rows[ref].get("parent")
        return False

    def _is_called(self, ref: Any, wanted: str) -> bool:
        name = self.rows[ref].get("name", "")
        return is_called(wanted, name=name, path=self.path(ref), moref=ref._moId)

    def _named(self, kind: str, refs: Sequence[Any], wanted: str | None, *, option: str) -> Any:
        fitting = [r for r in refs if wanted is None or self._is_called(r, wanted)]
        if not fitting:
            raise NotFound(kind, wanted or "", [self.rows[r].get("name", "?") for r in refs])
        if len(fitting) > 1:
            raise Ambiguous(kind, sorted(self.path(r) for r in fitting), option=option)
        return fitting[0]
