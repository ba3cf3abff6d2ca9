"""The operator's SSH key: one pair per context, made on first use; its private half stays here."""

import os

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gpuvm.settings import Context


def ensure_key_pair(context: Context) -> str:
    """The public key as OpenSSH writes it; makes the pair if there is none."""
    private = context.key_file
    public = private.with_suffix(".pub")
    if not private.exists():
        private.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        key = Ed25519PrivateKey.generate()
        line = key.public_key().public_bytes(
            serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
        )
        public.write_bytes(line + f" gpuvm-{context.name}\n".encode())
        _write_private(private, key)
    return public.read_text(encoding="ascii").strip()


def _write_private(file: os.PathLike[str], key: Ed25519PrivateKey) -> None:
    """Never readable by others, not even for a moment."""
    text = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.OpenSSH,
        serialization.NoEncryption(),
    )
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as private:
        private.write(text)
