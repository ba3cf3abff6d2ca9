"""The system's ssh for large transfers: about twice as fast as paramiko.

It accepts only the host key of the open connection and logs in with the same key file: no agent, no
other key, no password, and none of the user's configuration.
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

from gpuvm.files import write_atomic
from gpuvm.guest.connection import Endpoint
from gpuvm.guest.streams import CHUNK

PIPE_BYTES = 1 << 20
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
    endpoint: Endpoint, host_key: str, command: str, idle_timeout_s: float
) -> Iterator["ProcessStream"]:
    """``host_key`` (type and base64) is the one that the guest must present."""
    with tempfile.TemporaryDirectory(prefix="gpuvm-") as folder:
        known_hosts = Path(folder, "known_hosts")
        write_atomic(known_hosts, f"{ALIAS} {host_key}\n")
        with tempfile.TemporaryFile() as errors:
            process = subprocess.Popen(
                _command(endpoint, known_hosts, command),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                bufsize=0,
                pipesize=PIPE_BYTES,
                start_new_session=True,  # so that Ctrl-C does not end it
            )
            with process:
                stream = ProcessStream(process, idle_timeout_s, errors.fileno())
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
    """Quotes a path for ssh, which expands percent signs."""
    return f'"{path}"'.replace("%", "%%")


class ProcessStream:
    """See streams.Stream."""

    def __init__(
        self, process: "subprocess.Popen[bytes]", idle_timeout_s: float, errors: int
    ) -> None:
        self._process, self._idle_timeout_s, self._errors = process, idle_timeout_s, errors
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
            status = self._process.wait(self._idle_timeout_s)
        except subprocess.TimeoutExpired:
            raise TimeoutError from None
        if status == SSH_FAILED or status < 0:
            last = self.errors().strip().splitlines()[-1:] or ["ssh exited"]
            raise EOFError(last[0])
        return status

    def errors(self) -> str:
        return os.pread(self._errors, CHUNK, 0).decode(errors="replace")

    def _wait(self, descriptor: int, event: int) -> None:
        poll = select.poll()
        poll.register(descriptor, event)
        if not poll.poll(self._idle_timeout_s * 1000):
            raise TimeoutError
