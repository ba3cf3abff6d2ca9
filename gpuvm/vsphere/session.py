"""A connection that outlives its session: it logs in again, and repeats what only reads.

A call that the vCenter refused for want of a session was not carried out, so it can be made again.
A call whose answer never came may have been: reads are repeated, anything else is left to the
caller, who looks first (:class:`~gpuvm.errors.OutcomeUnknown`).
"""

import logging
import re
from collections.abc import Callable
from http.client import HTTPException
from typing import Any

import stamina
from pyVmomi import vim
from pyVmomi.SoapAdapter import SoapStubAdapter
from typing_extensions import override

ATTEMPTS = 4
LOST = (OSError, HTTPException)

# Methods of the API that change nothing but the caller's own collectors and views.
_READS = (
    "Retrieve",
    "Query",
    "Find",
    "Fetch",
    "Has",
    "WaitForUpdatesEx",
    "Continue",
    "CreateContainerView",
    "CreatePropertyCollector",
    "CreateFilter",
    "DestroyView",
    "DestroyPropertyCollector",
    "CurrentTime",
)

logging.getLogger("stamina").setLevel(logging.ERROR)


class SessionStub(SoapStubAdapter):
    """``login`` is called with this stub when its session has ended."""

    def __init__(self, login: Callable[[Any], None], **connection: Any) -> None:
        super().__init__(**connection)  # type: ignore[no-untyped-call]
        self._login = login
        self._connection = connection

    def beside(self, path: str, version: str) -> SoapStubAdapter:
        """To another service of the same vCenter, which is shown this session in a header."""
        cookie = re.search(r'vmware_soap_session="?([^";]+)', str(self.cookie))
        shown = {"vcSessionCookie": cookie[1]} if cookie else {}
        changed = {"path": path, "version": version, "requestContext": shown}
        return SoapStubAdapter(**self._connection | changed)

    @override
    def InvokeMethod(self, mo: Any, info: Any, args: Any, outerStub: Any = None) -> Any:
        name = str(info.wsdlName).removesuffix("_Task")
        try:
            return self._tried(mo, info, args, outerStub, again=_only_reads(name))
        except vim.fault.NotAuthenticated:
            if name in ("Login", "Logout"):
                raise
            self._login(self)
            return self._tried(mo, info, args, outerStub, again=_only_reads(name))

    def _tried(self, mo: Any, info: Any, args: Any, outer: Any, *, again: bool) -> Any:
        attempts = ATTEMPTS if again else 1
        for attempt in stamina.retry_context(on=LOST, attempts=attempts, wait_initial=0.2):
            with attempt:
                return super().InvokeMethod(mo, info, args, outer)  # type: ignore[no-untyped-call]
        raise AssertionError("stamina raises what the last attempt raised")


def _only_reads(method: str) -> bool:
    return method.startswith(_READS)
