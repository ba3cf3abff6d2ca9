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
from xml.parsers.expat import ExpatError

import stamina
from pyVmomi import vim
from pyVmomi.SoapAdapter import SoapStubAdapter
from typing_extensions import override

from gpuvm.vsphere.faults import Undecodable

ATTEMPTS = 4
LOST = (OSError, HTTPException)
_NOT_DECODED = (TypeError, KeyError, AttributeError, ValueError, ExpatError)
"""What pyVmomi raises for an answer with a type, a field or a value that it does not know."""

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


class DecodingStub(SoapStubAdapter):
    """Raises Undecodable for every answer that pyVmomi cannot decode, faults included."""

    @override
    def InvokeMethod(self, mo: Any, info: Any, args: Any, outerStub: Any = None) -> Any:
        try:
            return super().InvokeMethod(mo, info, args, outerStub)  # type: ignore[no-untyped-call]
        except LOST:
            raise  # ssl.SSLCertVerificationError is a ValueError too
        except _NOT_DECODED as error:
            raise Undecodable(f"{type(error).__name__}: {error}") from error
        except Exception as error:
            if type(error) is Exception:  # pyVmomi's, for an error page without a fault
                raise Undecodable(str(error).splitlines()[0]) from error
            raise


class SessionStub(DecodingStub):
    """``login`` is called with this stub when its session has ended."""

    def __init__(self, login: Callable[[Any], None], **connection: Any) -> None:
        super().__init__(**connection)  # type: ignore[no-untyped-call]
        self._login = login
        self._connection = connection

    def beside(self, path: str, version: str) -> DecodingStub:
        """To another service of the same vCenter, which is shown this session in a header."""
        cookie = re.search(r'vmware_soap_session="?([^";]+)', str(self.cookie))
        shown = {"vcSessionCookie": cookie[1]} if cookie else {}
        changed = {"path": path, "version": version, "requestContext": shown}
        return DecodingStub(**self._connection | changed)  # type: ignore[no-untyped-call]

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
                return super().InvokeMethod(mo, info, args, outer)
        raise AssertionError("stamina raises what the last attempt raised")


def _only_reads(method: str) -> bool:
    return method.startswith(_READS)
