"""The lab's supervisor: a process that watches the vCenter and runs the guests.

    python -m gpuvm.lab.supervisor STATE [LIFELINE]

It watches the VMs through the vSphere API only, as ``tools@lab.local``: it sees of a VM what VMware
Tools in it would. LIFELINE is an inherited pipe; the supervisor stops when it is closed, and on
SIGTERM.
"""

import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from pydantic import SecretStr

from gpuvm import settings, vsphere
from gpuvm.errors import GpuvmError, LabError
from gpuvm.lab import addresses, hypervisor, network
from gpuvm.lab.description import TOOLS
from gpuvm.lab.guest import linux
from gpuvm.lab.guests import Connected, GuestReconciler, Inbox, Lost, Stop, VMsChanged
from gpuvm.lab.state_folder import LabFolder, LabRecord

_RECONNECT_S = 0.5
_LOG = logging.getLogger("gpuvm.lab.supervisor")


def main(arguments: list[str]) -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stdout)
    folder = LabFolder(Path(arguments[0]))
    folder.guests.mkdir(exist_ok=True)
    record, description = folder.record(), folder.description()
    if record is None or description is None:
        raise LabError(f"{folder.path} is not a lab's state folder")
    isolation = hypervisor.find_isolation(folder.guests)
    if not isolation.isolated:
        linux.adopt_orphans()
    switch = None
    if addresses.network_of(record.address_block) == "namespaces":
        switch = network.Switch.create(record.address_block)
    reconciler = GuestReconciler(folder, record, description, isolation, switch)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: reconciler.inbox.put(Stop()))
    if len(arguments) > 1:
        _in_background(_stop_at_end, int(arguments[1]), reconciler.inbox)
    _in_background(watch, _context(folder, record), _password(folder), reconciler.inbox)
    reconciler.run()


def watch(context: settings.Context, password: SecretStr, inbox: Inbox) -> None:
    """Posts changes of VMs to the inbox, forever; reconnects after errors."""
    while True:
        try:
            with vsphere.connect(context, password) as session:
                inbox.put(Connected(session))
                for number, vms in enumerate(session.vm_watch().updates()):
                    inbox.put(VMsChanged(vms, complete=number == 0))
        except GpuvmError as error:
            _LOG.warning("cannot reach the vCenter: %s", error)
            inbox.put(Lost(str(error)))
        except Exception as error:  # noqa: BLE001
            # Any error: a supervisor that stopped watching would leave guests running.
            _LOG.exception("watching the vCenter failed")
            inbox.put(Lost(f"{type(error).__name__}: {error}"))
        time.sleep(_RECONNECT_S)


def _in_background(function: Callable[..., None], *arguments: object) -> None:
    threading.Thread(target=function, args=arguments, daemon=True).start()


def _context(folder: LabFolder, record: LabRecord) -> settings.Context:
    ready = folder.ready()
    if ready is None:
        raise LabError("the simulated vCenter has not reported its address")
    return settings.Context(
        name=folder.name,
        vcenter=ready.url,
        user=TOOLS,
        tls=settings.CAFile(ca_file=ready.ca_file),
        ssh=settings.SSH(port=record.ssh_port),
    )


def _password(folder: LabFolder) -> SecretStr:
    return SecretStr(json.loads(folder.passwords.read_text(encoding="utf-8"))[TOOLS])


def _stop_at_end(lifeline: int, inbox: Inbox) -> None:
    while os.read(lifeline, 1):
        pass
    inbox.put(Stop())


if __name__ == "__main__":
    main(sys.argv[1:])
