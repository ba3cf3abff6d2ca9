"""A simulated vCenter for tests, with its control endpoint."""

import json
import os
import shlex
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pyVim import connect as pyvim
from pyVmomi import vim

from gpuvm import lab, lifecycle, settings, vsphere
from gpuvm.events import Event, Events
from gpuvm.inventory import VM
from gpuvm.lab.description import Description, Timings, describe
from gpuvm.lifecycle import ApplyResult, Until
from gpuvm.planner import Plan
from gpuvm.spec import ClusterSpec
from gpuvm.vsphere import Change, CloneRequest, Task, TaskEnded, UpdateStream, VSphere

QUICK = Timings(clone_s=0, power_on_s=0, power_off_s=0, destroy_s=0, boot_s=0)


@dataclass(frozen=True)
class Rig:
    """``control`` is the simulator's own endpoint: it counts calls, adds VMs and injects faults."""

    context: settings.Context
    control: str

    def connect(self) -> VSphere:
        return vsphere.connect(self.context, settings.password(self.context, None))

    def as_user(self, user: str) -> "Rig":
        """The same vCenter, seen by another of the lab's accounts."""
        passwords = Path(shlex.split(self.context.password_command or "")[1]).parent
        password = json.loads((passwords / "passwords.json").read_text())[user]
        command = f"echo {shlex.quote(password)}"
        changed = {"user": user, "password_command": command}
        return Rig(self.context.model_copy(update=changed), self.control)

    def add(self, **vms: Any) -> None:
        self.post("/vms", vms)

    def reset_calls(self) -> None:
        self.post("/calls/reset")

    def calls(self) -> dict[str, int]:
        with urllib.request.urlopen(f"{self.control}/calls") as answer:
            return dict(json.load(answer).get(self.context.user, {}))

    def values(self) -> dict[str, int]:
        """How often each property was returned, such as ``VirtualMachine name``."""
        with urllib.request.urlopen(f"{self.control}/calls/values") as answer:
            return dict(json.load(answer).get(self.context.user, {}))

    def fault(self, method: str, fault: str, **rule: Any) -> None:
        self.post("/faults", {"method": method, "fault": fault, "count": 1, **rule})

    def drop_after(self, method: str, count: int = 1) -> None:
        """The call is served, and its answer never comes."""
        self.post("/drop-after", {"method": method, "count": count})

    def drop_before(self, method: str) -> None:
        """The next call is lost before it is served, which looks the same to its caller."""
        self.post("/drop-after", {"method": method, "count": 1, "lost": True})

    def clear_faults(self) -> None:
        urllib.request.urlopen(urllib.request.Request(f"{self.control}/faults", method="DELETE"))

    def bindings(self) -> list[dict[str, Any]]:
        with urllib.request.urlopen(f"{self.control}/bindings") as answer:
            return list(json.load(answer))

    def deleted_files(self) -> list[str]:
        """The disks that were deleted with destroyed VMs."""
        with urllib.request.urlopen(f"{self.control}/deleted-files") as answer:
            return list(json.load(answer))

    def post(self, path: str, body: Any = None) -> None:
        request = urllib.request.Request(
            self.control + path,
            json.dumps(body or {}).encode(),
            {"Content-Type": "application/json"},
        )
        urllib.request.urlopen(request).close()

    @contextmanager
    def in_vcenter(self, vm: VM) -> Iterator[Any]:
        """The VM as another client of the vCenter sees it."""
        host, port = self.context.address
        client = pyvim.SmartConnect(
            host=host,
            port=port,
            user=self.context.user,
            pwd=settings.password(self.context, None).get_secret_value(),
            disableSslCertValidation=True,
        )
        yield vim.VirtualMachine(vm.moref, client._stub)
        pyvim.Disconnect(client)

    # What most tests do.

    def plan(self, connection: VSphere, **spec_options: Any) -> Plan:
        return lifecycle.make_plan(ClusterSpec.model_validate(spec_options), connection)

    def provision(
        self, connection: VSphere, plan: Plan, until: Until = "powered-on"
    ) -> ApplyResult:
        return lifecycle.provision(plan, connection, self.context, Events(), until=until)

    def own_vms(self, connection: VSphere, name: str) -> list[VM]:
        marked = [vm for vm in connection.read_marked() if vm.deployment == name]
        return sorted(marked, key=lambda vm: vm.name)

    def teardown(self, name: str) -> None:
        with self.connect() as connection:
            own = self.own_vms(connection, name)
            assert not lifecycle.teardown(own, connection, Events()).failed
            assert not [v for v in self.own_vms(connection, name) if v.ownership == "ours"]


def quick_site(hosts: int, **timings: float) -> Description:
    """Hosts alike, whose operations take no time but for these."""
    changed = QUICK.model_copy(update=timings)
    return describe(hosts=hosts).model_copy(update={"timings": changed})


@contextmanager
def rig_of(home: Path, name: str, shape: Description) -> Iterator[Rig]:
    reading, writing = os.pipe()
    file = home / f"{name}.json"
    file.write_text(json.dumps(json.loads(shape.to_json())))  # ASCII: YAML has no C1 characters
    status = lab.up(lab.LabOptions(name=name, description=file), lifeline=reading)
    os.close(reading)
    yield Rig(settings.load(name), str(status.control_url))
    lab.down(name)
    os.close(writing)


def clearing_faults(*rigs: str) -> Any:
    """A fixture for a module: no test leaves a fault behind in one of these rigs."""

    @pytest.fixture(autouse=True)
    def no_faults(request: pytest.FixtureRequest) -> Iterator[None]:
        yield
        for name in rigs:
            if name in request.fixturenames:
                request.getfixturevalue(name).clear_faults()

    return no_faults


def batches(stream: UpdateStream, wait_s: float) -> Iterator[list[Change]]:
    """What each update brings, until nothing is followed any more."""
    while stream.follows_any:
        yield stream.next_changes(wait_s)


def end(connection: VSphere, key: str, task: Task) -> TaskEnded:
    """Waits for the task's end."""
    with connection.update_stream() as stream:
        stream.follow_tasks({key: task})
        changes = [change for batch in batches(stream, 20) for change in batch]
    (ended,) = [change for change in changes if isinstance(change, TaskEnded)]
    return ended


def repair(connection: VSphere, vm: VM, request: CloneRequest) -> TaskEnded:
    """Reconfigures a VM that differs from the request."""
    task = connection.start_repair(vm, request)
    assert task is not None, "nothing differs"
    return end(connection, vm.name, task)


def at(stage: str, state: str, act: Callable[[], None]) -> Events:
    """Acts once, in the wait loop itself: the first time that a VM begins or ends the stage."""
    acted: list[Event] = []

    def sink(event: Event) -> None:
        if (event.kind, event.name, event.state) == ("phase", stage, state) and not acted:
            acted.append(event)
            act()

    return Events(sink)
