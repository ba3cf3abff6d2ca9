"""One SSH connection to one guest: run, push, fetch. The host key is pinned, never guessed.

with connect(endpoint, timeout_s=30) as guest:
guest.run(["nvidia-smi", "-L"], timeout_s=20).stdout
"""

import hashlib
import io
import shlex
import socket
import tarfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import paramiko
from typing_extensions import override

from gpuvm.errors import (
    BadInput,
    CommandFailed,
    GuestAuthRefused,
    GuestError,
    GuestUnreachable,
    HostKeyMismatch,
)
from gpuvm.guest import hostkeys

CHUNK = 1 << 16
RETRY_S = 0.5


@dataclass(frozen=True)
class Endpoint:
    """Where a guest is, who we are there, and which host keys it may show.

    ``identity`` is the VM's instance UUID and generation: keys are known by it, not by address.
    """

    name: str
    address: str
    port: int
    user: str
    key_file: Path
    host_keys: tuple[str, ...]
    trust: Literal["guestinfo", "first-use"]
    identity: str


@dataclass(frozen=True)
class Finished:
    exit_status: int
    stdout: str
    stderr: str


def connect(endpoint: Endpoint, *, timeout_s: float = 30) -> "Guest":
    """Tries until the deadline while nothing answers; a refused key or a wrong host key stops it.

    Raises GuestUnreachable, GuestAuthRefused, HostKeyMismatch.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            return Guest(endpoint, _client(endpoint, max(1.0, deadline - time.monotonic())))
        except GuestUnreachable:
            if time.monotonic() + RETRY_S > deadline:
                raise
            time.sleep(RETRY_S)


class Guest:
    """Use it in a ``with`` block."""

    def __init__(self, endpoint: Endpoint, client: paramiko.SSHClient) -> None:
        self.endpoint, self._client = endpoint, client

    @property
    def name(self) -> str:
        return self.endpoint.name

    def __enter__(self) -> "Guest":
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def run(
        self,
        command: str | Sequence[str],
        *,
        timeout_s: float,
        check: bool = True,
        stdin: bytes = b"",
    ) -> Finished:
        """Runs a command to its end; a sequence is quoted.

        Raises CommandFailed for a status other than 0 (unless ``check`` is False) and
        GuestUnreachable when the connection breaks or nothing comes for ``timeout_s``.
        """
        out = io.BytesIO()
        status, errors = self._execute(command, timeout_s, stdin, out)
        done = Finished(status, out.getvalue().decode(errors="replace"), errors)
        if check and status != 0:
            raise CommandFailed(self.name, _shown(command), status, errors)
        return done

    def stream(self, command: Sequence[str], *, timeout_s: float) -> Iterator[str]:
        """The lines of a command's standard output as they come, until it ends."""
        with _broken_is_unreachable(self.name):
            channel = self._channel(command, timeout_s)
            yield from channel.makefile("r")
            channel.close()

    def start(self, command: Sequence[str]) -> "Held":
        """A command that goes on until its standard input is closed."""
        with _broken_is_unreachable(self.name):
            return Held(self._channel(command, 60))

    def push(self, files: Mapping[str, Path | bytes], remote_dir: str) -> None:
        """Writes the files below ``remote_dir`` in one stream; parent folders are made."""
        command = f"mkdir -p {shlex.quote(remote_dir)} && tar -xf - -C {shlex.quote(remote_dir)}"
        self.run(command, timeout_s=300, stdin=_tar(files))

    def fetch(self, remote_dir: str, local_dir: Path) -> list[Path]:
        """Copies a folder here in one stream and compares every size and SHA-256.

        Raises GuestError when what arrived is not what was sent.
        """
        local_dir.mkdir(parents=True, exist_ok=True)
        with (local_dir / ".fetching").open("w+b") as archive:
            command = ["tar", "-C", remote_dir, "-cf", "-", "."]
            status, errors = self._execute(command, 300, b"", archive)
            if status != 0:
                raise CommandFailed(self.name, _shown(command), status, errors)
            archive.seek(0)
            with tarfile.open(fileobj=archive) as tar:
                tar.extractall(local_dir, filter="data")
        (local_dir / ".fetching").unlink()
        return self._compared(remote_dir, local_dir)

    def _compared(self, remote_dir: str, local_dir: Path) -> list[Path]:
        listing = f"cd {shlex.quote(remote_dir)} && find . -type f -exec sha256sum {{}} +"
        fetched = []
        for line in self.run(listing, timeout_s=300).stdout.splitlines():
            wanted, name = line.split("  ", maxsplit=1)
            file = local_dir / name
            if not file.is_file() or hashlib.sha256(file.read_bytes()).hexdigest() != wanted:
                raise GuestError(f"{self.name}: {name} did not arrive whole")
            fetched.append(file)
        return fetched

    def _execute(
        self, command: str | Sequence[str], timeout_s: float, stdin: bytes, out: Any
    ) -> tuple[int, str]:
        with _broken_is_unreachable(self.name):
            channel = self._channel(command, timeout_s)
            errors = bytearray()
            threads = [
                threading.Thread(target=_feed, args=(channel, stdin), daemon=True),
                threading.Thread(target=_drain, args=(channel, errors), daemon=True),
            ]
            for thread in threads:
                thread.start()
            while chunk := channel.recv(CHUNK):
                out.write(chunk)
            for thread in threads:
                thread.join(timeout_s)
            status = channel.recv_exit_status()
            channel.close()
        return status, errors.decode(errors="replace")

    def _channel(self, command: str | Sequence[str], timeout_s: float) -> paramiko.Channel:
        transport = self._client.get_transport()
        if transport is None:
            raise EOFError("the connection is closed")
        channel = transport.open_session(timeout=30)
        channel.settimeout(timeout_s)
        channel.exec_command(_shown(command))
        return channel


class Held:
    """A command that waits for the end of its input; ``line`` reads what it said."""

    def __init__(self, channel: paramiko.Channel) -> None:
        self._channel = channel
        self._out = channel.makefile("r")

    def line(self) -> str:
        return str(self._out.readline()).strip()

    def release(self) -> None:
        """Closes its input and waits for its end."""
        self._channel.shutdown_write()
        self._channel.recv_exit_status()
        self._channel.close()


class _broken_is_unreachable:  # noqa: N801 - reads as a statement
    def __init__(self, name: str) -> None:
        self._name = name

    def __enter__(self) -> None:
        return None

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if isinstance(error, (paramiko.SSHException, EOFError, OSError)):
            reason = str(error) or type(error).__name__
            raise GuestUnreachable(f"{self._name}: the SSH connection broke: {reason}") from None


def _client(endpoint: Endpoint, timeout_s: float) -> paramiko.SSHClient:
    client = paramiko.SSHClient()
    client.set_missing_host_key_policy(_Pinned(endpoint))
    where = f"{endpoint.name} ({endpoint.address}:{endpoint.port})"
    try:
        client.connect(
            endpoint.address,
            port=endpoint.port,
            username=endpoint.user,
            pkey=_key(endpoint.key_file),
            timeout=min(timeout_s, 10),
            banner_timeout=min(timeout_s, 15),
            auth_timeout=30,
            look_for_keys=False,
            allow_agent=True,
        )
    except paramiko.AuthenticationException:
        client.close()
        raise GuestAuthRefused(
            f"{where} does not accept our SSH key for the user '{endpoint.user}'",
            hint="run from the machine that provisioned, or give your public key as "
            "ssh.authorized_keys before the VMs are made",
        ) from None
    except HostKeyMismatch:
        client.close()
        raise
    except (paramiko.SSHException, EOFError, OSError) as error:
        client.close()
        raise GuestUnreachable(f"{where}: {_why(error)}") from None
    return client


def _why(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "no answer (timed out): is a firewall in the way?"
    if isinstance(error, (ConnectionRefusedError, paramiko.ssh_exception.NoValidConnectionsError)):
        return "the SSH port is closed: does sshd run there?"
    if isinstance(error, socket.gaierror):
        return "no such address"
    return f"no SSH answer: {error or type(error).__name__}"


def _key(file: Path) -> paramiko.PKey | None:
    """None leaves it to the ssh-agent."""
    if not file.exists():
        return None
    try:
        return paramiko.Ed25519Key.from_private_key_file(str(file))
    except (paramiko.SSHException, OSError) as error:
        raise BadInput(f"SSH key {file}: {error}") from None


class _Pinned(paramiko.MissingHostKeyPolicy):
    """No key is ever in paramiko's own list, so every connection comes through here."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint

    @override
    def missing_host_key(
        self, client: paramiko.SSHClient, hostname: str, key: paramiko.PKey
    ) -> None:
        del client, hostname
        shown = f"{key.get_name()} {key.get_base64()}"
        known = hostkeys.known(self._endpoint.identity, self._endpoint.host_keys)
        if not known and self._endpoint.trust == "first-use":
            hostkeys.keep(self._endpoint.identity, (shown,))
        elif shown not in known:
            raise HostKeyMismatch(
                f"{self._endpoint.name} shows a host key that it did not publish",
                hint="somebody else may answer at its address; look at the VM's console",
            )


def _tar(files: Mapping[str, Path | bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for name, source in files.items():
            content = source if isinstance(source, bytes) else source.read_bytes()
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode, entry.mtime = len(content), 0o644, int(time.time())
            tar.addfile(entry, io.BytesIO(content))
    return stream.getvalue()


def _feed(channel: paramiko.Channel, content: bytes) -> None:
    try:
        channel.sendall(content)
        channel.shutdown_write()
    except OSError:
        return  # the command ended before it read everything; its exit status says why


def _drain(channel: paramiko.Channel, into: bytearray) -> None:
    try:
        while chunk := channel.recv_stderr(CHUNK):
            into.extend(chunk)
    except OSError:
        return


def _shown(command: str | Sequence[str]) -> str:
    return command if isinstance(command, str) else shlex.join(command)
