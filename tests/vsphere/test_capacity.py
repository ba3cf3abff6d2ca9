"""A host's memory for VMs, as vCenter reports it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from simulated_vcenter import QUICK, Rig, rig_of

from gpuvm import lifecycle
from gpuvm.errors import Unplaceable
from gpuvm.lab.description import describe
from gpuvm.spec import ClusterSpec


@pytest.fixture(scope="module")
def thirsty(home: Path) -> Iterator[Rig]:
    """Hosts whose ESXi keeps a fifth of the memory, as with vSAN and NSX on small ones."""
    shape = describe(hosts=2).model_copy(update={"timings": QUICK})
    hosts = [h.model_copy(update={"memory_gib": 100, "hypervisor_gib": 20}) for h in shape.hosts]
    with rig_of(home, "thirsty", shape.model_copy(update={"hosts": tuple(hosts)})) as made:
        yield made


def test_memory_reserved_by_esxi_is_not_allocated(thirsty: Rig) -> None:
    with thirsty.connect() as connection:
        with pytest.raises(Unplaceable, match=r"and 79\.9 GiB are unreserved"):  # an agent has some
            thirsty.plan(connection, hosts=1, memory_gib="85GiB")
        plan = thirsty.plan(connection, hosts=1, memory_gib="78GiB", name="fits")
        assert not thirsty.provision(connection, plan).failed
    thirsty.teardown("fits")


def test_a_host_in_maintenance_is_not_counted(thirsty: Rig) -> None:
    thirsty.post("/hosts/esx-02.lab.local/maintenance")
    with thirsty.connect() as connection:
        inventory = lifecycle.read_inventory(ClusterSpec(), connection)
        assert [host.hypervisor_gib for host in inventory.hosts] == pytest.approx([20, 20])
