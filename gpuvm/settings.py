"""Settings: a *context* is one vCenter with the account, the TLS trust and the SSH key.

    settings.load("lab")        # ~/.config/gpuvm/contexts/lab.yaml
    settings.load(None)         # GPUVM_CONTEXT, else gpuvm.yaml's, the current or the only one
    settings.save(context)      # by `gpuvm init` and `gpuvm lab up`

A context has no password, only the command that prints it. ``find_password`` looks there, in the
environment, and in the system's keyring (gpuvm.keyrings).
"""

import os
import re
import shlex
import subprocess
from collections.abc import Callable
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from gpuvm import files, keyrings, paths, variables
from gpuvm.documents import read_document
from gpuvm.errors import Ambiguous, BadInput, NoKeyring, NotFound
from gpuvm.validation import SHOWN, Int, matching, parsed, shown


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class SystemTrust(_Model):
    """The operating system's certificate store."""

    verify: Literal["system"] = "system"


class CAFile(_Model):
    """A CA certificate file, such as the VMCA root from https://VCENTER/certs/download.zip."""

    verify: Literal["ca"] = "ca"
    ca_file: Path


class Pin(_Model):
    """The SHA-256 of the server's certificate, hex with or without colons."""

    verify: Literal["sha256"] = "sha256"
    sha256: Annotated[
        str,
        matching(r"([0-9A-Fa-f]{2}:?){32}", "is not 64 hex digits, with or without colons"),
    ]


class Insecure(_Model):
    """No verification; every command warns about it."""

    verify: Literal["insecure"] = "insecure"


Network = Annotated[
    IPv4Network | IPv6Network,
    BeforeValidator(parsed(ip_network, "a network such as 10.0.0.0/24")),
]
TLS = Annotated[SystemTrust | CAFile | Pin | Insecure, Field(discriminator="verify")]


class SSH(_Model):
    user: str = "gpuvm"
    port: Int = Field(default=22, ge=1, le=65535)
    authorized_keys: tuple[str, ...] = ()
    """More public keys for new guests, so that others can `run` too."""
    trust: Literal["guestinfo", "first-use"] = "guestinfo"
    """first-use only for a VM template that cannot publish its host keys."""
    subnet: Network | None = None
    """Only guest addresses in it are used, such as 10.0.0.0/24; by default all."""


class GuestSettings(_Model):
    python: str = "python3"
    """The guest's Python with TensorFlow; on CentOS 7 this is not the system's."""
    tensorflow_gpu: Literal["require", "warn"] = "require"
    work_dir: str = "gpuvm-runs"
    """Relative to the SSH user's home."""


NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
"""Of a context, and of a lab: folders are called so too, and it is no path."""


class Context(_Model):
    version: Literal[1] = 1
    """Of the file; gpuvm.files.CONTEXT."""
    name: Annotated[
        str,
        matching(
            NAME.pattern,
            "is not a name of letters, digits, dots, hyphens and underscores, 100 at most",
        ),
    ]
    vcenter: str
    """Host, host:port or https URL."""
    user: str
    password_command: str | None = None
    """Prints the password on its first line; by default the environment or a prompt is used."""
    tls: TLS = SystemTrust()
    timeout_s: float = Field(default=120.0, gt=0, le=3600)
    """How long to wait for one answer of the vCenter; a busy one may need a minute."""
    ssh: SSH = SSH()
    guest: GuestSettings = GuestSettings()
    confirm: bool = True
    """Ask before VMs are destroyed."""

    @property
    def address(self) -> tuple[str, int]:
        """Host and port of the endpoint; raises BadInput."""
        return parse_address(self.vcenter)

    @property
    def server(self) -> str:
        """The endpoint as host:port; raises BadInput."""
        return authority(*self.address)

    @property
    def key_file(self) -> Path:
        """The private SSH key of this context; it never leaves this machine."""
        return paths.state_dir() / "keys" / self.name / "id_ed25519"


class Environment(BaseSettings):
    """gpuvm's own variables; those of govc, Terraform and Ansible are in ``gpuvm.variables``."""

    model_config = SettingsConfigDict(populate_by_name=True)

    context: str | None = Field(default=None, validation_alias="GPUVM_CONTEXT")
    password: SecretStr | None = Field(default=None, validation_alias="GPUVM_PASSWORD")


def parse_address(vcenter: str) -> tuple[str, int]:
    """Parse ``vc.example``, ``vc.example:8443``, ``[2001:db8::10]`` or an https URL.

    An IPv6 address is in brackets, as in every URL; the host is returned without them. Raises
    BadInput.
    """
    match = re.fullmatch(
        r"(?:https://)?(\[[0-9A-Fa-f:.]+\]|[^/:\[\]\s]+)(?::([0-9]{1,5}))?(?:/.*)?", vcenter
    )
    if match is None or not 0 < int(match[2] or 443) < 65536:
        without_account = re.sub(r"[^/]*@", "…@", vcenter)  # a password may be in it
        raise BadInput(f"vCenter {shown(without_account)} is not a host or https URL")
    return match[1].strip("[]"), int(match[2] or 443)


def authority(host: str, port: int) -> str:
    """Return ``host:port`` for a URL, with an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


ENVIRONMENT = "environment"
"""The context that the variables of govc, Terraform or Ansible make if none is configured."""


def load(name: str | None = None, of_file: str | None = None) -> Context:
    """Load the context of that name, else of GPUVM_CONTEXT, ``of_file``, the current or only one.

    ``of_file`` is the one that gpuvm.yaml names. Raises NotFound or Ambiguous (both list the
    contexts) and BadInput with file and line.
    """
    of_variable = Environment().context
    source = "" if name else "GPUVM_CONTEXT: " if of_variable else "the spec: " if of_file else ""
    name = name or of_variable or of_file or current() or _only()
    if name not in names():
        made = from_environment() if name == ENVIRONMENT else None
        if made is not None:
            return made
        raise _not_found(name, source)
    file = _file(name)
    context = read_document(file, Context, check_version=files.CONTEXT.check)
    if context.name != name:
        # Its keys and what hints name would be those of the other one.
        raise BadInput(
            f"{file}: name: is '{context.name}', and the file's own name is '{name}'",
            hint=f"write 'name: {name}', or call the file {context.name}.yaml",
        )
    return context


def default_name(of_file: str | None = None) -> str | None:
    """The context of a command that names none, if GPUVM_CONTEXT is not set."""
    known = names()
    only = known[0] if len(known) == 1 else None
    return of_file or current() or only or (ENVIRONMENT if not known else None)


def from_environment() -> Context | None:
    """Return the first vCenter that variables of govc, Terraform or Ansible name, or None.

    Raises BadInput if they name no account, or no possible host.
    """
    for named in variables.named_vcenters():
        parse_address(named.vcenter)
        if named.user is None:
            raise BadInput(
                f"{named.named_by} names a vCenter, but no variable names an account",
                hint=f"set {named.user_variable}",
            )
        return Context(
            name=ENVIRONMENT, vcenter=named.vcenter, user=named.user, tls=trust_of(named)
        )
    return None


def trust_of(named: variables.NamedVCenter) -> TLS:
    if named.ca_file is not None:
        return CAFile(ca_file=named.ca_file)
    return Insecure() if named.insecure else SystemTrust()


def save(context: Context) -> Path:
    """Write the context, readable by its owner only, and make it the current one."""
    file = _file(context.name)
    file.parent.mkdir(parents=True, exist_ok=True)
    text = yaml.safe_dump(context.model_dump(mode="json", exclude_none=True), sort_keys=False)
    files.write_atomic(file, text, 0o600)
    use(context.name)
    return file


def use(name: str) -> None:
    """Make the context the current one; `remove` goes back to the previous one."""
    if name not in names():
        raise _not_found(name)
    _write_chosen([name, *(other for other in _chosen() if other != name)])


def remove(name: str) -> None:
    """Delete the context. Raises NotFound."""
    if name not in names():
        raise _not_found(name)
    _file(name).unlink(missing_ok=True)
    _write_chosen([other for other in _chosen() if other != name])


def names() -> list[str]:
    found = (file.stem for file in (paths.config_dir() / "contexts").glob("*.yaml"))
    return sorted(name for name in found if NAME.fullmatch(name))


def current() -> str | None:
    return next((name for name in _chosen() if name in names()), None)


def password(context: Context, prompt: Callable[[str], str] | None) -> SecretStr:
    """Get it as ``find_password`` does, from ``prompt`` at last (None: no terminal)."""
    return find_password(context, prompt)[0]


COMMAND, KEYRING, PROMPT = "the context's password_command", "the keyring", "the prompt"


def find_password(context: Context, prompt: Callable[[str], str] | None) -> tuple[SecretStr, str]:
    """Return the password and where it comes from.

    That is the context's command, the environment, the keyring or the prompt. GPUVM_PASSWORD is for
    any vCenter of gpuvm's. A password in another tool's variables is only for the host and the
    account that the same variables name.
    """
    if context.password_command:
        return _from_command(context.password_command), COMMAND
    given = in_environment(context)
    if given is not None:
        return given
    unused = "".join(
        f"; {named.password_variable} is for another host or account"
        for named in variables.named_vcenters()
        if named.password is not None
    )
    try:
        kept = keyrings.read(context.server, context.user)
    except NoKeyring as error:
        kept, remedy = None, ""
        unused += f"; {error}"
    else:
        remedy = "keep it in the keyring with 'gpuvm login', or "
    if kept is not None:
        return kept, KEYRING
    if prompt is None:
        raise BadInput(
            f"no password for {context.user} and no terminal to ask on{unused}",
            hint=f"{remedy}set GPUVM_PASSWORD, or password_command in the context",
        )
    return SecretStr(prompt(f"Password for {context.user}: ")), PROMPT


def in_environment(context: Context) -> tuple[SecretStr, str] | None:
    """Return the password for this context in the environment, and its variable."""
    own = Environment().password
    if own is not None:
        return own, "GPUVM_PASSWORD"
    for named in variables.named_vcenters():
        if named.password is not None and _is_for(named, context):
            return named.password, named.password_variable
    return None


def _is_for(named: variables.NamedVCenter, context: Context) -> bool:
    try:
        host, port = parse_address(named.vcenter)
    except BadInput:
        return False
    own_host, own_port = context.address
    same_host = (host.lower(), port) == (own_host.lower(), own_port)
    return same_host and named.user in (None, context.user)


def _not_found(name: str, source: str = "") -> NotFound:
    return NotFound(f"{source}context", name if len(name) <= SHOWN else f"{name[:SHOWN]}…", names())


def _file(name: str) -> Path:
    return paths.config_dir() / "contexts" / f"{name}.yaml"


def _chosen() -> list[str]:
    """Return the contexts in the order of their last use, the current one first."""
    file = paths.config_dir() / "current"
    return file.read_text(encoding="utf-8").split() if file.exists() else []


def _write_chosen(chosen: list[str]) -> None:
    file = paths.config_dir() / "current"
    if chosen:
        files.write_atomic(file, "\n".join(chosen) + "\n")
    else:
        file.unlink(missing_ok=True)


def _only() -> str:
    known = names()
    if not known and variables.named_vcenters():
        return ENVIRONMENT
    if not known:
        raise BadInput(
            "there is no context yet",
            hint="run 'gpuvm init' for your vCenter, or 'gpuvm lab up' for a simulated one",
        )
    if len(known) > 1:
        raise Ambiguous("context", known, option=f"--context, or 'gpuvm context use {known[0]}'")
    return known[0]


def _from_command(command: str) -> SecretStr:
    """Run the command; its standard error is the terminal, where it can prompt for a passphrase."""
    try:
        done = subprocess.run(
            shlex.split(command),
            stdout=subprocess.PIPE,
            check=False,
            env={k: v for k, v in os.environ.items() if k != "GPUVM_PASSWORD"},
        )
    except OSError as error:
        raise BadInput(f"password_command: {error}") from None
    lines = done.stdout.decode(errors="replace").splitlines()
    if done.returncode != 0 or not lines or not lines[0]:
        raise BadInput(
            f"password_command ended with status {done.returncode} and printed no password"
        )
    return SecretStr(lines[0])
