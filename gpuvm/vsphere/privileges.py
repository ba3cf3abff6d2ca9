"""Which privileges the account lacks, asked of the vCenter before anything is tried."""

from collections.abc import Mapping, Sequence
from typing import Any

from gpuvm.vsphere.faults import translated


def missing(content: Any, wanted: Mapping[Any, Sequence[str]]) -> dict[Any, tuple[str, ...]]:
    """Per object, those of the wanted privileges that this session does not have on it.

    API: AuthorizationManager.HasPrivilegeOnEntities.
    """
    every = sorted({privilege for privileges in wanted.values() for privilege in privileges})
    with translated("asking for privileges", "the vCenter"):
        session = content.sessionManager.currentSession
        answers = content.authorizationManager.HasPrivilegeOnEntities(
            entity=list(wanted), sessionId=session.key, privId=every
        )
    lacking = {
        answer.entity: {one.privId for one in answer.privAvailability if not one.isGranted}
        for answer in answers
    }
    return {
        entity: tuple(p for p in privileges if p in lacking.get(entity, ()))
        for entity, privileges in wanted.items()
    }
