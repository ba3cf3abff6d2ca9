"""gpuvm init: asks for a vCenter, checks it, and writes a context and a starter gpuvm.yaml."""

from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer
from pydantic import SecretStr, ValidationError

from gpuvm import keyrings, settings, spec, variables, vsphere
from gpuvm.cli import output
from gpuvm.cli.options import DebugOption, JsonOption, file_context
from gpuvm.cli.output import State
from gpuvm.cli.session import Login, announce, ask, interactive, log_in
from gpuvm.errors import BadInput, LoginRefused, NoKeyring, Untrusted
from gpuvm.files import write_new
from gpuvm.paths import resource
from gpuvm.settings import TLS, CAFile, Context, Insecure, Pin, SystemTrust
from gpuvm.text import typed_word
from gpuvm.validation import shown

ATTEMPTS = 3
"""vCenter locks an account after five by default."""


def init(
    ctx: typer.Context,
    vcenter: Annotated[
        str | None, typer.Option(help="Host, host:port or https URL.", metavar="HOST")
    ] = None,
    user: Annotated[str | None, typer.Option(help="Account.", metavar="USER")] = None,
    name: Annotated[
        str | None, typer.Option(help="The context's name; the host's by default.", metavar="NAME")
    ] = None,
    ca_file: Annotated[
        Path | None, typer.Option(help="CA certificate that signed the vCenter's.", exists=True)
    ] = None,
    sha256: Annotated[
        str | None, typer.Option(help="Pin the vCenter's certificate.", metavar="FINGERPRINT")
    ] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Do not verify the certificate at all.")
    ] = False,
    password_command: Annotated[
        str | None,
        typer.Option(help="Prints the password, such as 'pass show vcenter'.", metavar="COMMAND"),
    ] = None,
    json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Make a vCenter known: ask, log in once to check, write a context and a starter gpuvm.yaml.

    [bold]Examples[/]

        gpuvm init

        gpuvm init --vcenter vc.example.com --user alice@vsphere.local --ca-file vmca.pem

        gpuvm init --vcenter vc.example.com --user svc --password-command 'pass show vc'

    A certificate that nothing here vouches for, as a vCenter has one by default, is shown, and you
    are asked whether to trust exactly that one (--sha256). Variables of govc (GOVC_URL), Terraform
    (VSPHERE_SERVER) and Ansible (VMWARE_HOST) are defaults. The password is never written to a
    file; you are asked whether this system's keyring keeps it (docs/configuration.md).
    """
    named = next(iter(variables.named_vcenters()), None)
    if named:
        _complete(vcenter or named.vcenter, user or named.user)
    else:
        _complete(vcenter, user)
    vcenter = vcenter or _ask("vCenter host", "--vcenter", named.vcenter if named else None)
    same = named if named and named.vcenter == vcenter else None
    asked_user = user is None
    user = user or _ask("User", "--user", same.user if same else None)
    trust = _trust(ca_file, sha256, insecure=insecure)
    if isinstance(trust, SystemTrust) and same and (same.ca_file or not interactive()):
        trust = settings.trust_of(same)
    context = _context(
        name or settings.parse_address(vcenter)[0], vcenter, user, password_command, trust
    )
    context = _trusted(context)
    login, context = _logged_in(context, asked_user=asked_user)
    with login.vsphere as connection:
        announce(ctx, context, connection)
        about = connection.vcenter
    before = settings.current()
    written = settings.save(context)
    starter = _starter()
    state = ctx.ensure_object(State)
    output.begin_on(state, context.name, settings.default_name(file_context(None)))
    if not state.json:
        output.line(f"context '{context.name}' written to {written}")
        if before not in (None, context.name):
            output.line(
                f"commands now use '{context.name}', no longer '{before}': "
                f"'gpuvm context use {before}' switches back"
            )
        output.line(f"wrote {starter}" if starter else f"{spec.FILE} is there already: left alone")
        if login.source == settings.PROMPT:
            _offer_keyring(context, login.password)
        output.line("next: 'gpuvm doctor'")
    data = {
        "context": context.name,
        "previous": before,
        "file": str(written),
        "version": about.version,
        "next": "'gpuvm doctor'",
    }
    output.finish(ctx, output.Result("init", data))


def _complete(vcenter: str | None, user: str | None) -> None:
    """Raises BadInput for all that is missing where nothing can be asked."""
    given = {"--vcenter": vcenter, "--user": user}
    missing = [option for option, value in given.items() if not value]
    if missing and not interactive():
        are = "are" if len(missing) > 1 else "is"
        raise BadInput(
            f"{' and '.join(missing)} {are} missing and there is no terminal to ask on",
            hint="the variables of govc, Terraform and Ansible give them too: "
            "docs/configuration.md",
        )


def _ask(what: str, option: str, default: str | None) -> str:
    if not interactive():
        if default:
            return default
        raise BadInput(f"{option} is missing and there is no terminal to ask on")
    return str(typer.prompt(what, default=default))


def _trusted(context: Context) -> Context:
    """The context, with the vCenter's certificate pinned if it is unknown and the user says so.

    It comes before the password: that never goes to a server that is not trusted. Raises Untrusted.
    """
    if isinstance(context.tls, Insecure):
        return context
    certificate = vsphere.rejected_certificate(context)
    if certificate is None:
        return context
    where = settings.authority(*context.address)
    pinnable = certificate.can_be_pinned
    if not isinstance(context.tls, SystemTrust) or not pinnable or not interactive():
        raise Untrusted(
            f"the certificate of {where} is not trusted: {certificate.reason} (issued by "
            f"{certificate.issuer}, for {', '.join(certificate.names) or 'no name'}, SHA-256 "
            f"{certificate.sha256})",
            hint="compare that SHA-256 with the vCenter's own, then "
            + _pinning(context, certificate)
            if pinnable
            else certificate.remedy(*context.address),
        )
    output.line(f"the certificate of {where} is not trusted: {certificate.reason}")
    output.line(f"  issued by  {certificate.issuer}")
    output.line(f"  for        {', '.join(certificate.names) or 'no name'}")
    output.line(f"  SHA-256    {certificate.sha256}")
    output.line("compare the SHA-256 with the one that the vCenter's administrator has")
    if not ask("Trust exactly this certificate?", hint="--sha256"):
        raise Untrusted(
            f"the certificate of {where} is not trusted",
            hint="'gpuvm init' takes the CA's file as --ca-file; a vCenter has it at "
            f"https://{where}/certs/download.zip",
        )
    output.line(f"in a script: {_pinning(context, certificate)}")
    return context.model_copy(update={"tls": Pin(sha256=certificate.sha256)})


def _pinning(context: Context, certificate: vsphere.Certificate) -> str:
    words = ["gpuvm", "init", "--vcenter", context.vcenter, "--user", context.user]
    words += ["--sha256", certificate.sha256]
    if context.name != context.address[0]:
        words += ["--name", context.name]
    if context.password_command:
        words += ["--password-command", context.password_command]
    return f"'{' '.join(map(typed_word, words))}'"


def _logged_in(context: Context, *, asked_user: bool) -> tuple[Login, Context]:
    """Ask again for what was typed and refused, a few times: accounts get locked."""
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return log_in(context), context
        except LoginRefused as error:
            typed = error.wrong_password and error.source == settings.PROMPT
            if not typed or not interactive() or attempt == ATTEMPTS:
                raise
            output.warn(f"{error} (attempt {attempt} of {ATTEMPTS})")
        if asked_user:
            user = str(typer.prompt("User", default=context.user))
            context = context.model_copy(update={"user": user})
    raise AssertionError("the last attempt returns or raises")


def _offer_keyring(context: Context, password: SecretStr) -> None:
    """What was typed once need not be typed for each command."""
    try:
        where = keyrings.backend()
    except NoKeyring:
        return
    if not ask(f"Keep the password in the keyring ({where})?", hint="'gpuvm login'"):
        return
    try:
        keyrings.store(context.server, context.user, password)
    except NoKeyring as error:
        output.warn(f"the password is not kept: {error}")
    else:
        output.line("it is kept: 'gpuvm logout' deletes it")


def _trust(ca_file: Path | None, sha256: str | None, *, insecure: bool) -> TLS:
    if sum((ca_file is not None, sha256 is not None, insecure)) > 1:
        raise BadInput("--ca-file, --sha256 and --insecure exclude each other")
    if ca_file is not None:
        return CAFile(ca_file=ca_file.resolve())
    if sha256 is not None:
        try:
            return Pin(sha256=sha256)
        except ValidationError:
            raise BadInput("--sha256: 64 hex digits are wanted, with or without colons") from None
    return Insecure() if insecure else SystemTrust()


def _context(
    name: str, vcenter: str, user: str, password_command: str | None, trust: TLS
) -> Context:
    try:
        return Context(
            name=name, vcenter=vcenter, user=user, password_command=password_command, tls=trust
        )
    except ValidationError:
        raise BadInput(
            f"--name: {shown(name)} is not a name of letters, digits, dots, hyphens and "
            "underscores, 100 at most"
        ) from None


def _starter() -> Path | None:
    """Writes the commented starter, unless there is a gpuvm.yaml already."""
    if spec.FILE.exists():
        return None
    with suppress(FileExistsError):
        write_new(spec.FILE, resource("templates/gpuvm.yaml").read_bytes())
        return spec.FILE
    return None
