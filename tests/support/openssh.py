"""A real OpenSSH server (Debian's openssh-server) on loopback, with keys and settings of its own.

Nothing of /etc is read but the user's own entry; everything it needs lies in one folder.
"""

import contextlib
import getpass
import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from gpuvm.guest import Endpoint

ADDRESS = "127.0.0.1"
SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/usr/local/sbin")


@dataclass(frozen=True)
class Server:
    """Files go to ``home``; ``known_hosts`` is for scp, and ``log`` has sshd's lines."""

    folder: Path
    port: int
    host_key: str
    log: list[str] = field(default_factory=list)

    @property
    def home(self) -> Path:
        return self.folder / "home"

    @property
    def key_file(self) -> Path:
        return self.folder / "user"

    @property
    def known_hosts(self) -> Path:
        return self.folder / "known_hosts"

    @property
    def endpoint(self) -> Endpoint:
        return Endpoint(
            name="openssh",
            address=ADDRESS,
            port=self.port,
            user=getpass.getuser(),
            key_file=self.key_file,
            host_keys=(self.host_key,),
            trust="guestinfo",
            identity="uuid-of-openssh-1",
        )


@contextlib.contextmanager
def running(folder: Path) -> Iterator[Server]:
    """The server until the block ends. Needs sshd on this machine."""
    if SSHD is None:
        raise FileNotFoundError("there is no sshd here: apt-get install openssh-server")
    for name in ("host", "user"):
        make_key = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
        subprocess.run(make_key, check=True)
    (folder / "home").mkdir()
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # for its own privilege separation
    with socket.create_server((ADDRESS, 0)) as listener:
        port = listener.getsockname()[1]
    _configure(folder, port)
    host_key = " ".join((folder / "host.pub").read_text().split()[:2])
    (folder / "known_hosts").write_text(f"[{ADDRESS}]:{port} {host_key}\n")
    sshd = subprocess.Popen(
        [SSHD, "-D", "-e", "-f", str(folder / "config")],
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    server, listening = Server(folder, port, host_key), threading.Event()
    reader = threading.Thread(target=_read, args=(sshd.stderr, server.log, listening))
    reader.start()
    try:
        if not listening.wait(30) or not any("Server listening" in line for line in server.log):
            raise OSError(f"sshd does not listen: {server.log}")
        yield server
    finally:
        sshd.terminate()
        sshd.wait()
        reader.join()


def _read(errors: IO[str], log: list[str], listening: threading.Event) -> None:
    with errors:
        for line in errors:
            log.append(line)
            if "Server listening" in line:
                listening.set()
    listening.set()  # or it has ended


def _configure(folder: Path, port: int) -> None:
    settings = {
        "Port": port,
        "ListenAddress": ADDRESS,
        "HostKey": folder / "host",
        "PidFile": folder / "pid",
        "AuthorizedKeysFile": folder / "user.pub",
        "AuthenticationMethods": "publickey",
        "PermitRootLogin": "prohibit-password",
        "UsePAM": "no",
        "StrictModes": "no",  # the folder may lie below one that others can write to, as /tmp does
        "Subsystem": "sftp internal-sftp",
    }
    text = "".join(f"{name} {value}\n" for name, value in settings.items())
    (folder / "config").write_text(text)
