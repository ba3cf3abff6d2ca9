"""An account with roles on the cluster, a folder, the template, a datastore and a network only.

Nothing is granted at the vCenter's root, which is the rule and not the exception in large sites.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from simulated_vcenter import QUICK, Rig, rig_of
from typer.testing import CliRunner

from gpuvm import privileges, settings
from gpuvm.cli.main import app
from gpuvm.errors import NoPermission, NotFound, NotVisible
from gpuvm.inventory import Inventory
from gpuvm.lab.description import (
    DatastoreDescription,
    PermissionDescription,
    TemplateDescription,
    UserDescription,
    VMDescription,
    describe,
)
from gpuvm.vsphere import VSphere

NARROW, FEWER = "narrow@lab.local", "fewer@lab.local"
FOLDER = "team"
SPEC: dict[str, Any] = {"hosts": 2, "folder": FOLDER, "network": "VM Network"}
ON_FOLDER = (*privileges.FOLDER, *privileges.GPU, *privileges.EDIT, *privileges.CONNECT)


def granted(entity: str, *privileges: str, **more: Any) -> PermissionDescription:
    return PermissionDescription(principal=NARROW, entity=entity, privileges=privileges, **more)


@pytest.fixture(scope="module")
def site(home: Path) -> Iterator[Rig]:
    shape = describe(hosts=4)
    held = {"gpu": "0000:3b:00.0"}
    shape = shape.model_copy(
        update={
            "timings": QUICK,
            "networks": ("VM Network", "storage"),
            "datastores": (DatastoreDescription(), DatastoreDescription(name="archive")),
            "templates": (
                TemplateDescription(datastore="vsanDatastore"),
                TemplateDescription(name="other", datastore="archive"),
            ),
            "vms": (
                VMDescription(name="trainer", host="esx-01.lab.local", **held),
                VMDescription(name="secret", host="esx-02.lab.local", **held),
            ),
            "users": (
                *shape.users,
                UserDescription(name=NARROW, role="none"),
                UserDescription(name=FEWER, role="none"),
            ),
            "permissions": (
                granted("GPU-Cluster", *privileges.POOL),
                granted(f"/Lab/vm/{FOLDER}", *ON_FOLDER),
                granted("centos7-tensorflow", *privileges.TEMPLATE),
                granted("vsanDatastore", *privileges.DATASTORE),
                granted("VM Network", *privileges.NETWORK),
                granted("secret", role="noaccess"),
                PermissionDescription(principal=FEWER, entity="vsanDatastore", role="readonly"),
            ),
        }
    )
    with rig_of(home, "narrow", shape) as made:
        with made.connect() as admin:
            content = admin._content
            top = content.searchIndex.FindByInventoryPath("/Lab/vm")
            top.CreateFolder(FOLDER)
        yield made.as_user(NARROW)


@pytest.fixture
def connection(site: Rig) -> Iterator[VSphere]:
    with site.connect() as made:
        yield made


def read(connection: VSphere) -> Inventory:
    return connection.read_inventory(folder=FOLDER)


def test_narrow_account_sees_its_part_and_the_rest_is_reported(connection: VSphere) -> None:
    inventory = read(connection)
    assert len(inventory.hosts) == 4
    assert [one.name for one in inventory.datastores] == ["vsanDatastore"]
    assert [one.name for one in inventory.networks] == ["VM Network"]
    assert [one.name for one in inventory.templates] == ["centos7-tensorflow"]
    assert inventory.cluster.path == "/GPU-Cluster"
    states = {gpu.host.partition(".")[0]: gpu.state for gpu in inventory.gpus}
    assert states == {
        "esx-01": "held by trainer (powered on)",
        "esx-02": "held by a VM that this account cannot see (powered on)",
        "esx-03": "free",
        "esx-04": "free",
    }
    of_account, *_ = inventory.notes
    assert "cannot see the vCenter's root, nor 1 of the hosts' datastores" in of_account


def test_from_plan_to_teardown(site: Rig, connection: VSphere) -> None:
    plan = site.plan(connection, name="own", **SPEC)
    assert [step.host.name for step in plan.steps] == ["esx-03.lab.local", "esx-04.lab.local"]
    assert not site.provision(connection, plan).failed
    again = site.plan(connection, name="own", **SPEC)
    assert not again.changes
    done = CliRunner().invoke(app, ["status", *spec_of(site), "--no-guests", "--json"])
    assert done.exit_code == 0
    assert '"drift": []' in done.stdout
    site.teardown("own")


def spec_of(site: Rig) -> list[str]:
    """The spec as a file, and the account."""
    folder = Path(os.environ["GPUVM_STATE_DIR"])
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "own.yaml"
    file.write_text("\n".join(["name: own", *(f"{k}: {v}" for k, v in SPEC.items())]))
    context = site.context.model_copy(update={"name": "narrow-account"})
    settings.save(context)
    return ["--file", str(file), "--context", context.name]


def test_doctor_finds_no_problem(site: Rig) -> None:
    """Cancelling, and what is not to be seen, are warnings."""
    done = CliRunner().invoke(app, ["doctor", *spec_of(site), "--json"])
    checks = json.loads(done.stdout)["data"]["checks"]
    assert [check for check in checks if check["level"] == "failure"] == []
    warnings = [check["text"] for check in checks if check["level"] == "warning"]
    assert "missing: Global.CancelTask on centos7-tensorflow" in warnings
    assert any(text.startswith("this account cannot see the vCenter's root") for text in warnings)


def test_a_folder_must_be_named(connection: VSphere) -> None:
    with pytest.raises(NotVisible, match="VM folder") as caught:
        connection.read_inventory()
    assert "folder:" in (caught.value.hint or "")


def test_missing_privilege_is_refused_by_name(site: Rig, connection: VSphere) -> None:
    trainer = next(h for gpu in read(connection).gpus for h in gpu.holders if h.vm == "trainer")
    with pytest.raises(NoPermission, match=r"VirtualMachine.Interact.PowerOff on trainer"):
        connection.start_power_off(trainer.moref)
    with pytest.raises(NotFound, match="archive"):
        site.plan(connection, name="own", datastore="archive", **SPEC)
