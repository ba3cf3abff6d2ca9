"""A name in several datacenters means the object in the cluster's datacenter."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pyVmomi import vim
from simulated_vcenter import QUICK, Rig, end, rig_of

from gpuvm.errors import Ambiguous
from gpuvm.lab.description import describe
from gpuvm.vsphere import Task, VSphere

NAME = "centos7-tensorflow"


@pytest.fixture
def site(home: Path) -> Iterator[Rig]:
    shape = describe(hosts=1).model_copy(update={"timings": QUICK})
    with rig_of(home, "datacenters", shape) as rig:
        yield rig


def test_a_template_of_the_clusters_own_datacenter_comes_first(site: Rig) -> None:
    with site.connect() as connection:
        (own,) = connection.read_inventory().templates
        root = connection._content.rootFolder
        _twin(connection, own.moref, root.CreateDatacenter(name="Archive").vmFolder)
        assert len(connection.read_inventory().templates) == 2

        plan = site.plan(connection, hosts=1, template=NAME)
        assert plan.template == own
        elsewhere = site.plan(connection, hosts=1, template=f"/Archive/vm/{NAME}").template
        assert elsewhere is not None
        assert elsewhere.moref != own.moref

        cluster = connection.read_inventory().cluster
        beside = connection._reference(vim.Folder, cluster.vm_folder).CreateFolder(name="Old")
        _twin(connection, own.moref, beside)
        with pytest.raises(Ambiguous) as caught:
            site.plan(connection, hosts=1, template=NAME)
        assert caught.value.choices == (f"/Lab/vm/Old/{NAME}", f"/Lab/vm/{NAME}")


def _twin(connection: VSphere, moref: str, folder: Any) -> None:
    template = connection._reference(vim.VirtualMachine, moref)
    spec = vim.vm.CloneSpec(location=vim.vm.RelocateSpec(), powerOn=False, template=True)
    task = template.CloneVM_Task(folder=folder, name=NAME, spec=spec)
    assert end(connection, NAME, Task(task._moId, "clone")).error is None
