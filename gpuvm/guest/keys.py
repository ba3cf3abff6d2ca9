"""SSH keys: the operator's key pair, and the host keys of guests.

Each context has a key pair, created on first use; the private key never leaves this machine. Host
keys are stored by instance UUID and generation, never by address.
"""

import contextlib
from collections.abc import Sequence
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gpuvm import paths
from gpuvm.errors import BadInput
from gpuvm.files import write_atomic, write_new
from gpuvm.settings import Context


def ensure_key_pair(context: Context) -> str:
    """Returns the public key as OpenSSH writes it; creates an Ed25519 key pair if there is none.

    Raises BadInput when the private key cannot be read.
    """
    file = context.key_file
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        file.parent.chmod(0o700)
        _write_new(file, Ed25519PrivateKey.generate())
    line = f"{_public_key(file)} gpuvm-{context.name}"
    write_atomic(file.with_suffix(".pub"), f"{line}\n")
    return line


def _write_new(file: Path, key: Ed25519PrivateKey) -> None:
    """The file is never readable by others, and never replaces one created meanwhile."""
    text = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.OpenSSH,
        serialization.NoEncryption(),
    )
    with contextlib.suppress(FileExistsError):
        write_new(file, text, 0o600)


def _public_key(file: Path) -> str:
    try:
        key = serialization.load_ssh_private_key(file.read_bytes(), password=None)
    except (OSError, TypeError, ValueError) as error:
        raise BadInput(f"SSH key {file} cannot be used: {error}") from None
    public = key.public_key().public_bytes(
        serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    )
    return public.decode("ascii")


_RSA = ("rsa-sha2-512", "rsa-sha2-256")


def known(identity: str, published: Sequence[str]) -> tuple[str, ...]:
    """The published keys (type and base64, without comments), else the one saved on first use."""
    keys = tuple(" ".join(key.split()[:2]) for key in published)
    if keys:
        return keys
    file = _file(identity)
    return tuple(file.read_text(encoding="ascii").splitlines()) if file.exists() else ()


def preferred(keys: Sequence[str], algorithms: Sequence[str]) -> tuple[str, ...]:
    """Sorts the algorithms of the keys first: a server has several keys and presents one."""
    types = [key.split()[0] for key in keys]
    first = [a for kind in types for a in (_RSA if kind == "ssh-rsa" else (kind,))]
    return tuple(sorted(algorithms, key=lambda algorithm: algorithm not in first))


def keep(identity: str, keys: Sequence[str]) -> None:
    file = _file(identity)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(file, "".join(f"{key}\n" for key in keys))


def forget(instance_uuid: str) -> None:
    """Deletes the host keys of all generations of the VM."""
    for folder in (_folder(), *ssh_dir().glob("contexts/*/known_hosts")):
        for file in folder.glob(f"{instance_uuid}-*"):
            file.unlink(missing_ok=True)


def _file(identity: str) -> Path:
    return _folder() / identity


def ssh_dir() -> Path:
    """Files for the system's ssh (``gpuvm.guest.ssh_config``)."""
    return paths.state_dir() / "ssh"


def _folder() -> Path:
    return paths.state_dir() / "host-keys"
