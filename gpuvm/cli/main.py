"""The command line; the one place where an error becomes text and an exit code."""

import logging
import sys
from typing import Any, NoReturn

import typer
from rich.logging import RichHandler
from typer.core import TyperGroup
from typing_extensions import override

import gpuvm
from gpuvm.cli import (
    caption,
    data,
    demo,
    doctor,
    gpus,
    init,
    lab,
    output,
    passthrough,
    plan,
    power,
    provision,
    report,
    run,
    status,
    teardown,
)
from gpuvm.cli import context as context_command
from gpuvm.cli.output import State
from gpuvm.errors import ExitCode, GpuvmError, Interrupted


class Group(TyperGroup):
    """Overrides ``invoke`` so that tests with CliRunner see the same text and exit codes."""

    @override
    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except GpuvmError as error:
            _fail(ctx, error)
        except KeyboardInterrupt:
            _fail(ctx, Interrupted("interrupted"))
        except BrokenPipeError:
            # The reader of a pipe went away, as `| head` does; nothing is left to say it to.
            sys.stderr.close()
            raise typer.Exit(ExitCode.DONE) from None


def _fail(ctx: Any, error: GpuvmError) -> NoReturn:
    state = ctx.ensure_object(State)
    if state.debug:
        logging.getLogger("gpuvm").debug("traceback", exc_info=error)
    output.error(error, state)
    raise typer.Exit(error.exit_code)


app = typer.Typer(
    cls=Group,
    name="gpuvm",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="""Turn a vSphere cluster with NVIDIA GPUs into a place where TensorFlow runs.

[bold]Examples[/]

    gpuvm demo                            everything below, in a simulated vCenter

    gpuvm init                            your vCenter, once

    gpuvm doctor                          what it has, and what stands in the way

    gpuvm gpus                            every GPU, and who holds it

    gpuvm provision --hosts 4             one VM with a GPU on each of four hosts

    gpuvm run captioning --distributed    train over all of them

    gpuvm report                          timings, losses, captions

    gpuvm stop                            free the GPUs; 'gpuvm start' continues

    gpuvm teardown                        all of it gone again
""",
)


def _version(value: bool) -> None:
    if value:
        output.line(f"gpuvm {gpuvm.__version__}")
        raise typer.Exit


@app.callback()
def root(
    ctx: typer.Context,
    debug: bool = typer.Option(False, "--debug", help="Show tracebacks and what is going on."),
    version: bool = typer.Option(
        False, "--version", help="Show the version.", callback=_version, is_eager=True
    ),
) -> None:
    state = ctx.ensure_object(State)
    state.debug = state.debug or debug
    logging.basicConfig(
        level=logging.DEBUG if state.debug else logging.WARNING,
        format="%(name)s: %(message)s",
        handlers=[RichHandler(console=output.stderr, show_path=False)],
        force=True,
    )
    # Bodies of SOAP requests and packets of SSH may hold secrets: never shown, not even here.
    for noisy in ("pyVmomi", "paramiko", "matplotlib"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


app.command("demo")(demo.demo)
app.add_typer(lab.app, name="lab")
app.command("init")(init.init)
app.add_typer(context_command.app, name="context")
app.command("doctor")(doctor.run_checks)
app.command("gpus")(gpus.gpus)
app.add_typer(passthrough.app, name="passthrough")
app.command("plan")(plan.plan)
app.command("provision")(provision.provision)
app.command("status")(status.status)
app.command("start")(power.start)
app.command("stop")(power.stop)
app.command("run", context_settings={"allow_extra_args": True, "ignore_unknown_options": False})(
    run.run
)
app.add_typer(data.app, name="data")
app.command("report")(report.report)
app.command("caption")(caption.caption)
app.command("teardown")(teardown.teardown)


def main() -> None:
    app()
