"""Each supported vSphere version, from plan to teardown; properties that it lacks are unset."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from pyVmomi import vim, vmodl
from simulated_vcenter import QUICK, Rig, rig_of

from gpuvm.errors import BadInput, VSphereError
from gpuvm.lab.description import About, TemplateDescription, describe
from gpuvm.vsphere.faults import translated

RELEASES = {"6.7.3": "6.7.0", "7.0.3.0": "7.0.3", "8.0.3.0": "8.0.3", "9.0.0.0": "9.0.0"}


@pytest.fixture(params=RELEASES)
def release(home: Path, request: pytest.FixtureRequest) -> Iterator[Rig]:
    about = About(version=RELEASES[request.param], api_version=request.param)
    old = request.param == "6.7.3"
    template = TemplateDescription(hardware_version="vmx-15" if old else "vmx-17")
    changes = {"timings": QUICK, "about": about, "templates": (template,)}
    shape = describe(hosts=2).model_copy(update=changes)
    with rig_of(home, f"api-{request.param}", shape) as made:
        yield made


def test_a_fixed_gpu_from_plan_to_teardown(release: Rig) -> None:
    with release.connect() as connection:
        plan = release.plan(connection, hosts=2, name="fixed")
        result = release.provision(connection, plan)
        assert not result.failed, result
        assert [vm.pci_addresses for vm in release.own_vms(connection, "fixed")] == [
            ("0000:3b:00.0",),
            ("0000:3b:00.0",),
        ]
    release.teardown("fixed")


def test_dynamic_needs_7_0(release: Rig) -> None:
    with release.connect() as connection:
        if connection.vcenter.api_version.startswith("6.7"):
            with pytest.raises(BadInput, match="no suitable VM template") as refused:
                release.plan(connection, accelerator={"mode": "dynamic"})
            assert "7.0" in (refused.value.hint or "")
        else:
            assert release.plan(connection, accelerator={"mode": "dynamic"}).created


def test_a_refused_property_is_named(rig: Rig) -> None:
    """By a vCenter that was really asked for it, past what gpuvm itself would not send."""
    with rig.connect() as connection:
        content = connection._content
        query = vmodl.query.PropertyCollector
        spec = query.FilterSpec(
            objectSet=[query.ObjectSpec(obj=content.rootFolder)],
            propSet=[query.PropertySpec(type=vim.Folder, pathSet=["name", "noSuchProperty"])],
        )
        with pytest.raises(VSphereError) as caught, translated("reading", "the vCenter"):
            content.propertyCollector.RetrievePropertiesEx([spec], query.RetrieveOptions())
    assert "InvalidProperty" in str(caught.value)
    assert "noSuchProperty" in str(caught.value)
    assert "version" in (caught.value.hint or "")
