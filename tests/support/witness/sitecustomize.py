"""Imported by every Python process that has this folder in PYTHONPATH: writes what it saw.

The arguments of each program that the process started, and each session cookie that it was given,
a line each, to the file that GPUVM_TEST_WITNESS names.
"""

import http.client
import json
import os
import re
import sys

_FILE = os.environ.get("GPUVM_TEST_WITNESS")
_STARTS = {"subprocess.Popen", "os.posix_spawn", "os.exec", "os.system"}


def _write(kind: str, text: str) -> None:
    descriptor = os.open(str(_FILE), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(descriptor, json.dumps([kind, text]).encode() + b"\n")
    os.close(descriptor)


def _audit(event: str, arguments: tuple[object, ...]) -> None:
    if event in _STARTS:
        _write("started", repr(arguments[:2]))


_begin = http.client.HTTPResponse.begin


def _began(response: http.client.HTTPResponse) -> None:
    _begin(response)
    cookie = re.search(r'vmware_soap_session="?([^";]+)', response.headers.get("Set-Cookie", ""))
    if cookie:
        _write("cookie", cookie[1])


if _FILE:
    sys.addaudithook(_audit)
    http.client.HTTPResponse.begin = _began  # type: ignore[assignment, method-assign]
