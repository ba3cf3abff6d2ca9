"""Prints every property of the vSphere API that came after 6.7, with the version that brought it.

    python newer_properties.py > newer_properties.txt

The source is pyVmomi's own type table. A vCenter refuses a path to a property that is newer than
itself; the simulator reads this list to do the same.
"""

from collections.abc import Iterator
from typing import Any

from pyVmomi import VmomiSupport

support: Any = VmomiSupport  # its tables are internal and untyped
OLDEST = "6.7"


def newer_properties() -> Iterator[str]:
    """Lines such as ``HostCapability.deviceRebindWithoutRebootSupported 7.0.0.0``, sorted."""
    versions = _versions()
    oldest = next(name for name, version in versions.items() if version == OLDEST)
    lines = set()
    for kind in _kinds():
        for info in kind._propList:
            if info.version not in versions or support.IsChildVersion(oldest, info.version):
                continue
            lines.add(f"{kind._wsdlName}.{info.name} {versions[info.version]}")
    yield from sorted(lines)


def _versions() -> dict[str, str]:
    """API versions by pyVmomi's names for them; an internal name counts as the release before."""
    names = {}
    for key, name in support.versionMap.items():
        namespace, _, version = key.partition("/")
        if namespace.startswith("vim2"):
            names[name] = version if version[0].isdigit() else name.rpartition(".v")[2]
    return {name: version.replace("_", ".") for name, version in names.items()}


def _kinds() -> Iterator[Any]:
    """Managed objects and data objects of the ``vim`` namespace."""
    for table in (support._managedDefMap, support._dataDefMap):
        for name in list(table):
            if name.startswith("vim."):
                yield support.GetVmodlType(name)


if __name__ == "__main__":
    print("\n".join(newer_properties()))
