"""A storage policy by name or id is applied to the VM's home and to every disk."""

import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pyVmomi import vim
from simulated_vcenter import QUICK, Rig, end, rig_of

from gpuvm.errors import Ambiguous, NotFound, PreflightRefused
from gpuvm.lab.description import StoragePolicyDescription, UserDescription, describe
from gpuvm.vsphere import Task

PLAIN, CACHE = "aa6d5a82-1c88-45da-85d3-3d74b91a5bad", "5e3e6b1a-7c0f-4d2e-9a51-1f9d0c3b7a64"
ONE, OTHER = "11111111-7c0f-4d2e-9a51-1f9d0c3b7a64", "22222222-7c0f-4d2e-9a51-1f9d0c3b7a64"
LIMITED = "limited@lab.local"


@pytest.fixture(scope="module")
def site(home: Path) -> Iterator[Rig]:
    shape = describe(hosts=2)
    policies = (
        *shape.storage_policies,
        StoragePolicyDescription(name="Gold", id=ONE),
        StoragePolicyDescription(name="Gold", id=OTHER),
    )
    limited = UserDescription(name=LIMITED, without=("StorageProfile.View",))
    changed = {"timings": QUICK, "storage_policies": policies, "users": (*shape.users, limited)}
    with rig_of(home, "policies", shape.model_copy(update=changed)) as rig:
        yield rig


@pytest.fixture
def torn_down(site: Rig) -> Iterator[None]:
    yield
    site.teardown("policed")


def applied(rig: Rig) -> list[dict[str, Any]]:
    with urllib.request.urlopen(f"{rig.control}/storage-policies") as answer:
        found = list(json.load(answer))
    return sorted((one for one in found if one["home"]), key=lambda one: str(one["vm"]))


@pytest.mark.parametrize(
    ("wanted", "policy"),
    [("vSAN Default Storage Policy", PLAIN), ("Host cache", CACHE), (CACHE, CACHE)],
)
@pytest.mark.usefixtures("torn_down")
def test_home_and_every_disk_get_the_policy(site: Rig, wanted: str, policy: str) -> None:
    """One with data services is refused in a clone, and not by a reconfigure after it."""
    with site.connect() as connection:
        plan = site.plan(connection, name="policed", hosts=2, storage_policy=wanted)
        result = site.provision(connection, plan)
        assert not result.failed, result
        disks = {"2000": policy}
        assert applied(site) == [
            {"vm": name, "home": policy, "disks": disks} for name in ("policed-01", "policed-02")
        ]
        again = site.plan(connection, name="policed", hosts=2, storage_policy=wanted)
        assert {step.action for step in again.steps} == {"keep"}


@pytest.mark.usefixtures("torn_down")
def test_policy_id_and_name_are_the_same_spec(site: Rig) -> None:
    with site.connect() as connection:
        plan = site.plan(connection, name="policed", hosts=1, storage_policy="Host cache")
        assert not site.provision(connection, plan).failed
        assert not site.plan(connection, name="policed", hosts=1, storage_policy=CACHE).changes
        with pytest.raises(PreflightRefused, match="different spec"):
            site.plan(connection, name="policed", hosts=1, storage_policy=PLAIN)


@pytest.mark.usefixtures("torn_down")
def test_interrupted_vm_gets_its_policy_before_start(site: Rig) -> None:
    """As after gpuvm was killed between clone and reconfigure; a disk of another user is kept."""
    with site.connect() as connection:
        plan = site.plan(connection, name="policed", hosts=1, storage_policy="Host cache")
        assert not site.provision(connection, plan).failed
        (vm,) = site.own_vms(connection, "policed")
        with site.in_vcenter(vm) as there:
            assert end(connection, "off", Task(there.PowerOffVM_Task()._moId, "off")).error is None
            forgotten = vim.option.OptionValue(key="gpuvm.storage_policy", value="")
            plain = [vim.vm.DefinedProfileSpec(profileId=PLAIN)]
            spec = vim.vm.ConfigSpec(extraConfig=[forgotten], vmProfile=plain)
            task = there.ReconfigVM_Task(spec=spec)
            assert end(connection, "forget", Task(task._moId, "forget")).error is None
        assert [one["home"] for one in applied(site)] == [PLAIN]
        again = site.plan(connection, name="policed", hosts=1, storage_policy="Host cache")
        assert not site.provision(connection, again).failed
        assert [one["home"] for one in applied(site)] == [CACHE]


def test_an_unknown_policy_is_refused_with_those_that_there_are(site: Rig) -> None:
    with (
        site.connect() as connection,
        pytest.raises(NotFound, match="'Silver' not found") as caught,
    ):
        site.plan(connection, hosts=1, storage_policy="Silver")
    assert "vSAN Default Storage Policy" in caught.value.existing


def test_an_unknown_id_is_refused_where_policies_can_be_read(site: Rig) -> None:
    unknown = "99999999-7c0f-4d2e-9a51-1f9d0c3b7a64"
    with site.connect() as connection, pytest.raises(NotFound, match="not found") as caught:
        site.plan(connection, hosts=1, storage_policy=unknown)
    assert f"Host cache ({CACHE})" in caught.value.existing


def test_two_policies_of_one_name_are_told_apart_by_their_ids(site: Rig) -> None:
    with site.connect() as connection:
        with pytest.raises(Ambiguous, match="several storage policies fit") as caught:
            site.plan(connection, hosts=1, storage_policy="Gold")
        assert caught.value.choices == (f"Gold ({ONE})", f"Gold ({OTHER})")
        assert site.plan(connection, hosts=1, storage_policy=OTHER).storage_policy == OTHER


def test_an_account_that_may_not_see_policies_uses_an_id(site: Rig) -> None:
    with site.as_user(LIMITED).connect() as connection:
        with pytest.raises(PreflightRefused, match=r"StorageProfile\.View"):
            site.plan(connection, hosts=1, storage_policy="Host cache")
        assert site.plan(connection, hosts=1, storage_policy=CACHE).storage_policy == CACHE
