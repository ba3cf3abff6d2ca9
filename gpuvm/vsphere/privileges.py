"""The privileges that the account lacks, and the assigned licences."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from gpuvm.errors import VSphereError
from gpuvm.inventory import Licence
from gpuvm.vsphere.faults import translated


def missing(content: Any, wanted: Mapping[Any, Sequence[str]]) -> dict[Any, tuple[str, ...]]:
    """Return, per object, those of ``wanted`` that this session does not have on it.

    API: AuthorizationManager.HasPrivilegeOnEntities.
    """
    every = sorted({privilege for privileges in wanted.values() for privilege in privileges})
    with translated("checking privileges", "the vCenter"):
        while True:
            cookie = content.sessionManager._stub.cookie
            session = content.sessionManager.currentSession
            answers = content.authorizationManager.HasPrivilegeOnEntities(
                entity=list(wanted), sessionId=session.key, privId=every
            )
            if (
                content.sessionManager._stub.cookie == cookie
            ):  # else the answer is about a session that expired
                break
    lacking = {
        answer.entity: {one.privId for one in answer.privAvailability if not one.isGranted}
        for answer in answers
    }
    return {
        entity: tuple(p for p in privileges if p in lacking.get(entity, ()))
        for entity, privileges in wanted.items()
    }


def assigned(content: Any) -> Mapping[str, Licence] | None:
    """Return licences by a host's moref or the vCenter's instance UUID; None if not readable.

    API: LicenseAssignmentManager.QueryAssignedLicenses, one call for all. By the reference it needs
    System.View only. It is deprecated without a successor in this API, so errors are accepted.
    """
    try:
        with translated("reading licences", "the vCenter"):
            manager = content.licenseManager.licenseAssignmentManager
            found = manager.QueryAssignedLicenses() if manager else None
    except (VSphereError, AttributeError):
        return None
    return {one.entityId: _licence(one) for one in found or () if one.assignedLicense} or None


def _licence(assignment: Any) -> Licence:
    ends = _ends(assignment)
    return Licence(
        name=assignment.assignedLicense.name or "a licence without a name",
        expires=ends.date().isoformat() if ends else None,
        expired=ends is not None and ends < datetime.now(UTC),
    )


def _ends(assignment: Any) -> datetime | None:
    """Return the expiry: an evaluation has it in its assignment, a licence in its properties."""
    evaluation = _property(assignment.properties, "Evaluation")
    holders = (getattr(evaluation, "properties", None), assignment.assignedLicense.properties)
    for properties in holders:
        value = _property(properties, "expirationDate")
        if isinstance(value, datetime):
            return value if value.tzinfo else value.replace(tzinfo=UTC)
    return None


def _property(properties: Iterable[Any] | None, key: str) -> Any:
    return next((one.value for one in properties or () if one.key == key), None)
