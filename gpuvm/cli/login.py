"""gpuvm login and gpuvm logout: the account's password in the system's keyring."""

import getpass
import sys
from contextlib import suppress
from typing import Annotated

import typer
from pydantic import SecretStr

from gpuvm import keyrings, settings
from gpuvm.cli import output
from gpuvm.cli.options import ContextOption, DebugOption, JsonOption, file_context
from gpuvm.cli.output import State
from gpuvm.cli.session import announce, interactive, log_in_with
from gpuvm.errors import BadInput
from gpuvm.settings import Context

LONGEST = 4096
"""Characters of a password; standard input may be anything."""


def login(
    ctx: typer.Context,
    context: ContextOption = None,
    password_stdin: Annotated[
        bool, typer.Option("--password-stdin", help="Read it from standard input, one line.")
    ] = False,
    json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Keep the vCenter's password in this system's keyring, after a login with it.

    [bold]Examples[/]

        gpuvm login

        gpuvm login -c vc.example.com

        pass show vcenter | gpuvm login --password-stdin

    It is asked for at the terminal and stored only if the vCenter accepts it. A context's
    password_command and the variables of the environment come before the keyring.
    """
    chosen = _chosen(ctx, context)
    where = keyrings.backend()
    password, source = _from_stdin() if password_stdin else _typed(chosen)
    with log_in_with(chosen, password, source).vsphere as connection:
        announce(ctx, chosen, connection)
    keyrings.store(chosen.server, chosen.user, password)
    first = _comes_first(chosen)
    if first:
        output.warn(f"the keyring is not used for this context: {first} comes first")
    if not ctx.ensure_object(State).json:
        output.line(f"the password of {chosen.user} at {chosen.server} is in the keyring ({where})")
    data = {"context": chosen.name, "user": chosen.user, "keyring": where, "used": not first}
    output.finish(ctx, output.Result("login", data))


def logout(
    ctx: typer.Context,
    context: ContextOption = None,
    json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Delete the vCenter's password from the keyring.

    [bold]Examples[/]

        gpuvm logout

        gpuvm logout -c vc.example.com
    """
    chosen = _chosen(ctx, context)
    deleted = keyrings.delete(chosen.server, chosen.user)
    if not ctx.ensure_object(State).json:
        whose = f"{chosen.user} at {chosen.server}"
        output.line(
            f"the password of {whose} is deleted from the keyring"
            if deleted
            else f"nothing to do: the keyring has no password of {whose}"
        )
    output.finish(ctx, output.Result("logout", {"context": chosen.name, "changed": deleted}))


def forget(name: str) -> None:
    """Delete the password of a context that is removed, unless another one has that account."""
    with suppress(BadInput):  # no keyring, or a context that cannot be read
        gone = settings.load(name)
        others = [settings.load(other) for other in settings.names() if other != name]
        account = gone.server, gone.user
        if gone.password_command is None and account not in [(o.server, o.user) for o in others]:
            keyrings.delete(*account)


def _chosen(ctx: typer.Context, name: str | None) -> Context:
    of_file = file_context(None)
    context = settings.load(name, of_file)
    output.begin_on(ctx.ensure_object(State), context.name, settings.default_name(of_file))
    return context


def _typed(context: Context) -> tuple[SecretStr, str]:
    if not interactive():
        raise BadInput(
            f"no terminal to ask for the password of {context.user} on",
            hint="'gpuvm login --password-stdin' reads it from standard input",
        )
    typed = getpass.getpass(f"Password for {context.user} at {context.server}: ")
    if not typed:
        raise BadInput("no password was typed: nothing was changed")
    return SecretStr(typed), settings.PROMPT


def _from_stdin() -> tuple[SecretStr, str]:
    line = sys.stdin.readline(LONGEST).rstrip("\r\n")
    if not line:
        raise BadInput("standard input has no password: nothing was changed")
    return SecretStr(line), "standard input"


def _comes_first(context: Context) -> str | None:
    """What a command takes the password from before it looks into the keyring."""
    if context.password_command:
        return settings.COMMAND
    given = settings.in_environment(context)
    return given and given[1]
