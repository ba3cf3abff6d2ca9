"""gpuvm init: asks for a vCenter, checks it, and writes a context and a starter gpuvm.yaml."""

from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError

from gpuvm import settings, spec
from gpuvm.cli import output
from gpuvm.cli.options import DebugOption, JsonOption
from gpuvm.cli.output import State
from gpuvm.cli.session import announce, connected, interactive
from gpuvm.errors import BadInput
from gpuvm.paths import resource
from gpuvm.settings import TLS, CAFile, Context, Insecure, Pin, SystemTrust


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

    The password itself is never written: it comes from the command, GPUVM_PASSWORD or a prompt.
    """
    vcenter = vcenter or _ask("vCenter host", "--vcenter")
    user = user or _ask("User", "--user")
    trust = _trust(ca_file, sha256, insecure=insecure)
    context = _context(
        name or settings.parse_address(vcenter)[0], vcenter, user, password_command, trust
    )
    with connected(context) as connection:
        announce(ctx, context, connection)
        about = connection.vcenter
    written = settings.save(context)
    starter = _starter()
    if not ctx.ensure_object(State).json:
        output.line(f"context '{context.name}' written to {written}")
        output.line(f"wrote {starter}" if starter else f"{spec.FILE} is there already: left alone")
        output.line("next: 'gpuvm plan --hosts 1'")
    data = {"context": context.name, "file": str(written), "version": about.version}
    output.finish(ctx, output.Result("init", data))


def _ask(what: str, option: str) -> str:
    if not interactive():
        raise BadInput(f"{option} is missing and there is no terminal to ask on")
    return str(typer.prompt(what))


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
            f"--name: '{name}' may hold letters, digits, dots, dashes and underscores"
        ) from None


def _starter() -> Path | None:
    """Writes the commented starter, unless there is a gpuvm.yaml already."""
    if spec.FILE.exists():
        return None
    text = resource("templates/gpuvm.yaml").read_text(encoding="utf-8")
    spec.FILE.write_text(text, encoding="utf-8")
    return spec.FILE
