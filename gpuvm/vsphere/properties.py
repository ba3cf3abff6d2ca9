"""Narrow reads: leaf property paths of many objects in one call, paged for many objects.

    rows = retrieve(content, [Objects(vim.VirtualMachine, refs, ("name", "runtime.powerState"))])

Whole objects (``vm.runtime``, ``vm.config``) are never read: they have megabytes, and values of
some servers cannot be decoded. If a leaf cannot be decoded, the objects are read one by one and the
leaf is left out, as if it were unset.
"""

import contextlib
import functools
import gc
import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pyVmomi import VmomiSupport, vim, vmodl

from gpuvm.ownership import MARK_KEYS
from gpuvm.vsphere.faults import CALL_FAILED, Undecodable, translated

Row = dict[str, Any]
Keep = Callable[[Any, str, Any], Any]
"""Of an object's property, by path, the part of its value that is kept."""
PAGE = 500
REFUSED = "(refused)"
"""In a row: the paths that this account may not read, as opposed to unset ones."""

# Single keys of extraConfig: an indexed path returns only that OptionValue (vm-operator reads
# guestinfo keys from a vCenter this way).
HOST_KEYS_KEY = "guestinfo.gpuvm.ssh_host_keys"
MARKS = tuple(f'config.extraConfig["{key}"]' for key in MARK_KEYS)
HOST_KEYS = f'config.extraConfig["{HOST_KEYS_KEY}"]'

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Objects:
    """``refs`` of one ``kind`` and the paths to read of each."""

    kind: Any
    refs: Sequence[Any]
    paths: tuple[str, ...]
    related: "Related | None" = None


@dataclass(frozen=True)
class Related:
    """The objects that the property ``path`` refers to, read in the same call."""

    path: str
    kind: Any
    paths: tuple[str, ...]


def retrieve(
    content: Any, wanted: Sequence[Objects], *, keep: Keep | None = None
) -> dict[Any, Row]:
    """Read the given objects; unset properties and deleted objects are left out.

    Paths that this account may not read are under REFUSED. ``keep`` says what is kept of each
    value, page by page, so that long answers do not all lie in memory.
    """
    with translated("reading properties", "the vCenter"):
        return _readable(content, [one for one in wanted if one.refs], keep)


def retrieve_all(
    content: Any, wanted: Sequence[tuple[Any, tuple[str, ...]]], *, root: Any | None = None
) -> dict[Any, Row]:
    """Read every object of these kinds below ``root``, by default the root folder."""
    within = root or content.rootFolder
    with translated("reading the inventory", "the vCenter"):
        try:
            return _viewed(content, wanted, within)
        except vmodl.fault.ManagedObjectNotFound:
            # The session expired, and its view with it; the stub has logged in again.
            return _viewed(content, wanted, within)


@contextlib.contextmanager
def no_garbage_collection() -> Iterator[None]:
    """For large answers: they have no cycles, and looking for some takes a fifth of the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def not_shown(row: Row, wanted: Mapping[str, str]) -> str:
    """Return which of ``wanted`` (display names by path) are missing; empty if none.

    For example ``vCenter does not show its memory, power state``.
    """
    missing = [path for path in wanted if path not in row]
    if not missing:
        return ""
    refused = any(path in row.get(REFUSED, ()) for path in missing)
    who = "this account may not read" if refused else "vCenter does not show"
    return f"{who} its {', '.join(wanted[path] for path in missing)}"


def is_visible(row: Row) -> bool:
    """Return whether any property was read; a deleted object has no row at all."""
    return any(path != REFUSED for path in row)


def merged(row: Row, other: Row) -> Row:
    """Return two reads of an object as one row."""
    refused = row.get(REFUSED, frozenset()) | other.get(REFUSED, frozenset())
    return row | other | ({REFUSED: refused} if refused else {})


def extra_config(row: Row) -> dict[str, str]:
    """Return the keys of extraConfig that were read, by indexed paths or as a whole."""
    found = {}
    for path, value in row.items():
        if path.startswith("config.extraConfig"):
            for option in _listed(value):
                found[str(option.key)] = str(option.value)
    return found


def property_spec(kind: Any, paths: Sequence[str], version: str) -> Any:
    """Return a PropertySpec with the paths that this API version has; others count as unset.

    A vCenter checks paths against *declared* types, and refuses the whole call if one is unknown or
    newer than itself (InvalidProperty). ``version`` is pyVmomi's name of the negotiated version.
    Raises ValueError for a path that no version has.
    """
    known = [path for path in paths if _has(version, since(kind, path))]
    return vmodl.query.PropertyCollector.PropertySpec(type=kind, pathSet=known, all=False)


@functools.cache
def since(kind: Any, path: str) -> tuple[str, ...]:
    """Return the API versions, as pyVmomi names them, that introduced the path's properties."""
    versions = []
    for part in re.findall(r'[^.\[]+|\["[^"]*"\]', path):
        try:
            if part.startswith("["):
                kind = kind.Item
                continue
            info = kind._GetPropertyInfo(part)
        except AttributeError:
            raise ValueError(f"{path}: the API declares no {part} in {kind.__name__}") from None
        kind = info.type
        versions.append(str(info.version))
    return tuple(versions)


def _has(version: str, needed: Sequence[str]) -> bool:
    support: Any = VmomiSupport  # exports nothing by name
    return all(support.IsChildVersion(version, one) for one in needed)


def _viewed(
    content: Any, wanted: Sequence[tuple[Any, tuple[str, ...]]], root: Any
) -> dict[Any, Row]:
    kinds = [kind for kind, _ in wanted]
    view = content.viewManager.CreateContainerView(container=root, type=kinds, recursive=True)
    try:
        return _collect(
            content, [_view_filter(view, wanted, content.propertyCollector._stub.version)]
        )
    except Undecodable:
        members = _readable(content, [Objects(type(view), [view], ("view",))])[view]["view"]
        return _readable(
            content,
            [
                Objects(kind, [ref for ref in members if isinstance(ref, kind)], paths)
                for kind, paths in wanted
            ],
        )
    finally:
        with contextlib.suppress(*CALL_FAILED):
            view.DestroyView()


def _readable(content: Any, wanted: Sequence[Objects], keep: Keep | None = None) -> dict[Any, Row]:
    """Read what can be decoded: in one call if possible, else by halves down to single paths."""
    wanted = [one for one in wanted if one.refs]
    if not wanted:
        return {}
    version = content.propertyCollector._stub.version
    try:
        return _collect(content, [_filter(one, version) for one in wanted], keep)
    except Undecodable as error:
        halves = _halves(wanted)
        if halves is None:
            (one,) = wanted
            _LOG.debug("%s of %s is left out: %s", one.paths, one.refs[0]._moId, error)
            return {}
    rows: dict[Any, Row] = {}
    for half in halves:
        for ref, row in _readable(content, half, keep).items():
            rows[ref] = merged(rows.get(ref, {}), row)
    return rows | _related(content, wanted)


def _halves(wanted: Sequence[Objects]) -> Sequence[Sequence[Objects]] | None:
    """Return smaller reads of the same, without related objects; None for a single path."""
    alone = [replace(one, related=None) for one in wanted]
    if len(alone) > 1:
        return [[one] for one in alone]
    (one,) = alone
    middle = len(one.refs) // 2
    if middle:
        return [[replace(one, refs=part)] for part in (one.refs[:middle], one.refs[middle:])]
    middle = len(one.paths) // 2
    if middle:
        return [[replace(one, paths=part)] for part in (one.paths[:middle], one.paths[middle:])]
    return [alone] if wanted[0].related else None


def _related(content: Any, wanted: Sequence[Objects]) -> dict[Any, Row]:
    """Read the related objects, after the references to them."""
    found: dict[Any, Row] = {}
    for one in wanted:
        if one.related is None:
            continue
        path = one.related.path
        named = _readable(content, [replace(one, paths=(path,), related=None)])
        refs = {ref for row in named.values() for ref in _listed(row.get(path))}
        more = Objects(one.related.kind, sorted(refs, key=str), one.related.paths)
        found |= _readable(content, [more])
    return found


def _listed(value: Any) -> Sequence[Any]:
    if value is None:
        return ()
    return value if isinstance(value, (list, tuple)) else [value]


def _filter(wanted: Objects, version: str) -> Any:
    collector = vmodl.query.PropertyCollector
    props = [property_spec(wanted.kind, wanted.paths, version)]
    walks, more = [], wanted.related
    if more is not None:
        walk = collector.TraversalSpec(name=more.path, type=wanted.kind, path=more.path, skip=False)
        walks.append(walk)
        props.append(property_spec(more.kind, more.paths, version))
    return collector.FilterSpec(
        objectSet=[collector.ObjectSpec(obj=ref, selectSet=list(walks)) for ref in wanted.refs],
        propSet=props,
        reportMissingObjectsInResults=True,
    )


def _view_filter(view: Any, wanted: Sequence[tuple[Any, tuple[str, ...]]], version: str) -> Any:
    collector = vmodl.query.PropertyCollector
    walk = collector.TraversalSpec(name="view", type=type(view), path="view", skip=False)
    return collector.FilterSpec(
        objectSet=[collector.ObjectSpec(obj=view, skip=True, selectSet=[walk])],
        propSet=[property_spec(kind, paths, version) for kind, paths in wanted],
    )


def _collect(content: Any, filters: Sequence[Any], keep: Keep | None = None) -> dict[Any, Row]:
    rows: dict[Any, Row] = {}
    for page in _pages(content.propertyCollector, filters):
        for found in page.objects:
            row = rows.setdefault(found.obj, {})
            for change in found.propSet:
                value = change.val
                row[change.name] = keep(found.obj, change.name, value) if keep else value
            refused = [one.path for one in found.missingSet or () if _refused(one)]
            if refused:
                row[REFUSED] = row.get(REFUSED, frozenset()).union(refused)
    return rows


def _refused(missing: Any) -> bool:
    fault = getattr(missing.fault, "fault", missing.fault)
    return isinstance(fault, vim.fault.NoPermission)


def _pages(collector: Any, filters: Sequence[Any]) -> Iterator[Any]:
    options = vmodl.query.PropertyCollector.RetrieveOptions(maxObjects=PAGE)
    page = collector.RetrievePropertiesEx(specSet=list(filters), options=options)
    while page is not None:
        yield page
        page = collector.ContinueRetrievePropertiesEx(token=page.token) if page.token else None


VM_PATHS = (
    "name",
    "parent",
    "resourcePool",
    "network",
    "datastore",
    "runtime.host",
    "runtime.powerState",
    "runtime.connectionState",
    "runtime.question",
    "config.instanceUuid",
    "config.annotation",
    "config.firmware",
    "config.hardware.numCPU",
    "config.hardware.numCoresPerSocket",
    "config.hardware.memoryMB",
    "config.memoryReservationLockedToMax",
    "config.cpuHotAddEnabled",
    "config.memoryHotAddEnabled",
    "config.hardware.device",
    "config.files.vmPathName",
    "config.template",
    "config.extraConfig",
    "guest.net",
    "guest.toolsRunningStatus",
)
"""Read of marked VMs; of others only the few paths that the inventory needs."""
