"""The system's ssh verifies and authenticates exactly like the paramiko connection."""

import os
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import openssh
import pytest

from gpuvm import guest
from gpuvm.guest import openssh as carrier

OTHER_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDVyS1xZ5cVQ5y0DTIM3TuWJ0CnTiTj0U2qfcuvKdQ5T"


@pytest.fixture
def agent(
    tmp_path: Path, openssh_server: openssh.Server, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """An ssh-agent that has the key which the server accepts."""
    address = tmp_path / "agent"
    command = ["ssh-agent", "-D", "-a", str(address)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()  # it listens
        monkeypatch.setenv("SSH_AUTH_SOCK", str(address))
        subprocess.run(["ssh-add", "-q", str(openssh_server.key_file)], check=True)
        yield
        process.terminate()


def made_key(file: Path) -> Path:
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(file)]
    subprocess.run(command, check=True)
    return file


def test_another_host_key_is_refused(openssh_server: openssh.Server) -> None:
    with carrier.opened(openssh_server.endpoint, OTHER_KEY, "echo in", 20) as stream:
        assert stream.read() == b""
        with pytest.raises(EOFError, match="Host key verification failed"):
            stream.status()
    with carrier.opened(openssh_server.endpoint, openssh_server.host_key, "echo in", 20) as stream:
        assert (stream.read(), stream.status()) == (b"in\n", 0)


@pytest.mark.usefixtures("agent")
def test_no_agent_is_used(openssh_server: openssh.Server, tmp_path: Path) -> None:
    """A key that only an agent has carries transfers over the connection that it opened."""
    endpoint = replace(openssh_server.endpoint, key_file=made_key(tmp_path / "another"))
    with carrier.opened(endpoint, openssh_server.host_key, "echo in", 20) as stream:
        assert stream.read() == b""
        with pytest.raises(EOFError, match="Permission denied"):
            stream.status()
    big = tmp_path / "big"
    big.write_bytes(os.urandom(20 << 20))
    with guest.connect(endpoint) as one:
        guest.push(one, {"big": big}, str(openssh_server.home / "run"))
    assert (openssh_server.home / "run/big").read_bytes() == big.read_bytes()


def test_a_path_with_a_percent_sign(openssh_server: openssh.Server, tmp_path: Path) -> None:
    folder = tmp_path / "50%d of them"
    folder.mkdir()
    os.link(openssh_server.key_file, folder / "key")
    endpoint = replace(openssh_server.endpoint, key_file=folder / "key")
    big = tmp_path / "big"
    big.write_bytes(os.urandom(20 << 20))
    with guest.connect(endpoint) as one:
        guest.push(one, {"big": big}, str(openssh_server.home / "run"))
    assert (openssh_server.home / "run/big").read_bytes() == big.read_bytes()
    assert sum("Accepted publickey" in line for line in openssh_server.log) == 2
