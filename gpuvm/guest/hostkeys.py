"""Which host keys belong to which VM: by instance UUID and generation, never by address.

A VM that is made again has another generation, so its new key is not mistaken for an attack.
"""

from collections.abc import Sequence
from pathlib import Path

from gpuvm import paths

_RSA = ("rsa-sha2-512", "rsa-sha2-256")


def known(identity: str, published: Sequence[str]) -> tuple[str, ...]:
    """The published keys (type and base64, comments dropped), else the one kept at first use."""
    keys = tuple(" ".join(key.split()[:2]) for key in published)
    if keys:
        return keys
    file = _file(identity)
    return tuple(file.read_text(encoding="ascii").splitlines()) if file.exists() else ()


def preferred(keys: Sequence[str], algorithms: Sequence[str]) -> tuple[str, ...]:
    """The algorithms, those of the keys first: a server has several keys and shows one."""
    types = [key.split()[0] for key in keys]
    first = [a for kind in types for a in (_RSA if kind == "ssh-rsa" else (kind,))]
    return tuple(sorted(algorithms, key=lambda algorithm: algorithm not in first))


def keep(identity: str, keys: Sequence[str]) -> None:
    file = _file(identity)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(f"{key}\n" for key in keys), encoding="ascii")


def forget(instance_uuid: str) -> None:
    """All generations of the VM; nothing kept is fine."""
    for file in _folder().glob(f"{instance_uuid}-*"):
        file.unlink(missing_ok=True)


def _file(identity: str) -> Path:
    return _folder() / identity


def _folder() -> Path:
    return paths.state_dir() / "host-keys"
