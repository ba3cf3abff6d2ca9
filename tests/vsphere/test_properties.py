"""Every property path that gpuvm reads, checked against the declared types of the API.

A vCenter refuses a whole read for one path that its declared types do not have.
"""

import ast
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from property_paths import asked, beside_a_kind, nodes
from pyVmomi import VmomiSupport, vim

from gpuvm import paths, vsphere
from gpuvm.vsphere import properties

RELEASES = ("6.7.3", "7.0.3.0", "8.0.3.0", "9.0.0.0")
NEWER_THAN_6_7 = {
    "config.assignableHardwareBinding",
    "capability.deviceRebindWithoutRebootSupported",
}
VCSIM = paths.resource("vcsim")


ASKED = sorted(set(asked()), key=str)


def test_the_paths_are_found() -> None:
    names = {path for _, _, path in ASKED}
    assert len(ASKED) > 100
    assert {
        "configuration.drsConfig",
        "runtime.bootTime",
        "hardware.pciDevice",
        "info.state",
    } <= names
    assert names >= NEWER_THAN_6_7


def test_no_read_hides_its_paths() -> None:
    """A kind or a path that is only known at run time would not be held against anything here."""
    for name, node, loaded in nodes():
        if loaded is properties:  # it reads again, in parts, what others asked for
            continue
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("Objects", "Related"):
            found = list(beside_a_kind(node.args, loaded, name))
            if ast.unparse(node.func) == "Related":
                found = list(beside_a_kind(node.args[1:], loaded, name))
            assert found, f"{name}: {ast.unparse(node)}"


def test_index_into_a_non_list_is_refused() -> None:
    with pytest.raises(ValueError, match=r"config\.hardware"):
        properties.since(vim.VirtualMachine, 'config.hardware["key"]')


def test_one_place_makes_property_specs() -> None:
    """Another one could forget the version."""
    sources = Path(vsphere.__path__[0]).glob("*.py")
    assert [s.name for s in sources if "PropertySpec(" in s.read_text()] == ["properties.py"]


def test_what_is_read_whole() -> None:
    """Data objects whose every field is decoded, so that one unknown value loses all of it.

    Tasks are of all users: only their initiator is read, and the result of our own.
    """
    whole = {(kind.__name__, path) for _, kind, path in ASKED if _is_data(kind, path)}
    assert whole == {
        ("vim.ClusterComputeResource", "configuration.drsConfig"),
        ("vim.ClusterComputeResource", "configuration.drsVmConfig"),
        ("vim.Datastore", "host"),
        ("vim.HostSystem", "config.assignableHardwareBinding"),
        ("vim.HostSystem", "config.graphicsConfig"),
        ("vim.HostSystem", "config.graphicsInfo"),
        ("vim.HostSystem", "config.pciPassthruInfo"),
        ("vim.HostSystem", "hardware.pciDevice"),
        ("vim.OpaqueNetwork", "summary"),
        ("vim.ResourcePool", "runtime.memory"),
        ("vim.Task", "info.error"),
        ("vim.Task", "info.reason"),
        ("vim.VirtualMachine", "config.bootOptions"),
        ("vim.VirtualMachine", "config.hardware.device"),
        ("vim.VirtualMachine", "config.keyId"),
        ("vim.VirtualMachine", "config.managedBy"),
        ("vim.VirtualMachine", "guest.net"),
        ("vim.VirtualMachine", "runtime.question"),
        ("vim.VirtualMachine", "snapshot"),
    }


def _is_data(kind: Any, path: str) -> bool:
    if "config.extraConfig" in path:
        return False  # a key and a value
    for part in path.split("."):
        kind = kind._GetPropertyInfo(part).type
    return issubclass(getattr(kind, "Item", kind), VmomiSupport.DataObject)


@pytest.mark.parametrize("release", RELEASES)
def test_paths_are_declared(release: str) -> None:
    version = VmomiSupport.versionMap[f"vim25/{release}"]
    for module, kind, path in ASKED:
        spec = properties.property_spec(kind, [path], version)
        missing = release.startswith("6.7") and path in NEWER_THAN_6_7
        assert list(spec.pathSet) == ([] if missing else [path]), (module, kind, path)


def test_run_time_types_do_not_count() -> None:
    """A cluster's configurationEx is declared as a type without a drsConfig."""
    with pytest.raises(ValueError, match="declares no drsConfig"):
        properties.since(vim.ClusterComputeResource, "configurationEx.drsConfig")


def test_the_simulator_knows_the_same_versions() -> None:
    command = [sys.executable, str(VCSIM / "newer_properties.py")]
    printed = subprocess.run(command, capture_output=True, check=True, text=True).stdout
    assert printed == (VCSIM / "newer_properties.txt").read_text()
