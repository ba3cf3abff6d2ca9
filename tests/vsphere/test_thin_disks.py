"""A full clone of a thin template takes what the template uses, in the plan as in vCenter."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from simulated_vcenter import QUICK, Rig, rig_of

from gpuvm.errors import PreflightRefused
from gpuvm.lab.description import DatastoreDescription, TemplateDescription, describe


@pytest.fixture(scope="module")
def narrow(home: Path) -> Iterator[Rig]:
    """100 GiB are for two disks of 200 GiB of which 30 are used, and not for four."""
    shape = describe(hosts=4).model_copy(
        update={
            "timings": QUICK,
            "datastores": (DatastoreDescription(free_gib=100),),
            "templates": (TemplateDescription(disk_gib=200, disk_used_gib=30),),
        }
    )
    with rig_of(home, "narrow", shape) as rig:
        yield rig


def test_thin_clones_need_only_their_used_space(narrow: Rig) -> None:
    with narrow.connect() as connection:
        (template,) = connection.read_inventory().templates
        assert (template.disk_gib, template.used_gib) == (200, 30)
        plan = narrow.plan(connection, name="thin", hosts=2)
        assert ["take 60 GiB now and can grow to 400 GiB" in f.text for f in plan.findings] == [
            True
        ]
        result = narrow.provision(connection, plan)
        assert not result.failed, result
        (store,) = connection.read_inventory().datastores
        assert store.free_gib == 40
    narrow.teardown("thin")


def test_thin_clones_that_do_not_fit_are_refused_before_any_change(narrow: Rig) -> None:
    with (
        narrow.connect() as connection,
        pytest.raises(PreflightRefused, match=r"4 clones of .* need 130 GiB: 120 of disks"),
    ):
        narrow.plan(connection, name="thick", hosts=4)
