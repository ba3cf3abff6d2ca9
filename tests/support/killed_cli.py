"""The command line, killed by SIGKILL at a chosen call to the vCenter.

    python killed_cli.py INDEX|METHOD before|sent|after -- provision --hosts 2

``before`` the call is sent, once it was ``sent`` (it is served, nobody reads the answer), or
``after`` its answer came. INDEX 0 kills nothing and prints how many calls there were; a METHOD is
that of the API, the first call of it.
"""

import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from pyVmomi.SoapAdapter import SoapStubAdapter


def main() -> None:
    which, moment = sys.argv[1], sys.argv[2]
    calls = _Killing(which, moment)
    sys.argv = ["gpuvm", *sys.argv[4:]]
    from gpuvm.cli.main import app

    try:
        app()
    finally:
        sys.stderr.write(f"calls: {calls.made}\n")


class _Killing:
    def __init__(self, which: str, moment: str) -> None:
        self.made, self.which, self.moment = 0, which, moment
        self._invoke: Callable[..., Any] = SoapStubAdapter.InvokeMethod
        # pyVmomi has no other hook for all calls.
        SoapStubAdapter.InvokeMethod = lambda *a, **k: self._call(*a, **k)  # type: ignore[method-assign]  # noqa: PLW0108 - a method

    def _call(self, stub: Any, *arguments: Any, **named: Any) -> Any:
        self.made += 1
        mine = self.which in (str(self.made), arguments[1].wsdlName)
        if mine and self.moment == "before":
            _die()
        if mine and self.moment == "sent":
            connection = stub.GetConnection()
            receive = connection.getresponse

            def receive_and_die(*options: Any) -> None:
                receive(*options)
                _die()

            connection.getresponse = receive_and_die
            stub.GetConnection = lambda: connection
        answer = self._invoke(stub, *arguments, **named)
        if mine:
            _die()
        return answer


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main()
