"""The system's ssh as the carrier of large transfers: about twice as fast as paramiko.

It trusts exactly the host key that the open connection has shown, logs in with the same key file
and nothing else: no agent, no other key, no password, and none of the user's configuration.
"""

import contextlib
import os
import select
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, cast

from gpuvm.guest.connection import Endpoint
from gpuvm.guest.streams import CHUNK

PIPE = 1 << 20
ALIAS = "guest"
SSH_FAILED = 255

_OPTIONS = {
    "BatchMode": "yes",
    # AES-GCM costs least where the processor has AES; ssh's own first choice is ChaCha20.
    "Ciphers": "^aes128-gcm@openssh.com,aes256-gcm@openssh.com",
    "ClearAllForwardings": "yes",
    "Compression": "no",
    "ConnectTimeout": "15",
    "ControlMaster": "no",
    "ControlPath": "none",
    "EscapeChar": "none",
    "ForwardAgent": "no",
    "GlobalKnownHostsFile": "/dev/null",
    "HostKeyAlias": ALIAS,
    "IdentitiesOnly": "yes",
    "IdentityAgent": "none",
    "LogLevel": "ERROR",
    "PreferredAuthentications": "publickey",
    "RequestTTY": "no",
    "ServerAliveCountMax": "20",
    "ServerAliveInterval": "15",
    "StrictHostKeyChecking": "yes",
    "UpdateHostKeys": "no",
}


def available(endpoint: Endpoint) -> bool:
    return shutil.which("ssh") is not None and endpoint.key_file.is_file()


@contextlib.contextmanager
def opened(
    endpoint: Endpoint, host_key: str, command: str, silent_s: float
) -> Iterator["ProcessStream"]:
    """``host_key`` is the line (type and base64) that the guest must show."""
    with tempfile.TemporaryDirectory(prefix="gpuvm-") as folder:
        known_hosts = Path(folder, "known_hosts")
        known_hosts.write_text(f"{ALIAS} {host_key}\n", encoding="ascii")
        with tempfile.TemporaryFile() as errors:
            process = subprocess.Popen(
                _command(endpoint, known_hosts, command),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                bufsize=0,
                pipesize=PIPE,
                start_new_session=True,  # Ctrl-C is for us, and we end it
            )
            with process:
                stream = ProcessStream(process, silent_s, errors.fileno())
                try:
                    yield stream
                finally:
                    process.kill()


def _command(endpoint: Endpoint, known_hosts: Path, command: str) -> Sequence[str]:
    options = _OPTIONS | {
        "UserKnownHostsFile": _file(known_hosts),
        "IdentityFile": _file(endpoint.key_file.absolute()),
        "Port": str(endpoint.port),
        "User": endpoint.user,
    }
    words = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
    return ["ssh", "-F", "none", *words, "--", endpoint.address, command]


def _file(path: Path) -> str:
    """Quoted for ssh, which also replaces what follows a percent sign."""
    return f'"{path}"'.replace("%", "%%")


class ProcessStream:
    """See streams.Stream."""

    def __init__(self, process: "subprocess.Popen[bytes]", silent_s: float, errors: int) -> None:
        self._process, self._silent_s, self._errors = process, silent_s, errors
        self._in, self._out = cast(IO[bytes], process.stdin), cast(IO[bytes], process.stdout)
        os.set_blocking(self._in.fileno(), False)

    def kill(self) -> None:
        self._process.kill()

    def write(self, data: bytes | memoryview) -> None:
        left = memoryview(data)
        while left:
            self._wait(self._in.fileno(), select.POLLOUT)
            with contextlib.suppress(BlockingIOError):
                left = left[os.write(self._in.fileno(), left) :]

    def read(self) -> bytes:
        self._wait(self._out.fileno(), select.POLLIN)
        return os.read(self._out.fileno(), CHUNK)

    def status(self) -> int:
        try:
            status = self._process.wait(self._silent_s)
        except subprocess.TimeoutExpired:
            raise TimeoutError from None
        if status == SSH_FAILED or status < 0:
            last = self.errors().strip().splitlines()[-1:] or ["ssh ended"]
            raise EOFError(last[0])
        return status

    def errors(self) -> str:
        return os.pread(self._errors, CHUNK, 0).decode(errors="replace")

    def _wait(self, descriptor: int, event: int) -> None:
        poll = select.poll()
        poll.register(descriptor, event)
        if not poll.poll(self._silent_s * 1000):
            raise TimeoutError
