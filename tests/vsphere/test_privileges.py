"""Licences are read if the account may see them; a refusal is not a failure."""

from datetime import UTC, datetime
from typing import Any

import pytest
from pyVmomi import vim, vmodl
from simulated_vcenter import Rig

from gpuvm.inventory import Licence
from gpuvm.vsphere import privileges

PAST, FUTURE = datetime(2020, 1, 31, tzinfo=UTC), datetime(2999, 1, 31, tzinfo=UTC)


def test_each_host_has_its_own(rig: Rig) -> None:
    with rig.connect() as connection:
        reported = connection.read_licences()
        hosts = connection.read_inventory().hosts
    assert reported is not None
    assert {reported[host.moref] for host in hosts} == {Licence("Evaluation Mode")}


@pytest.mark.parametrize("fault", ["NoPermission", "NotSupported"])
def test_refused_licence_query_returns_none(rig: Rig, fault: str) -> None:
    rig.fault("QueryAssignedLicenses", fault)
    with rig.connect() as connection:
        assert connection.read_licences() is None
    rig.clear_faults()


@pytest.mark.parametrize(
    ("of_evaluation", "of_licence", "expected"),
    [
        (None, None, Licence("any")),
        (None, FUTURE, Licence("any", "2999-01-31")),
        (None, PAST, Licence("any", "2020-01-31", expired=True)),
        (PAST, None, Licence("any", "2020-01-31", expired=True)),
        (FUTURE, PAST, Licence("any", "2999-01-31")),
    ],
)
def test_end_date_is_of_the_evaluation_or_the_licence(
    of_evaluation: datetime | None, of_licence: datetime | None, expected: Licence
) -> None:
    """Pure: the simulator's licences never end."""
    assignment = vim.LicenseAssignmentManager.LicenseAssignment(
        entityId="host-1",
        assignedLicense=vim.LicenseManager.LicenseInfo(
            licenseKey="SECRET", editionKey="e", name="any", total=1, properties=_ends(of_licence)
        ),
        properties=[_evaluation(of_evaluation)] if of_evaluation else [],
    )
    assert privileges._licence(assignment) == expected


def _evaluation(ends: datetime) -> vmodl.KeyAnyValue:
    info = vim.LicenseManager.EvaluationInfo(properties=_ends(ends))
    return vmodl.KeyAnyValue(key="Evaluation", value=info)


def _ends(when: datetime | None) -> list[Any]:
    return [vmodl.KeyAnyValue(key="expirationDate", value=when)] if when else []
