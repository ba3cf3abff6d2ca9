"""Fixed addresses, and which of a guest's addresses is used."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from simulated_vcenter import QUICK, Rig, rig_of

from gpuvm import lifecycle
from gpuvm.events import Events
from gpuvm.guest import endpoint
from gpuvm.lab.description import TemplateDescription, describe
from gpuvm.lifecycle import guest_ready

REQUESTED = {"first": "127.77.200.1", "last": "127.77.200.9", "prefix": 16}


@pytest.fixture(scope="module")
def silent(home: Path) -> Iterator[Rig]:
    """What guests set in guestinfo is in no update, and they have two network cards."""
    template = TemplateDescription(nics=2)
    changes = {"timings": QUICK, "guestinfo_updates": False, "templates": (template,)}
    with rig_of(home, "silent", describe(hosts=2).model_copy(update=changes)) as made:
        yield made


def test_fixed_addresses_come_from_the_range(rig: Rig) -> None:
    with rig.connect() as connection:
        plan = rig.plan(connection, hosts=2, name="fixed-ip", addresses=REQUESTED)
        rig.reset_calls()
        result = rig.provision(connection, plan, until="address")
        assert [o.address for o in result.outcomes] == ["127.77.200.1", "127.77.200.2"]
        assert rig.calls()["ReconfigVM_Task"] == 2, "the network, once for each"
        assert "QueryEvents" not in rig.calls()
    rig.teardown("fixed-ip")


def test_fixed_addresses_may_be_ipv6(rig: Rig) -> None:
    requested = {
        "first": "2001:db8::a",
        "last": "2001:db8::1f",
        "prefix": 64,
        "gateway": "2001:db8::1",
    }
    with rig.connect() as connection:
        plan = rig.plan(connection, hosts=2, name="six", addresses=requested)
        result = rig.provision(connection, plan, until="address")
        assert [o.address for o in result.outcomes] == ["2001:db8::a", "2001:db8::b"]
    rig.teardown("six")


def test_interrupted_vm_gets_its_network_configuration_at_start(rig: Rig) -> None:
    """As when gpuvm is killed between the clone and the reconfiguration."""
    with rig.connect() as connection:
        plan = rig.plan(connection, hosts=1, name="cut", addresses=REQUESTED)
        rig.fault("ReconfigVM_Task", "InvalidState")
        result = lifecycle.provision(plan, connection, rig.context, Events(), keep_failed=True)
        assert result.failed
        (vm,) = rig.own_vms(connection, "cut")
        assert not vm.powered_on
        again = rig.plan(connection, hosts=1, name="cut", addresses=REQUESTED)
        result = rig.provision(connection, again, until="address")
        assert [o.address for o in result.outcomes] == ["127.77.200.1"]
        assert not rig.plan(connection, hosts=1, name="cut", addresses=REQUESTED).changes
    rig.teardown("cut")


def test_another_address_than_the_fixed_one_does_not_count(rig: Rig) -> None:
    """As with a template whose cloud-init leaves the network alone."""
    requested = {**REQUESTED, "first": "127.77.201.1", "last": "127.77.201.1"}
    deadlines = {"address_s": 3}
    with rig.connect() as connection:
        plan = rig.plan(connection, hosts=1, name="dhcp", addresses=requested, deadlines=deadlines)
        rig.post("/vms/dhcp-01/no-network-config")
        (failed,) = rig.provision(connection, plan, until="address").failed
        assert failed.left
        assert "expected the address 127.77.201.1, the guest reports 127." in str(failed.error)
        assert "cloud-init.log" in str(failed.error and failed.error.hint)
    rig.teardown("dhcp")


def test_host_keys_that_no_update_brings_are_read(
    silent: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guest_ready, "READ_AGAIN_S", 0.5)
    with silent.connect() as connection:
        plan = silent.plan(connection, hosts=1, name="anew", accelerator={"mode": "none"})
        (outcome,) = silent.provision(connection, plan, until="ready").outcomes
        assert outcome.error is None, outcome
    silent.teardown("anew")


def test_second_network_adapter_is_tried_if_the_first_does_not_answer(silent: Rig) -> None:
    with silent.connect() as connection:
        silent.post("/vms/two-01/isolated")
        plan = silent.plan(connection, hosts=1, name="two", accelerator={"mode": "none"})
        (outcome,) = silent.provision(connection, plan, until="ready").outcomes
        assert outcome.error is None, outcome
        (vm,) = silent.own_vms(connection, "two")
        assert len(vm.addresses) == 2
        assert vm.addresses[0].startswith("127.255."), "it goes nowhere"
        assert outcome.address == vm.addresses[1]
        where = endpoint(vm, silent.context)
        assert (where.address, *where.others) == vm.addresses
    silent.teardown("two")
