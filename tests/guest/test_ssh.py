"""SSH: authentication, host keys, and complete transfers."""

from pathlib import Path
from typing import Any

import pytest

from gpuvm import guest
from gpuvm.errors import (
    CommandFailed,
    GuestAuthRefused,
    GuestUnreachable,
    HostKeyMismatch,
    NotReady,
)
from gpuvm.events import Events
from gpuvm.guest import Expected
from gpuvm.settings import Context, GuestSettings

OTHER_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDVyS1xZ5cVQ5y0DTIM3TuWJ0CnTiTj0U2qfcuvKdQ5T"


def test_a_command_and_its_status(server: Any, context: Any) -> None:
    with guest.connect(server.endpoint(context)) as machine:
        done = machine.run(["echo", "a b; $HOME"], timeout_s=10)
        assert done.stdout == "a b; $HOME\n", "a sequence is quoted"
        assert machine.run("exit 7", timeout_s=10, check=False).exit_status == 7
        with pytest.raises(CommandFailed, match="out of luck") as caught:
            machine.run("echo out of luck >&2; exit 3", timeout_s=10)
    assert caught.value.exit_status == 3


def test_large_streams_in_both_directions(server: Any, context: Any, tmp_path: Path) -> None:
    content = bytes(range(256)) * 8192
    with guest.connect(server.endpoint(context)) as machine:
        guest.push(machine, {"data/a.bin": content, "b.txt": b"b"}, "run/out")
        fetched = guest.fetch(machine, "run/out", tmp_path / "here")
    assert sorted(f.name for f in fetched.files) == ["a.bin", "b.txt"]
    assert (tmp_path / "here" / "data" / "a.bin").read_bytes() == content


def test_another_host_key_is_refused(server: Any, context: Any) -> None:
    endpoint = server.endpoint(context, host_keys=(OTHER_KEY,))
    with pytest.raises(HostKeyMismatch):
        guest.connect(endpoint, timeout_s=5)


def test_no_published_key_is_refused_unless_first_use_is_the_setting(
    server: Any, context: Any
) -> None:
    with pytest.raises(HostKeyMismatch):
        guest.connect(server.endpoint(context, host_keys=()), timeout_s=5)
    trusting = server.endpoint(context, host_keys=(), trust="first-use")
    with guest.connect(trusting, timeout_s=5):
        pass
    with guest.connect(server.endpoint(context, host_keys=()), timeout_s=5):
        pass  # kept since the first use
    guest.forget_host_keys("uuid-1")
    with pytest.raises(HostKeyMismatch):
        guest.connect(server.endpoint(context, host_keys=()), timeout_s=5)


def test_own_key_is_not_accepted(server: Any) -> None:
    unknown_key = Context(name="stranger", vcenter="127.0.0.1", user="nobody")
    guest.ensure_key_pair(unknown_key)
    with pytest.raises(GuestAuthRefused):
        guest.connect(server.endpoint(unknown_key), timeout_s=5)


def test_closed_port_is_unreachable(server: Any, context: Any) -> None:
    with pytest.raises(GuestUnreachable, match="connection refused"):
        guest.connect(server.endpoint(context, port=1), timeout_s=0.1)


def test_the_private_key_is_the_owners_alone(context: Context) -> None:
    assert context.key_file.stat().st_mode & 0o077 == 0
    assert guest.ensure_key_pair(context) == guest.ensure_key_pair(context)


def test_a_guest_without_its_gpu_is_not_ready(server: Any, context: Any) -> None:
    expected = Expected(((0x10DE, 0x15F8),), GuestSettings())
    with pytest.raises(NotReady, match="GPUs match the plan") as caught:
        guest.wait_ready(lambda: server.endpoint(context), expected, 0.5, Events())
    assert "nvidia-smi" in caught.value.seen
    assert "MMIO" in (caught.value.hint or "")


def test_a_python_without_tensorflow_is_not_ready(server: Any, context: Any) -> None:
    expected = Expected((), GuestSettings(python="no-such-python"))
    with pytest.raises(NotReady, match="tensorflow-computes") as caught:
        guest.wait_ready(lambda: server.endpoint(context), expected, 5, Events())
    assert "guest.python" in (caught.value.hint or "")
