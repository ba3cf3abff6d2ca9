"""A real OpenSSH server (Debian's openssh-server) on loopback, with keys and settings of its own.

Nothing of /etc is read but the user's own entry; everything it needs lies in one folder.
"""

import contextlib
import getpass
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from gpuvm.guest import Endpoint

ADDRESS = "127.0.0.1"
SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/usr/local/sbin")


@dataclass(frozen=True)
class Server:
    """``folder/home`` is where files are sent to; ``known_hosts`` is for scp."""

    folder: Path
    port: int
    host_key: str

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
    log = folder / "log"
    with log.open("wb") as errors:
        sshd = subprocess.Popen(
            [SSHD, "-D", "-e", "-f", str(folder / "config")],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        assert sshd.stderr is not None
        for line in sshd.stderr:
            errors.write(line)
            if b"Server listening" in line:
                break
        try:
            yield Server(folder, port, host_key)
        finally:
            sshd.terminate()
            sshd.communicate()


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
