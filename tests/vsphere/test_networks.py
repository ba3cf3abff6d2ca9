"""NSX networks: an adapter is connected by the network's id and type, as vCenter requires."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from pyVmomi import vim
from simulated_vcenter import QUICK, Rig, rig_of

from gpuvm.lab.description import describe

SEGMENT = "gpu-segment"


@pytest.fixture(scope="module")
def nsx(home: Path) -> Iterator[Rig]:
    shape = describe(hosts=1).model_copy(update={"timings": QUICK, "opaque_networks": (SEGMENT,)})
    with rig_of(home, "nsx", shape) as rig:
        yield rig


def test_clone_is_connected_to_an_opaque_network(nsx: Rig) -> None:
    with nsx.connect() as connection:
        plan = nsx.plan(connection, name="opaque", hosts=1, network=SEGMENT)
        result = nsx.provision(connection, plan)
        assert not result.failed, result
        (vm,) = nsx.own_vms(connection, "opaque")
        (network,) = [n for n in connection.read_inventory().networks if n.name == SEGMENT]
        assert vm.networks == (network.moref,)
        assert network.path == f"/Lab/network/{SEGMENT}"
        (seen,) = connection.read_diagnosis([vm.moref])
        assert [adapter.network for adapter in seen.adapters] == [SEGMENT]
    with nsx.in_vcenter(vm) as there:
        (card,) = [
            device
            for device in there.config.hardware.device
            if isinstance(device, vim.vm.device.VirtualEthernetCard)
        ]
        opaque = vim.vm.device.VirtualEthernetCard.OpaqueNetworkBackingInfo
        assert isinstance(card.backing, opaque)
        assert card.backing.opaqueNetworkId == network.opaque_id
        assert card.backing.opaqueNetworkType == "nsx.LogicalSwitch"
    nsx.teardown("opaque")
