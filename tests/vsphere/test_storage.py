"""Hosts with separate datastores, and sources that cannot be cloned."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from simulated_vcenter import QUICK, Rig, rig_of

from gpuvm.errors import BadInput, PreflightRefused
from gpuvm.lab.description import DatastoreDescription, TemplateDescription, describe


def _hosts(count: int) -> list[str]:
    return [f"esx-{i:02d}.lab.local" for i in range(1, count + 1)]


@pytest.fixture(scope="module")
def local(home: Path) -> Iterator[Rig]:
    """Each of five hosts has its own datastore; two of these cannot be used."""
    stores = [
        DatastoreDescription(name=f"local-{n}", hosts=(h,)) for n, h in enumerate(_hosts(5), 1)
    ]
    stores[3] = stores[3].model_copy(update={"maintenance": True})
    stores[4] = stores[4].model_copy(update={"read_only_on": stores[4].hosts})
    changes = {"timings": QUICK, "datastores": tuple(stores)}
    with rig_of(home, "local", describe(hosts=5).model_copy(update=changes)) as made:
        yield made


@pytest.fixture(scope="module")
def mixed(home: Path) -> Iterator[Rig]:
    """The first host is older than the template's virtual hardware, which is on the second."""
    shape = describe(hosts=3)
    old = shape.hosts[0].model_copy(update={"version": "7.0.3"})
    template = TemplateDescription(hardware_version="vmx-20", host=shape.hosts[1].name)
    changes: dict[str, Any] = {"timings": QUICK, "hosts": (old, *shape.hosts[1:])}
    changes["templates"] = (template,)
    with rig_of(home, "mixed", shape.model_copy(update=changes)) as made:
        yield made


def test_one_vm_on_each_host_needs_nothing_shared(local: Rig) -> None:
    with local.connect() as connection:
        plan = local.plan(connection, hosts=3, name="own")
        assert [store.name for store in plan.datastores] == ["local-1", "local-2", "local-3"]
        reported = [finding.text for finding in plan.findings]
        assert (
            "esx-04.lab.local is left out: no datastore for its VMs (local-4: it is in mainten"
            in reported[0]
        )
        assert "local-5: it is mounted read-only there" in reported[1]
        result = local.provision(connection, plan)
        assert not result.failed, result
        stores = {s.moref: s.name for s in connection.read_inventory().datastores}
        own_ones = local.own_vms(connection, "own")
        assert [[stores[m] for m in vm.datastores] for vm in own_ones] == [
            ["local-1"],
            ["local-2"],
            ["local-3"],
        ]
        words = {vm.host: stores[vm.datastores[0]] for vm in own_ones}
        assert not local.plan(connection, hosts=3, name="own", datastore=words).changes
        assert not local.plan(connection, hosts=3, name="own", datastore="local-*").changes
        with pytest.raises(PreflightRefused, match="datastore not given, now local-1"):
            local.plan(connection, hosts=3, name="own", datastore="local-1")
    local.teardown("own")


def test_linked_clones_stay_with_their_template(local: Rig) -> None:
    with local.connect() as connection, pytest.raises(PreflightRefused, match="no snapshot"):
        local.plan(connection, hosts=1, name="linked", clone_mode="linked")


def test_a_host_older_than_the_templates_hardware_is_left_out(mixed: Rig) -> None:
    with mixed.connect() as connection:
        plan = mixed.plan(connection, hosts=2, name="newer")
        assert [step.host.name for step in plan.created] == _hosts(3)[1:]
        assert "ESXi 7.0.3 runs virtual hardware up to version 19" in plan.findings[0].text
        assert not mixed.provision(connection, plan).failed
    mixed.teardown("newer")


def test_template_on_a_disconnected_host_is_refused(mixed: Rig) -> None:
    away = "/hosts/esx-02.lab.local"
    mixed.post(f"{away}/disconnect")
    try:
        with mixed.connect() as connection:
            with pytest.raises(BadInput) as none_fits:
                mixed.plan(connection, hosts=1, name="away")
            assert "registered on esx-02.lab.local, which is disconnected" in str(
                none_fits.value.hint
            )
            with pytest.raises(PreflightRefused, match="registered on esx-02"):
                mixed.plan(connection, hosts=1, name="away", template="centos7-tensorflow")
    finally:
        mixed.post(f"{away}/reconnect")
