"""From an address to an authenticated SSH connection; the host key is pinned, never guessed.

Only a GuestUnreachable is worth another try: a refused key or a wrong host key stays what it is.
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
FAST = ("aes128-gcm@openssh.com", "aes256-gcm@openssh.com")
"""Encrypts and authenticates in one go, so in half the time of AES-CTR with an HMAC."""
MOST_KEYS = 5
"""sshd hangs up after six (MaxAuthTries), which would look like a broken connection."""

# Whatever paramiko's own threads log is raised here too; its tracebacks would reach the terminal,
# and at DEBUG the packets themselves.
_WIRE = "gpuvm.guest.wire"
logging.getLogger(_WIRE).setLevel(logging.CRITICAL)


@dataclass(frozen=True)
class Endpoint:
    """Where a guest is, who we are there, and which host keys it may show.

    ``others`` are tried in turn where ``address`` does not answer as it should. ``identity`` is the
    VM's instance UUID and generation: keys are known by it, not by address.
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
    """One attempt at each address; the endpoint that is returned has the one that answered.

    Raises GuestUnreachable naming all that were tried, else HostKeyMismatch or GuestAuthRefused of
    the first that answered wrongly: a stranger may have one of a guest's addresses.
    """
    tried = (endpoint.address, *endpoint.others)
    wrong: GuestError | None = None
    silent = []
    for address in tried:
        one = replace(endpoint, address=address, others=())
        try:
            return one, _open(one, timeout_s / len(tried))
        except GuestUnreachable as error:
            silent.append(str(error))
        except (HostKeyMismatch, GuestAuthRefused) as error:
            wrong = wrong or error
    raise wrong or GuestUnreachable("; ".join(silent))


def locate(endpoint: Endpoint, timeout_s: float = LOGIN_S) -> Endpoint:
    """With the address that answers, with the right host key, and lets us log in.

    Raises as ``open_transport`` does; a host key that may be kept at first use is kept.
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
            options.ciphers = tuple(sorted(options.ciphers, key=lambda cipher: cipher not in FAST))
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
    """What is wrong with the connection, in words that tell a closed port from a silent one."""
    try:
        yield
    except TimeoutError:
        why = "no answer (timed out); is it up, is a firewall in the way?"
    except ConnectionRefusedError:
        why = "the port is closed; does sshd run there?"
    except socket.gaierror:
        why = "no such address"
    except OSError as error:
        routes = (errno.EHOSTUNREACH, errno.ENETUNREACH)
        why = "no route there" if error.errno in routes else f"{error.strerror or error}"
    except (paramiko.SSHException, EOFError) as error:
        why = f"the port is open, but no SSH answer: {error or 'it hung up'}"
    else:
        return
    raise GuestUnreachable(f"{endpoint}: {why}")


def _transport(connection: socket.socket) -> paramiko.Transport:
    transport = paramiko.Transport(connection)
    transport.set_log_channel(_WIRE)
    transport.banner_timeout, transport.auth_timeout = BANNER_S, LOGIN_S
    return transport


def _check_host_key(endpoint: Endpoint, pinned: tuple[str, ...], shown: paramiko.PKey) -> bool:
    """Whether the key is to be kept as the first one seen."""
    if key_line(shown) in pinned:
        return False
    if pinned:
        raise HostKeyMismatch(
            f"{endpoint} shows a host key that is not its own ({shown.fingerprint})",
            hint="another machine may answer at its address; look at the VM's console",
        )
    if endpoint.trust == "first-use":
        return True
    raise unpublished(endpoint)


def unpublished(endpoint: Endpoint) -> HostKeyMismatch:
    return HostKeyMismatch(
        f"{endpoint.name} has not published its SSH host keys",
        hint="its first-boot unit does that (docs/template.md); 'ssh: {trust: first-use}' in the "
        "context is for VM templates that cannot",
    )


def _log_in(transport: paramiko.Transport, endpoint: Endpoint) -> None:
    tried = 0
    with contextlib.closing(paramiko.Agent()) as agent:
        for key in (*_own_key(endpoint.key_file), *agent.get_keys())[:MOST_KEYS]:
            tried += 1
            try:
                transport.auth_publickey(endpoint.user, key)
            except paramiko.AuthenticationException as error:
                if not transport.is_active():
                    raise EOFError(f"it hung up while we logged in: {error}") from None
            if transport.is_authenticated():
                return
    had = f"none of {tried} keys" if tried > 1 else "not our key"
    raise GuestAuthRefused(
        f"{endpoint} accepts {had} for the user '{endpoint.user}'"
        if tried
        else f"no SSH key for {endpoint}: there is no {endpoint.key_file} and no ssh-agent has one",
        hint="run from the machine that provisioned it, or give your public key as "
        "ssh.authorized_keys in the context before VMs are made",
    )


def _own_key(file: Path) -> tuple[paramiko.PKey, ...]:
    try:
        return (paramiko.PKey.from_path(file),)
    except FileNotFoundError:
        return ()
    except (paramiko.SSHException, OSError, TypeError, ValueError) as error:
        raise BadInput(f"SSH key {file} cannot be used: {error}") from None


def key_line(key: paramiko.PKey) -> str:
    """As known_hosts has it: the type and the key."""
    return f"{key.get_name()} {key.get_base64()}"
