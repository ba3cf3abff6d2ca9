"""Connections to guests: host keys, user keys, and guests that do not answer."""

import shutil
import socket
import stat
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import asyncssh
import pytest

from gpuvm import guest, paths
from gpuvm.errors import (
    BadInput,
    CommandFailed,
    GuestAuthRefused,
    GuestError,
    GuestUnreachable,
    HostKeyMismatch,
)
from gpuvm.settings import Context

Guests = Any  # tests/support/ssh_servers.py
Machine = Any


def test_command_returns_its_output_and_exit_status(machine: Machine) -> None:
    with guest.connect(machine.endpoint) as one:
        done = one.run("echo out; echo err >&2; exit 7", timeout_s=20, check=False)
        assert (done.exit_status, done.stdout, done.stderr) == (7, "out\n", "err\n")
        assert one.run(["cat"], timeout_s=20, stdin=b"x" * 9_000_000).stdout == "x" * 9_000_000
        assert one.run(["printf", "%s", "; $(id) '\""], timeout_s=20).stdout == "; $(id) '\""


def test_a_failing_command_is_named_with_its_last_line(machine: Machine) -> None:
    with guest.connect(machine.endpoint) as one, pytest.raises(CommandFailed) as e:
        one.run("echo first >&2; echo why it failed >&2; exit 3", timeout_s=20, what="the thing")
    assert str(e.value) == "one: 'the thing' ended with status 3: why it failed"
    assert e.value.exit_status == 3


def test_timed_out_command_is_killed_in_the_guest(machine: Machine, wait_for: Any) -> None:
    with guest.connect(machine.endpoint) as one:
        with pytest.raises(GuestError, match=r"'sleep 1000' timed out after 0\.2 s"):
            one.run(["sleep", "1000"], timeout_s=0.2)
        wait_for(lambda: not machine.processes(), "the command is gone")


def test_another_host_key_is_refused(machine: Machine) -> None:
    other = asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode()
    with pytest.raises(HostKeyMismatch, match=r"one .* presented an unknown host key"):
        guest.connect(replace(machine.endpoint, host_keys=(other,)))
    assert machine.logins == 0


def test_no_published_host_key_is_refused(machine: Machine) -> None:
    with pytest.raises(HostKeyMismatch, match="has not published") as e:
        guest.connect(replace(machine.endpoint, host_keys=()))
    assert "first-use" in str(e.value.hint)


def test_any_of_several_published_keys_is_accepted(guests: Guests) -> None:
    machine = guests.on("many", key_types=("ssh-ed25519", "ecdsa-sha2-nistp256", "ssh-rsa"))
    for key in machine.host_keys:
        with guest.connect(replace(machine.endpoint, host_keys=(f"{key} a comment",))) as one:
            assert one.run(["true"], timeout_s=20).exit_status == 0


def test_first_use_is_kept_for_the_identity(machine: Machine) -> None:
    trusting = replace(machine.endpoint, host_keys=(), trust="first-use")
    with guest.connect(trusting):
        pass
    kept = paths.state_dir() / "host-keys" / trusting.identity
    assert kept.read_text().split()[:2] == machine.host_keys[0].split()[:2]
    kept.write_text(f"ssh-ed25519 {'A' * 68}\n")
    with pytest.raises(HostKeyMismatch):
        guest.connect(trusting)
    with guest.connect(replace(trusting, identity="uuid-of-one-2")):
        pass
    guest.forget_host_keys("uuid-of-one")
    assert not list(kept.parent.iterdir())
    guest.forget_host_keys("uuid-of-one")


def test_first_use_keeps_nothing_when_the_login_fails(machine: Machine, tmp_path: Path) -> None:
    unknown_key = tmp_path / "stranger"
    asyncssh.generate_private_key("ssh-ed25519").write_private_key(unknown_key)
    trusting = replace(machine.endpoint, host_keys=(), trust="first-use", key_file=unknown_key)
    with pytest.raises(GuestAuthRefused):
        guest.connect(trusting)
    assert not (paths.state_dir() / "host-keys").exists()


def test_a_refused_key_stops_at_once(machine: Machine, tmp_path: Path) -> None:
    stranger = tmp_path / "stranger"
    asyncssh.generate_private_key("ssh-ed25519").write_private_key(stranger)
    with pytest.raises(GuestAuthRefused, match=r"refused the key for the user 'gpuvm'"):
        guest.connect(replace(machine.endpoint, key_file=stranger), timeout_s=1000)
    with pytest.raises(GuestAuthRefused, match="'root'"):
        guest.connect(replace(machine.endpoint, user="root"), timeout_s=1000)


def test_no_key_at_all(machine: Machine, tmp_path: Path) -> None:
    with pytest.raises(GuestAuthRefused, match="no ssh-agent has one"):
        guest.connect(replace(machine.endpoint, key_file=tmp_path / "none"), timeout_s=1000)


def test_a_broken_key_file_is_named(machine: Machine, tmp_path: Path) -> None:
    (tmp_path / "broken").write_text("not a key")
    with pytest.raises(BadInput, match="broken cannot be used"):
        guest.connect(replace(machine.endpoint, key_file=tmp_path / "broken"), timeout_s=1000)


@pytest.fixture
def agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An ssh-agent of the test's own."""
    if shutil.which("ssh-agent") is None:
        pytest.skip("no ssh-agent here")
    where = tmp_path / "agent"
    process = subprocess.Popen(
        ["ssh-agent", "-D", "-a", str(where)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while not where.exists():
        assert process.poll() is None
    monkeypatch.setenv("SSH_AUTH_SOCK", str(where))
    yield where
    process.terminate()
    process.wait()


def test_key_of_the_agent_can_log_in(machine: Machine, agent: Path, tmp_path: Path) -> None:
    subprocess.run(["ssh-add", str(machine.user_key)], check=True, capture_output=True)
    with guest.connect(replace(machine.endpoint, key_file=tmp_path / "none")) as one:
        printed = one.run('echo "agent: $SSH_AUTH_SOCK"', timeout_s=20).stdout
    assert printed == "agent: \n", "and the agent is not forwarded"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # paramiko's socket
def test_missing_agent_is_ignored(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSH_AUTH_SOCK", "/nonexistent/agent")
    with guest.connect(machine.endpoint):
        pass


def test_refused_and_unanswered_connections_are_distinguished(machine: Machine) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    closed = replace(machine.endpoint, address="127.0.0.1", port=port)
    with pytest.raises(GuestUnreachable, match="connection refused"):
        guest.connect(closed, timeout_s=0.1)
    with socket.create_server(("127.0.0.1", 0), backlog=0) as silent:
        where = silent.getsockname()
        fillers = [_filler(where) for _ in range(4)]  # its queue is full: nothing is answered
        try:
            endpoint = replace(machine.endpoint, address=where[0], port=where[1])
            with pytest.raises(GuestUnreachable, match="timed out"):
                guest.connect(endpoint, timeout_s=0.1)
        finally:
            for filler in fillers:
                filler.close()


def test_the_other_addresses_are_tried(machine: Machine) -> None:
    endpoint = replace(machine.endpoint, address="127.255.0.9", others=(machine.address,))
    with guest.connect(endpoint, timeout_s=20) as found:
        assert (found.endpoint.address, found.endpoint.others) == (machine.address, ())


def test_all_addresses_that_were_tried_are_named(machine: Machine) -> None:
    endpoint = replace(machine.endpoint, address="127.255.0.9", others=("127.255.0.8",))
    with pytest.raises(GuestUnreachable) as caught:
        guest.connect(endpoint, timeout_s=0.1)
    for address in ("127.255.0.9", "127.255.0.8"):
        assert f"({address}:{machine.port}): connection refused" in str(caught.value)


def test_wrong_host_key_is_reported_if_no_other_address_answers(machine: Machine) -> None:
    """It is more specific than the other one's missing answer, and no reason to retry for long."""
    other = asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode()
    endpoint = replace(machine.endpoint, host_keys=(other,), others=("127.255.0.9",))
    with pytest.raises(HostKeyMismatch):
        guest.connect(endpoint, timeout_s=20)
    assert machine.logins == 0


def _filler(where: tuple[str, int]) -> socket.socket:
    filler = socket.socket()
    filler.setblocking(False)
    filler.connect_ex(where)
    return filler


def test_no_ssh_behind_the_port(machine: Machine) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(20)
        thread = threading.Thread(target=_hang_up, args=(server,))
        thread.start()
        endpoint = replace(machine.endpoint, address="127.0.0.1", port=server.getsockname()[1])
        with pytest.raises(GuestUnreachable, match=r"no SSH answer|refused|closed"):
            guest.connect(endpoint, timeout_s=0.01)
        thread.join()


def _hang_up(server: socket.socket) -> None:
    server.accept()[0].close()


def test_retried_until_it_answers(guests: Guests) -> None:
    machine = guests.on("late")
    closed = guests.on("later")
    guests.stop(closed)
    starter = threading.Timer(0.5, guests.start, (closed,))
    starter.start()
    with guest.connect(closed.endpoint, timeout_s=60) as one:
        assert one.run(["true"], timeout_s=20).exit_status == 0
    starter.join()
    assert machine.logins == 0


def test_a_connection_that_is_cut_is_unreachable(machine: Machine) -> None:
    with guest.connect(machine.endpoint) as one:
        lines = one.stream(["sh", "-c", "echo here; sleep 1000"], idle_timeout_s=60)
        assert next(lines) == "here\n"
        machine.cut()
        with pytest.raises(GuestUnreachable, match="one: the SSH connection"):
            next(lines)
        with pytest.raises(GuestUnreachable):
            one.run(["true"], timeout_s=20)


def test_the_key_pair_is_made_once_and_kept_private() -> None:
    context = Context(name="lab", vcenter="127.0.0.1", user="me")
    line = guest.ensure_key_pair(context)
    assert line.startswith("ssh-ed25519 AAAA")
    assert line.endswith(" gpuvm-lab")
    assert guest.ensure_key_pair(context) == line
    assert stat.S_IMODE(context.key_file.stat().st_mode) == 0o600
    assert stat.S_IMODE(context.key_file.parent.stat().st_mode) == 0o700
    context.key_file.with_suffix(".pub").unlink()
    assert guest.ensure_key_pair(context) == line
    assert {file.name for file in context.key_file.parent.iterdir()} == {
        "id_ed25519",
        "id_ed25519.pub",
    }
