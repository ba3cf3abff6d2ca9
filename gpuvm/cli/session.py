"""Connects to the vCenter that a command uses, and prints which one it is."""

import getpass
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import typer
from pydantic import SecretStr

from gpuvm import locks, paths, settings, vsphere
from gpuvm.cli import output
from gpuvm.cli.output import State
from gpuvm.errors import BadInput, DeploymentBusy, LoginRefused
from gpuvm.locks import Holder
from gpuvm.settings import Context, Insecure
from gpuvm.text import visible
from gpuvm.vsphere import VSphere


@dataclass(frozen=True)
class Session:
    context: Context
    vsphere: VSphere


@contextmanager
def open_session(
    ctx: typer.Context, name: str | None, of_file: str | None = None, *, announced: bool = True
) -> Iterator[Session]:
    """Connect and print the command's first line, unless standard output is for data."""
    context = settings.load(name, of_file)
    output.begin_on(ctx.ensure_object(State), context.name, settings.default_name(of_file))
    with connected(context) as connection:
        announce(ctx, context, connection, line=announced)
        yield Session(context, connection)


@contextmanager
def exclusive(
    ctx: typer.Context, session: Session, deployment: str, *, wait: bool
) -> Iterator[None]:
    """No other command of this machine changes the deployment meanwhile.

    Raises DeploymentBusy, or waits for the other one. Against other machines, the vCenter decides:
    names are unique in a folder.
    """

    def busy(holder: Holder | None) -> None:
        who = str(holder) if holder else "one that has just begun"
        if not wait:
            raise DeploymentBusy(deployment, who)
        output.note(f"waiting for another command on '{deployment}': {who}")

    name = f"{session.vsphere.vcenter.instance_uuid}-{deployment}.lock"
    command = f"gpuvm {ctx.ensure_object(State).command}"
    with locks.held(paths.state_dir() / "locks" / name, command, busy):
        yield


@contextmanager
def connected(context: Context) -> Iterator[VSphere]:
    with connect(context) as connection:
        yield connection


@dataclass(frozen=True)
class Login:
    """A connection, and the password that it was opened with."""

    vsphere: VSphere
    password: SecretStr
    source: str


def connect(context: Context) -> VSphere:
    """Raises as ``log_in``."""
    return log_in(context).vsphere


def log_in(context: Context) -> Login:
    """Raises LoginRefused, which says where the refused password came from."""
    ask = getpass.getpass if interactive() else None
    password, source = settings.find_password(context, ask)
    return log_in_with(context, password, source)


def log_in_with(context: Context, password: SecretStr, source: str) -> Login:
    """Raises LoginRefused, which says where the refused password came from."""
    try:
        return Login(vsphere.connect(context, password), password, source)
    except LoginRefused as error:
        kept = source == settings.KEYRING and error.wrong_password
        raise LoginRefused(
            f"{error}; the password is from {source}",
            hint="'gpuvm login' keeps another one in the keyring" if kept else error.hint,
            wrong_password=error.wrong_password,
            source=source,
        ) from None


def announce(
    ctx: typer.Context, context: Context, connection: VSphere, *, line: bool = True
) -> None:
    state = ctx.ensure_object(State)
    about = connection.vcenter
    state.vcenter = about.name
    if isinstance(context.tls, Insecure):
        output.warn("the certificate of this vCenter is NOT verified (tls.verify: insecure)")
    if line and not state.json:
        host, port = context.address
        output.line(
            f"vCenter: {about.name} {about.version}, {host}:{port} (context {context.name})"
        )


def interactive() -> bool:
    closed = sys.stdin is None  # as by `<&-`
    return not closed and sys.stdin.isatty() and sys.stderr.isatty()


def confirm(context: Context, question: str, *, yes: bool) -> bool:
    """Ask for confirmation, unless --yes or the context disables it.

    Raises BadInput without a terminal.
    """
    if yes or not context.confirm:
        return True
    return ask(question, hint="use --yes, or 'confirm: false' in the context")


def ask(question: str, *, hint: str) -> bool:
    """Ask a yes-no question. Raises BadInput without a terminal."""
    if not interactive():
        raise BadInput(f"no terminal to ask on: {question}", hint=hint)
    return typer.confirm(visible(question), default=False, err=True)
