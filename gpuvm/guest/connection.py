"""Opens authenticated SSH connections to guests, with pinned host keys.

Only GuestUnreachable is worth a retry: a refused key or a wrong host key does not change.
"""

import contextlib
import errno
import logging
import socket
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import paramiko
from typing_extensions import override

from gpuvm.errors import (
    BadInput,
    GuestAuthRefused,
    GuestError,
    GuestUnreachable,
    HostKeyMismatch,
)
from gpuvm.guest import keys

CONNECT_S, BANNER_S, LOGIN_S = 10.0, 15.0, 30.0
KEEPALIVE_S = 15
FAST_CIPHERS = ("aes128-gcm@openssh.com", "aes256-gcm@openssh.com")
"""AES-GCM takes half the time of AES-CTR with an HMAC."""
MAX_KEYS = 5
"""sshd closes the connection after six (MaxAuthTries), which looks like a network error."""

# paramiko's threads log tracebacks of errors that are raised here too, and packets at DEBUG.
_PARAMIKO_LOG = "gpuvm.guest.wire"
logging.getLogger(_PARAMIKO_LOG).setLevel(logging.CRITICAL)


@dataclass(frozen=True)
class Endpoint:
    """A guest's address, the login, and its host keys.

    ``others`` are tried in turn if ``address`` fails. ``identity`` is the VM's instance UUID and
    generation: host keys are stored by it, not by address.
    """

    name: str
    address: str
    port: int
    user: str
    key_file: Path
    host_keys: tuple[str, ...]
    trust: Literal["guestinfo", "first-use"]
    identity: str
    others: tuple[str, ...] = ()

    @override
    def __str__(self) -> str:
        return f"{self.name} ({self.address}:{self.port})"


def open_transport(endpoint: Endpoint, timeout_s: float) -> tuple[Endpoint, paramiko.Transport]:
    """Tries each address once; returns the endpoint with the address that worked.

    Raises the first HostKeyMismatch or GuestAuthRefused, since another machine may have one of the
    guest's addresses; else GuestUnreachable, which names all addresses.
    """
    tried = (endpoint.address, *endpoint.others)
    refused: GuestError | None = None
    unreachable = []
    for address in tried:
        one = replace(endpoint, address=address, others=())
        try:
            return one, _open(one, timeout_s / len(tried))
        except GuestUnreachable as error:
            unreachable.append(str(error))
        except (HostKeyMismatch, GuestAuthRefused) as error:
            refused = refused or error
    raise refused or GuestUnreachable("; ".join(unreachable))


def locate(endpoint: Endpoint, timeout_s: float = LOGIN_S) -> Endpoint:
    """Returns the endpoint with the address at which a login works.

    Raises as ``open_transport``; with ``trust: first-use`` a new host key is saved.
    """
    found, transport = open_transport(endpoint, timeout_s)
    transport.close()
    return found


def _open(endpoint: Endpoint, timeout_s: float) -> paramiko.Transport:
    pinned = keys.known(endpoint.identity, endpoint.host_keys)
    with _unreachable(endpoint):
        where = (endpoint.address, endpoint.port)
        transport = _transport(socket.create_connection(where, min(timeout_s, CONNECT_S)))
    with contextlib.ExitStack() as close_if_refused:
        close_if_refused.callback(transport.close)
        with _unreachable(endpoint):
            options = transport.get_security_options()
            options.key_types = keys.preferred(pinned, tuple(options.key_types))
            options.ciphers = tuple(
                sorted(options.ciphers, key=lambda cipher: cipher not in FAST_CIPHERS)
            )
            transport.start_client(timeout=min(timeout_s, BANNER_S))
            shown = transport.get_remote_server_key()
            first_use = _check_host_key(endpoint, pinned, shown)
            _log_in(transport, endpoint)
        if first_use:
            keys.keep(endpoint.identity, (key_line(shown),))
        close_if_refused.pop_all()
    transport.set_keepalive(KEEPALIVE_S)
    return transport


@contextlib.contextmanager
def _unreachable(endpoint: Endpoint) -> Iterator[None]:
    """Translates connection errors; a closed port and a timeout have different messages."""
    try:
        yield
    except TimeoutError:
        why = "no answer (timed out): is the VM up, does a firewall block the port?"
    except ConnectionRefusedError:
        why = "connection refused: is sshd running?"
    except socket.gaierror:
        why = "unknown host name"
    except OSError as error:
        routes = (errno.EHOSTUNREACH, errno.ENETUNREACH)
        why = "no route to host" if error.errno in routes else f"{error.strerror or error}"
    except (paramiko.SSHException, EOFError) as error:
        why = f"the port is open, but no SSH answer: {error or 'connection closed'}"
    else:
        return
    raise GuestUnreachable(f"{endpoint}: {why}")


def _transport(connection: socket.socket) -> paramiko.Transport:
    transport = paramiko.Transport(connection)
    transport.set_log_channel(_PARAMIKO_LOG)
    transport.banner_timeout, transport.auth_timeout = BANNER_S, LOGIN_S
    return transport


def _check_host_key(endpoint: Endpoint, pinned: tuple[str, ...], shown: paramiko.PKey) -> bool:
    """Returns whether to save the key on first use."""
    if key_line(shown) in pinned:
        return False
    if pinned:
        raise HostKeyMismatch(
            f"{endpoint} presented an unknown host key ({shown.fingerprint})",
            hint="another machine may have its address; check the VM's console",
        )
    if endpoint.trust == "first-use":
        return True
    raise unpublished(endpoint)


def unpublished(endpoint: Endpoint) -> HostKeyMismatch:
    return HostKeyMismatch(
        f"{endpoint.name} has not published its SSH host keys",
        hint="the VM template's first-boot unit publishes them (docs/template.md); without one, "
        "set 'ssh: {trust: first-use}' in the context",
    )


def _log_in(transport: paramiko.Transport, endpoint: Endpoint) -> None:
    tried = 0
    with contextlib.closing(paramiko.Agent()) as agent:
        for key in (*_own_key(endpoint.key_file), *agent.get_keys())[:MAX_KEYS]:
            tried += 1
            try:
                transport.auth_publickey(endpoint.user, key)
            except paramiko.AuthenticationException as error:
                if not transport.is_active():
                    raise EOFError(f"connection closed during login: {error}") from None
            if transport.is_authenticated():
                return
    keys_tried = f"all {tried} keys" if tried > 1 else "the key"
    raise GuestAuthRefused(
        f"{endpoint} refused {keys_tried} for the user '{endpoint.user}'"
        if tried
        else f"no SSH key for {endpoint}: no file {endpoint.key_file}, and no ssh-agent has one",
        hint="run gpuvm on the machine that provisioned it, or add your public key to "
        "ssh.authorized_keys in the context before VMs are created",
    )


def _own_key(file: Path) -> tuple[paramiko.PKey, ...]:
    try:
        return (paramiko.PKey.from_path(file),)
    except FileNotFoundError:
        return ()
    except (paramiko.SSHException, OSError, TypeError, ValueError) as error:
        raise BadInput(f"SSH key {file} cannot be used: {error}") from None


def key_line(key: paramiko.PKey) -> str:
    """The type and the key, as in known_hosts."""
    return f"{key.get_name()} {key.get_base64()}"
