"""Host blocks for the system's ssh.

    options(endpoint, context)       -> for `ssh -o`, `scp -o`: pinned host key, own key, port
    host_block(endpoint, context)    -> the same for an ssh_config(5) file
    keep(context, deployment, ...)   -> gpuvm's own files, which ~/.ssh/config includes

    STATE/ssh/config                                  includes all of the following
    STATE/ssh/contexts/CONTEXT/DEPLOYMENT.conf        a host block for each running VM
    STATE/ssh/contexts/CONTEXT/known_hosts/IDENTITY   the VM's host keys

Host keys are stored by the VM's identity (HostKeyAlias), never by its address. Host blocks are kept
only if ``STATE/ssh/config`` exists.
"""

import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from gpuvm.errors import BadInput, PreflightRefused
from gpuvm.files import write_atomic
from gpuvm.guest import keys
from gpuvm.guest.connection import Endpoint, locate, unpublished
from gpuvm.settings import Context

_NAME = re.compile(r"\w[\w.-]*")
HEADER = "# Written by gpuvm; run 'gpuvm ssh-config' to update it.\n"


def pinned(endpoint: Endpoint) -> Endpoint:
    """Returns the endpoint with one address and a known host key; connects only if necessary.

    Raises HostKeyMismatch for a guest that has not published its host keys, and as ``locate``.
    """
    if endpoint.others or not keys.known(endpoint.identity, endpoint.host_keys):
        return locate(endpoint)
    return endpoint


def named(endpoint: Endpoint) -> Endpoint:
    """Returns the endpoint. Raises PreflightRefused for a name that would not be one host's.

    Anybody who may rename VMs in the vCenter could otherwise add lines to ~/.ssh/config.
    """
    if _NAME.fullmatch(endpoint.name):
        return endpoint
    raise PreflightRefused(
        f"the VM's name '{endpoint.name}' cannot be a host's name in ssh_config",
        hint="rename it in the vCenter: letters, digits, '.', '-' and '_'",
    )


def options(endpoint: Endpoint, context: Context) -> tuple[tuple[str, str], ...]:
    """Keywords and values of ssh_config(5) for a ``pinned`` endpoint; writes its known hosts."""
    known_hosts = _write_known_hosts(endpoint, context)
    own_key = endpoint.key_file.exists()  # else ssh-agent provides it
    return (
        ("HostName", endpoint.address),
        ("Port", str(endpoint.port)),
        ("User", endpoint.user),
        *((("IdentityFile", _quoted(endpoint.key_file)),) if own_key else ()),
        *((("IdentitiesOnly", "yes"),) if own_key else ()),
        ("HostKeyAlias", endpoint.identity),
        ("UserKnownHostsFile", _quoted(known_hosts)),
        ("StrictHostKeyChecking", "yes"),
        ("PreferredAuthentications", "publickey"),
    )


def arguments(endpoint: Endpoint, context: Context) -> list[str]:
    """The options as arguments of ssh, scp and sftp."""
    return [f"-o{keyword}={value}" for keyword, value in options(endpoint, context)]


def host_block(endpoint: Endpoint, context: Context) -> str:
    """``VM.CONTEXT`` is a second name, unique even if another vCenter has a VM of this name.

    Raises PreflightRefused as ``named``.
    """
    named(endpoint)
    lines = [f"Host {endpoint.name} {endpoint.name}.{context.name}"]
    lines += [f"    {keyword} {value}" for keyword, value in options(endpoint, context)]
    return "\n".join(lines) + "\n"


def is_wanted() -> bool:
    """Whether host blocks are kept on this machine."""
    return config_file().exists()


def config_file() -> Path:
    """The file that ~/.ssh/config includes."""
    return keys.ssh_dir() / "config"


def keep(context: Context, deployment: str, endpoints: Sequence[Endpoint]) -> Path:
    """Replaces the deployment's host blocks; without endpoints the file is deleted."""
    blocks = "\n".join(host_block(one, context) for one in endpoints)
    file = _folder(context) / f"{deployment}.conf"
    if blocks:
        _write(file, f"{HEADER}\n{blocks}")
    else:
        file.unlink(missing_ok=True)
    pattern = keys.ssh_dir() / "contexts/*/*.conf"
    _write(config_file(), f"{HEADER}Include {_quoted(pattern)}\n")
    return file


def forget(context_name: str) -> None:
    """Deletes the files of a context."""
    shutil.rmtree(keys.ssh_dir() / "contexts" / context_name, ignore_errors=True)


def include_line() -> str:
    return f"Include {_quoted(config_file())}"


def is_included(user_config: Path) -> bool:
    """Whether the user's ssh_config has the line."""
    if not user_config.exists():
        return False
    lines = user_config.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    include = include_line()
    return any(line.strip() in (include, include.replace('"', "")) for line in lines)


def include(user_config: Path) -> None:
    """Adds the line at the top, since below a ``Host`` line it would apply to that host only.

    The file's mode and a symbolic link are preserved. Raises BadInput if it cannot be written.
    """
    file = user_config.resolve()
    try:
        if not file.parent.exists():
            file.parent.mkdir(mode=0o700, parents=True)
        content = file.read_bytes() if file.exists() else b""
        mode = file.stat().st_mode & 0o777 if file.exists() else 0o600
        added = f"# Added by 'gpuvm ssh-config': gpuvm's running VMs.\n{include_line()}\n\n"
        _write(file, added.encode() + content, mode)
    except OSError as error:
        raise BadInput(
            f"{user_config} cannot be written: {error.strerror or error}",
            hint=f"add this line at its top: {include_line()}",
        ) from None


def _write_known_hosts(endpoint: Endpoint, context: Context) -> Path:
    known = keys.known(endpoint.identity, endpoint.host_keys)
    if not known:
        raise unpublished(endpoint)
    file = _folder(context) / "known_hosts" / endpoint.identity
    _write(file, "".join(f"{endpoint.identity} {key}\n" for key in known))
    return file


def _folder(context: Context) -> Path:
    return keys.ssh_dir() / "contexts" / context.name


def _quoted(path: Path) -> str:
    """Quotes a path for ssh_config(5), which expands %-tokens and splits at blanks."""
    text = str(path.absolute()).replace("%", "%%")
    return f'"{text}"' if " " in text else text


def _write(file: Path, text: str | bytes, mode: int = 0o600) -> None:
    """Atomically: ssh may read the file at any moment."""
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_atomic(file, text, mode)
