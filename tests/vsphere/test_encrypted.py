"""Templates with a virtual TPM: what clones need, and that they share no secrets."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pyVmomi import vim
from simulated_vcenter import QUICK, Rig, rig_of

from gpuvm import privileges
from gpuvm.lab.description import TemplateDescription, describe
from gpuvm.lifecycle import read_inventory
from gpuvm.spec import ClusterSpec


@pytest.fixture
def sealed(home: Path) -> Iterator[Rig]:
    shape = describe(hosts=2).model_copy(update={"timings": QUICK})
    template = TemplateDescription(vtpm=True)
    with rig_of(home, "sealed", shape.model_copy(update={"templates": (template,)})) as made:
        yield made


def test_each_clone_gets_a_tpm_of_its_own(sealed: Rig) -> None:
    with sealed.connect() as connection:
        inventory = read_inventory(ClusterSpec(), connection)
        (template,) = inventory.templates
        used = privileges.Used(template=template)
        asked = privileges.to_provision(ClusterSpec(), inventory, used)
        assert "Cryptographer.Clone" in asked[template.moref]
        assert not sealed.provision(connection, sealed.plan(connection, hosts=2, name="own")).failed
        secrets = set()
        for vm in sealed.own_vms(connection, "own"):
            with sealed.in_vcenter(vm) as machine:
                secrets |= {_secret(machine)}
        assert len(secrets) == 2
    sealed.teardown("own")


def _secret(machine: Any) -> bytes:
    kinds = vim.vm.device.VirtualTPM
    (tpm,) = (d for d in machine.config.hardware.device if isinstance(d, kinds))
    return bytes(tpm.endorsementKeyCertificate[0])
