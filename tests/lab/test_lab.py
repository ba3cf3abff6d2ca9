"""A whole lab: the simulated vCenter, its supervisor and guests, driven through gpuvm.vsphere."""

import os
import signal
import socket
import stat
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gpuvm import lab, paths, settings, vsphere
from gpuvm.errors import BadInput, LabError, NotFound
from gpuvm.lab import build, processes
from gpuvm.lab.guests import HOST_KEYS
from gpuvm.lab.state_folder import lab_folder
from gpuvm.planner import capacity

FAST = lab.Timings(
    clone_s=0, power_on_s=0, power_off_s=0, boot_s=0, destroy_s=0, reconfigure_s=0, reboot_s=0
)
Labs = Callable[..., lab.LabStatus]


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Labs]:
    """Starts labs that end with the test, even one that is killed."""
    alive, lifeline = os.pipe()
    started: list[tuple[str, str]] = []

    def start(name: str = "lab", **options: Any) -> lab.LabStatus:
        started.append((os.environ["GPUVM_STATE_DIR"], name))
        spec = lab.LabOptions(name=name, **{"timings": FAST, **options})
        return lab.up(spec, lifeline=alive)

    yield start
    os.close(lifeline)
    for state, name in started:
        with pytest.MonkeyPatch.context() as environment:
            environment.setenv("GPUVM_STATE_DIR", state)
            lab.down(name)
    os.close(alive)


class Datacentre:
    """The lab's vCenter as its administrator sees it."""

    def __init__(self, session: vsphere.VSphere, client: Any, ssh_port: int) -> None:
        self.session, self.client, self.ssh_port = session, client, ssh_port
        self.inventory = session.read_inventory()

    def clone(self, name: str, *, host: int = 0, gpus: bool = True, guest: bool = True) -> str:
        where = self.inventory.hosts[host]
        request = vsphere.CloneRequest(
            name=name,
            instance_uuid=str(uuid.uuid4()),
            template=self.inventory.templates[0].moref,
            host=where.moref,
            resource_pool=self.inventory.cluster.resource_pool,
            datastore=self.inventory.datastores[0].moref,
            folder=self.inventory.cluster.vm_folder,
            cpus=None,
            memory_gib=None,
            devices=tuple(map(capacity.fixed, where.gpus)) if gpus else (),
            mmio_gib=64 if gpus else None,
            extra_config=self.client.guestinfo(name) if guest else {},
            annotation="",
        )
        made = self.ended(self.session.start_clone(request))
        assert made is not None
        return made

    def power_on(self, vm: str) -> None:
        self.ended(self.session.start_power_on(vm))

    def power_off(self, vm: str) -> None:
        self.ended(self.session.start_power_off(vm))

    def destroy(self, vm: str) -> None:
        self.ended(self.session.start_destroy(vm))

    def ended(self, task: Any) -> str | None:
        with self.session.update_stream() as stream:
            stream.follow_tasks({"task": task})
            for change in self._changes(stream):
                if isinstance(change, vsphere.TaskEnded):
                    assert change.error is None, change.error
                    return change.result
        raise AssertionError("the task was not seen to end")

    def until_guest(self, vm: str) -> tuple[str, str]:
        """Address and host key, as gpuvm itself waits for them."""
        with self.session.update_stream() as stream:
            stream.follow_vms({"vm": vm})
            for change in self._changes(stream):
                if isinstance(change, vsphere.VMChanged) and change.addresses and change.host_keys:
                    return change.addresses[0], change.host_keys[0]
        raise AssertionError("no guest came up")

    @staticmethod
    def _changes(stream: vsphere.UpdateStream) -> Iterator[vsphere.Change]:
        end = time.monotonic() + 30
        while stream.follows_any and time.monotonic() < end:
            yield from stream.next_changes(end - time.monotonic())

    def ssh(self, guest: tuple[str, str]) -> Any:
        return self.client.ssh(*guest, self.ssh_port)


@contextmanager
def connected(status: lab.LabStatus, client: Any) -> Iterator[Datacentre]:
    context = settings.load(status.context)
    with vsphere.connect(context, settings.password(context, None)) as session:
        yield Datacentre(session, client, context.ssh.port)


@pytest.fixture
def datacentre(up: Labs, client: Any) -> Iterator[Datacentre]:
    with connected(up(hosts=2), client) as centre:
        yield centre


def processes_of(folder: Path) -> list[str]:
    """Command lines that name the lab's folder."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        if str(folder) in line:
            found.append(line)
    return found


def files_below(*roots: Path) -> list[Path]:
    return [path for root in roots for path in root.rglob("*") if path.is_file()]


def test_up_status_down(up: Labs) -> None:
    settings.save(settings.Context(name="mine", vcenter="vc.example.org", user="me"))
    before = files_below(paths.state_dir(), paths.config_dir())

    status = up(vms=3)
    assert status.running
    assert status.problems == ()
    assert (status.hosts, status.gpus, status.context) == (4, 4, "lab")
    assert status.about is not None
    assert "simulated" in status.about
    assert settings.current() == "lab"
    secret = files_below(status.state_dir)
    for name in ("passwords.json", "password"):
        (file,) = [path for path in secret if path.name == name]
        assert stat.S_IMODE(file.stat().st_mode) == 0o600

    record = lab_folder("lab").record()
    assert up(vms=3) == status
    assert lab_folder("lab").record() == record  # the same processes

    description = lab_folder("lab").description()
    assert description is not None
    for left in ("provisioning/{}/gpuvm.jsonl", "keys/lab/id_ed25519"):  # by other commands
        file = paths.state_dir() / left.format(description.instance_uuid)
        file.parent.mkdir(parents=True)
        file.touch()
    address = settings.load("lab").address
    assert lab.down("lab") is True
    assert lab.down("lab") is False
    assert not lab.status("lab").running
    assert processes_of(status.state_dir) == []
    with pytest.raises(ConnectionRefusedError), socket.create_connection(address):
        pass
    assert files_below(paths.state_dir(), paths.config_dir()) == before
    assert settings.current() == "mine"


def test_a_guest_follows_its_vm(datacentre: Datacentre, wait_for: Callable[..., None]) -> None:
    vm = datacentre.clone("one")
    wait_for(lambda: lab.status().guests, "the supervisor has seen it")
    assert lab.status().guests[0].powered is False
    datacentre.power_on(vm)
    guest = datacentre.until_guest(vm)
    with datacentre.ssh(guest) as ssh:
        assert ssh.run("hostname; nvidia-smi -L").out.startswith(
            "one\nGPU 0: Tesla P100-PCIE-16GB (sim"
        )
        ssh.run("echo kept > file")
        ssh.run("setsid sleep 1000 > /dev/null 2>&1 &")
    (shown,) = lab.status().guests
    assert (shown.vm, shown.address, shown.powered) == ("one", guest[0], True)

    datacentre.power_off(vm)
    wait_for(lambda: lab.status().guests[0].pid is None, "the guest is off")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((guest[0], datacentre.ssh_port))

    datacentre.power_on(vm)
    assert datacentre.until_guest(vm) == guest
    wait_for(lambda: lab.status().guests[0].pid, "its SSH server answers again")
    with datacentre.ssh(guest) as ssh:
        assert ssh.run("cat file; ps ax | grep -c '[s]leep'").out == "kept\n0\n"

    datacentre.power_off(vm)
    datacentre.destroy(vm)
    wait_for(lambda: lab.status().guests == (), "the guest is forgotten")
    assert list((lab.status().state_dir / "guests").iterdir()) == []


def test_vm_without_user_data_has_no_guest(datacentre: Datacentre) -> None:
    datacentre.power_on(datacentre.clone("other", gpus=False, guest=False))
    vm = datacentre.clone("one", host=1)
    datacentre.power_on(vm)
    datacentre.until_guest(vm)
    assert [guest.vm for guest in lab.status().guests] == ["one"]


def test_a_lost_host_key_is_published_again(
    datacentre: Datacentre, wait_for: Callable[..., None]
) -> None:
    """A repair of the VM may reset guestinfo to its creation spec."""
    vm = datacentre.clone("one")
    datacentre.power_on(vm)
    _, host_key = datacentre.until_guest(vm)
    datacentre.session.vm_watch().publish_guestinfo(vm, {HOST_KEYS: ""})

    def read_back() -> tuple[str, ...]:
        (seen,) = datacentre.session.read_vms([vm])
        return seen.host_keys

    wait_for(lambda: read_back() == (host_key,), "the key is there again")


def test_guest_that_exits_is_reported(
    datacentre: Datacentre, wait_for: Callable[..., None]
) -> None:
    vm = datacentre.clone("one")
    datacentre.power_on(vm)
    guest = datacentre.until_guest(vm)
    pid = lab.status().guests[0].pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: lab.status().problems, "the problem is shown")
    assert lab.status().problems[0].startswith("one: its guest exited unexpectedly")
    datacentre.power_off(vm)
    # Without a pause the vCenter may tell of both changes at once, as if nothing had happened.
    wait_for(lambda: not lab.status().guests[0].powered, "it is seen to be off")
    datacentre.power_on(vm)
    assert datacentre.until_guest(vm) == guest
    wait_for(lambda: lab.status().guests[0].pid, "a power cycle brings it back")
    assert lab.status().problems == ()


COUNTS = """
python3 -u -c 'import itertools
for n in itertools.count():
    print(n, end=" ", file=open("count", "a"))' > /dev/null 2>&1 < /dev/null &
while ! [ -s count ]; do :; done
"""


def test_a_frozen_guest_does_nothing_until_it_thaws(
    datacentre: Datacentre, wait_for: Callable[..., None]
) -> None:
    vm = datacentre.clone("one")
    datacentre.power_on(vm)
    guest = datacentre.until_guest(vm)
    wait_for(lambda: lab.status().guests[0].pid, "its SSH server answers")
    with datacentre.ssh(guest) as ssh:
        ssh.run(COUNTS)
        count = next(lab.status().state_dir.glob("guests/*/disk/home/gpuvm/count"))
        lab.freeze("lab", ["one"])
        (shown,) = lab.status().guests
        assert shown.frozen
        assert shown.pid is not None
        everyone = [shown.pid, *processes.descendants(shown.pid)]
        assert len(everyone) > 2
        assert all(map(processes.is_stopped, everyone))
        counted = count.read_bytes()
        with socket.create_connection((guest[0], datacentre.ssh_port)) as late:
            lab.thaw("lab", ["one"])
            assert late.recv(4) == b"SSH-"
        assert not lab.status().guests[0].frozen
        wait_for(lambda: len(count.read_bytes()) > len(counted), "it goes on")
        assert ssh.run("echo same connection").out == "same connection\n"
    lab.freeze("lab", ["one"])
    datacentre.power_off(vm)
    wait_for(lambda: lab.status().guests[0].pid is None, "even a frozen one is off")
    with pytest.raises(LabError, match="the guest of 'one' is not running"):
        lab.thaw("lab", ["one"])


def test_trouble_that_this_lab_cannot_make(datacentre: Datacentre) -> None:
    with pytest.raises(LabError, match="have no links of their own") as raised:
        lab.cut("lab", ["one"])
    assert raised.value.hint is not None
    assert "lab up --network namespaces" in raised.value.hint
    with pytest.raises(NotFound, match="guest 'nobody' not found"):
        lab.freeze("lab", ["nobody"])
    with pytest.raises(LabError, match="the lab 'other' is not running"):
        lab.mend("other", ["one"])


@pytest.mark.parametrize("wrong", [("fast", None), ("10", None), ("0mbit", None), ("1mbit", "5")])
def test_rates_and_delays_are_checked(wrong: tuple[str, str | None]) -> None:
    with pytest.raises(BadInput, match="is not a"):
        lab.Slowness(*wrong)


def test_own_networks_need_iproute2(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build.vcsim_binary()
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(LabError, match="guests cannot have networks of their own here") as raised:
        lab.up(lab.LabOptions(network="namespaces"))
    assert raised.value.hint is not None
    assert "--network loopback" in raised.value.hint
    assert files_below(paths.state_dir(), paths.config_dir()) == []


def test_without_namespaces_the_status_shows_it(
    up: Labs,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    client: Any,
    wait_for: Callable[..., None],
) -> None:
    build.vcsim_binary()
    with monkeypatch.context() as environment:
        environment.setenv("PATH", str(tmp_path))  # no unshare to be found
        status = up(hosts=1)
    assert status.isolation is not None
    assert status.isolation.startswith("subreaper only")
    assert "guests are not isolated" in status.problems[0]
    with connected(status, client) as centre:
        vm = centre.clone("one")
        centre.power_on(vm)
        guest = centre.until_guest(vm)
        with centre.ssh(guest) as ssh:
            ssh.run("setsid sleep 1000 > /dev/null 2>&1 &")
            mark = ssh.run("ps ax -o pid,args | grep '[s]leep 1000' | tail -1").out.split()[0]
            assert Path(f"/proc/{mark}").exists()
            lab.freeze("lab", ["one"])
            assert processes.is_stopped(int(mark))
            lab.thaw("lab", ["one"])
            assert not processes.is_stopped(int(mark))
        pid = lab.status().guests[0].pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)  # the one that would have cleaned up
        centre.power_off(vm)
        wait_for(lambda: not Path(f"/proc/{mark}").exists(), "it died at power-off")


def test_two_labs_side_by_side(
    up: Labs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, client: Any
) -> None:
    with ExitStack() as both:
        first = both.enter_context(connected(up(hosts=1), client))
        monkeypatch.setenv("GPUVM_STATE_DIR", str(tmp_path / "other-state"))
        monkeypatch.setenv("GPUVM_CONFIG_DIR", str(tmp_path / "other-config"))
        second = both.enter_context(connected(up(hosts=1), client))
        seen = []
        for centre in (first, second):
            vm = centre.clone("one")
            centre.power_on(vm)
            seen.append(centre.until_guest(vm))
        assert seen[0][0] != seen[1][0]
        assert lab.down() is True
        with first.ssh(seen[0]) as ssh:
            assert ssh.run("hostname").out == "one\n"
        with pytest.raises(ConnectionRefusedError):
            second.ssh(seen[1])


def test_two_labs_of_different_names_in_one_state_folder(up: Labs) -> None:
    one, two = up("one", hosts=1), up("two", hosts=2)
    assert one.address_block != two.address_block
    assert settings.names() == ["one", "two"]
    lab.down("two")
    assert lab.status("one").running
    assert settings.current() == "one"


def test_killed_supervisor_ends_its_guests_and_lab_up_restarts_it(
    datacentre: Datacentre, wait_for: Callable[..., None], up: Labs
) -> None:
    vm = datacentre.clone("one")
    datacentre.power_on(vm)
    _, host_key = datacentre.until_guest(vm)
    pid = lab.status().guests[0].pid
    record = lab_folder("lab").record()
    assert record is not None
    assert record.supervisor is not None
    os.kill(record.supervisor.pid, signal.SIGKILL)
    wait_for(lambda: not Path(f"/proc/{pid}").exists(), "the guest died too")
    wait_for(lambda: not lab.status().running, "the supervisor has exited")
    status = lab.status()
    assert "the supervisor has exited" in status.problems[0]

    assert up(hosts=2).problems == ()
    wait_for(lambda: lab.status().guests[0].pid, "the guest is back")
    (seen,) = datacentre.session.read_vms([vm])
    assert seen.host_keys == (host_key,)


def test_down_after_everything_was_killed(
    datacentre: Datacentre, wait_for: Callable[..., None]
) -> None:
    datacentre.power_on(datacentre.clone("one"))
    wait_for(lambda: lab.status().guests and lab.status().guests[0].pid, "the guest is on")
    record = lab_folder("lab").record()
    assert record is not None
    for process in (record.supervisor, record.vcsim):
        assert process is not None
        os.kill(process.pid, signal.SIGKILL)
    wait_for(lambda: len(lab.status().problems) == 2, "both are seen to have ended")
    assert lab.down() is True
    assert files_below(paths.state_dir()) == []
    assert processes_of(lab_folder("lab").path) == []


def test_up_after_the_vcenter_was_killed_starts_a_new_one(
    up: Labs, wait_for: Callable[..., None]
) -> None:
    first = up(hosts=1)
    record = lab_folder("lab").record()
    assert record is not None
    assert record.vcsim is not None
    os.kill(record.vcsim.pid, signal.SIGKILL)
    wait_for(lambda: not lab.status().running, "it is seen to have ended")
    second = up(hosts=1)
    assert second.running
    assert second.problems == ()
    assert second.vcenter != first.vcenter or lab_folder("lab").record() != record


def test_the_supervisor_connects_again(
    datacentre: Datacentre, wait_for: Callable[..., None]
) -> None:
    """The vCenter is gone for a while and comes back, at the same address, without any VM."""
    datacentre.power_on(datacentre.clone("one"))
    wait_for(lambda: lab.status().guests and lab.status().guests[0].pid, "the guest is on")
    folder = lab_folder("lab")
    record, ready = folder.record(), folder.ready()
    assert record is not None
    assert record.vcsim is not None
    assert ready is not None
    command = Path(f"/proc/{record.vcsim.pid}/cmdline").read_bytes().decode().split("\0")[:-1]
    os.kill(record.vcsim.pid, signal.SIGKILL)

    def reported() -> Any:
        return folder.supervisor()

    wait_for(lambda: not reported().connected, "the supervisor misses it")
    assert "cannot reach the vCenter" in " ".join(lab.status().problems)
    command[command.index("--listen") + 1] = ready.url.split("/")[2]
    command = [part for part in command if part != "--parent-fd" and not part.isdigit()]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as again:
        wait_for(lambda: reported().connected, "it is connected again")
        wait_for(lambda: reported().guests == (), "a VM that is gone has no guest")
        again.terminate()


def test_the_lab_ends_with_its_lifeline(wait_for: Callable[..., None]) -> None:
    alive, lifeline = os.pipe()
    status = lab.up(lab.LabOptions(hosts=1, timings=FAST), lifeline=alive)
    os.close(alive)
    assert status.running
    os.close(lifeline)
    wait_for(lambda: processes_of(status.state_dir) == [], "no process is left")
    assert lab.down() is True


def test_lab_up_with_other_options_is_refused(up: Labs, tmp_path: Path) -> None:
    up(hosts=1)
    with pytest.raises(LabError, match=r"another configuration \(1 host, 1 GPU\)") as raised:
        lab.up(lab.LabOptions(hosts=2, timings=FAST))
    assert raised.value.hint is not None
    assert "lab down" in raised.value.hint
    assert lab.status().running


def test_own_description_file(up: Labs, tmp_path: Path) -> None:
    file = tmp_path / "site.yaml"
    file.write_text("hosts: [{name: a}, {name: b}]\naddress_block: 127.120.0.0/16\n")
    status = up(description=file)
    assert (status.hosts, status.gpus, status.address_block) == (2, 0, "127.120.0.0/16")
    assert up(description=file) == status


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"name": "../x"}, "is not a name of letters, "),
        ({"hosts": 0}, "at least one host"),
        ({"gpu": "banana"}, "'banana' not found"),
        ({"description": Path("x.yaml"), "hosts": 2}, "give one or the other"),
        ({"address_block": "10.0.0.0/8"}, "is not an address block"),
        ({"address_block": "127.99.0.0/16", "network": "namespaces"}, "are not of the network"),
    ],
)
def test_invalid_options(options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(BadInput, match=complaint):
        lab.up(replace(lab.LabOptions(), **options))
    assert files_below(paths.state_dir()) == []


def test_a_context_of_the_same_name_is_not_overwritten() -> None:
    settings.save(settings.Context(name="lab", vcenter="vc.example.org", user="me"))
    with pytest.raises(LabError, match="does not belong to this lab"):
        lab.up()
    assert settings.load("lab").vcenter == "vc.example.org"


def test_a_lab_that_cannot_start_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpuvm.lab.build.vcsim_binary", lambda _: Path("/bin/false"))
    with pytest.raises(LabError, match="the simulated vCenter exited"):
        lab.up()
    assert files_below(paths.state_dir(), paths.config_dir()) == []
    assert not lab_folder("lab").path.exists()
