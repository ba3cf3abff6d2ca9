"""The command line; the only place where an error becomes text and an exit code.

A command is imported only when it runs: ``gpuvm --help`` and shell completion need the names and
summaries, but not pyVmomi, paramiko or matplotlib.
"""

import functools
import io
import logging
import sys
from dataclasses import dataclass
from importlib import import_module
from typing import Any, NoReturn

import typer
from typer.core import TyperCommand, TyperGroup
from typing_extensions import override

import gpuvm
from gpuvm.cli import output
from gpuvm.cli.output import State, command_words
from gpuvm.errors import BadInput, ExitCode, GpuvmError, Interrupted
from gpuvm.text import visible


@dataclass(frozen=True)
class Command:
    """``function`` is in ``gpuvm.cli.<module>``; it is empty if the module has an ``app``.

    ``summary`` repeats the first line of the command's help; a test compares them.
    """

    module: str
    function: str
    summary: str


COMMANDS = {
    "demo": Command(
        "demo",
        "demo",
        "Run the main job from end to end in a simulated vCenter, and show each command.",
    ),
    "init": Command(
        "init",
        "init",
        "Make a vCenter known: ask, log in once to check, write a context and a starter "
        "gpuvm.yaml.",
    ),
    "login": Command(
        "login",
        "login",
        "Keep the vCenter's password in this system's keyring, after a login with it.",
    ),
    "logout": Command("login", "logout", "Delete the vCenter's password from the keyring."),
    "doctor": Command(
        "doctor",
        "run_checks",
        "Check vCenter, account, template, hosts, GPUs, and the plan itself; change nothing.",
    ),
    "gpus": Command(
        "gpus",
        "gpus",
        "List every GPU of the cluster: host, model, state, and the VM that holds it.",
    ),
    "plan": Command("plan", "plan", "Show what provision would do; change nothing."),
    "provision": Command(
        "provision",
        "provision",
        "Clone VMs onto the hosts, give each its GPU and wait until they are ready.",
    ),
    "status": Command(
        "status",
        "status",
        "Show the deployment's VMs: power, address, GPUs in vCenter and in the guest, and drift.",
    ),
    "deployments": Command(
        "deployments",
        "deployments",
        "List every deployment in the vCenter: its VMs, who created them, and when.",
    ),
    "start": Command(
        "power",
        "start",
        "Power on the deployment's VMs that are off, each with a free GPU.",
    ),
    "stop": Command(
        "power",
        "stop",
        "Shut down the deployment's VMs, and free their GPUs and reserved memory.",
    ),
    "run": Command(
        "run", "run", "Push a workload, run it, follow it live, and fetch its logs and timings."
    ),
    "runs": Command(
        "runs",
        "",
        "List the runs: state, workload, VMs, accelerator, time, score, last line of output.",
    ),
    "attach": Command(
        "run_control",
        "attach",
        "Follow a run to its end and fetch its results, from any machine.",
    ),
    "logs": Command("run_control", "logs", "Show what a run has printed so far."),
    "fetch": Command(
        "run_control", "fetch", "Copy what a run has written so far to runs/RUN on this machine."
    ),
    "cancel": Command(
        "run_control",
        "cancel",
        "Cancel a queued or running run in all its guests, and fetch what it wrote.",
    ),
    "ssh": Command(
        "ssh", "ssh", "Open a shell on a VM, or run a command there, with the system's ssh."
    ),
    "exec": Command("exec", "execute", "Run a command on one VM, several or all of them at once."),
    "cp": Command("ssh", "cp", "Copy files and folders to a VM, or from one, as scp does."),
    "forward": Command(
        "ssh",
        "forward",
        "Forward ports of a VM, such as Jupyter's or TensorBoard's, to this machine.",
    ),
    "ssh-config": Command(
        "ssh_config",
        "ssh_config",
        "Make ssh, scp, rsync, git and VS Code connect to the VMs by name.",
    ),
    "export": Command(
        "export",
        "export",
        "Write the running VMs as a SkyPilot, dstack or Ray config, or as SSH host blocks.",
    ),
    "report": Command(
        "report",
        "report",
        "Show a run: phases, rates per VM, losses, scores, samples; write one HTML file.",
    ),
    "compare": Command(
        "compare",
        "compare",
        "Compare runs of one workload: times, speed-up, scores, and different settings.",
    ),
    "tensorboard": Command(
        "tensorboard",
        "tensorboard",
        "Open TensorBoard on the event files of runs, live for runs that go on.",
    ),
    "caption": Command(
        "caption", "caption", "Caption pictures with a trained run, on this machine or on a VM."
    ),
    "studio": Command(
        "studio",
        "serve",
        "Serve a page that makes pictures in another one's style on the VMs, and captions "
        "pictures.",
    ),
    "teardown": Command("teardown", "teardown", "Power off and destroy the deployment's VMs."),
    "lab": Command(
        "lab", "", "A simulated vCenter with GPU hosts and real SSH guests on this machine."
    ),
    "context": Command(
        "context", "", "List the known vCenters, or choose the one that commands use."
    ),
    "passthrough": Command(
        "passthrough", "", "Enable or disable passthrough (DirectPath I/O) of the hosts' GPUs."
    ),
    "help": Command("help", "help_on", "Show what gpuvm can do, or how a command is used."),
    "data": Command(
        "data", "", "List the data that workloads can use, or download it, checked by hash."
    ),
}


class Group(TyperGroup):
    """Finds commands in COMMANDS, and turns errors into text and exit codes.

    It does so in ``invoke``, so that tests with CliRunner get the same text and exit codes.
    """

    @override
    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    @override
    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return a command without its options, for a listing."""
        found = COMMANDS.get(cmd_name)
        return found and TyperCommand(cmd_name, help=found.summary)

    @override
    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Return the real command, to run it."""
        name, stub, rest = super().resolve_command(ctx, args)
        return name, stub and _load(str(name)), rest

    @override
    def parse_args(self, ctx: Any, args: list[str]) -> Any:
        typed = list(args)
        try:
            return super().parse_args(ctx, args)
        except typer.TyperException as error:
            _misused(ctx, typed, error)
            raise

    @override
    def invoke(self, ctx: Any) -> Any:
        typed = [*ctx._protected_args, *ctx.args]
        try:
            return super().invoke(ctx)
        except GpuvmError as error:
            _fail(ctx, error)
        except typer.TyperException as error:
            _misused(ctx, typed, error)
            raise
        except typer.Abort:  # Ctrl-C, or the end of the input, at a question
            _fail(ctx, Interrupted("interrupted: the question was not answered"))
        except KeyboardInterrupt:
            _fail(ctx, Interrupted("interrupted"))
        except BrokenPipeError:
            # The reader of a pipe has exited, as `| head` does; no output can be shown.
            sys.stderr.close()
            raise typer.Exit(ExitCode.DONE) from None
        except OSError as error:
            _fail(ctx, _of_this_machine(error))


def _of_this_machine(error: OSError) -> GpuvmError:
    """A full disk, a folder that may not be written to: where no command has a better word."""
    where = error.filename or "on this machine"
    return GpuvmError(
        f"{where}: {error.strerror or error}", hint="--debug shows where this happened"
    )


@functools.cache
def _load(name: str) -> Any:
    wanted = COMMANDS[name]
    module = import_module(f"gpuvm.cli.{wanted.module}")
    if not wanted.function:
        group = typer.main.get_group(module.app)
        group.name = name
        return group
    alone = typer.Typer(add_completion=False, rich_markup_mode="rich")
    extra = {"allow_extra_args": True, "ignore_unknown_options": False} if name == "run" else None
    alone.command(name, context_settings=extra)(getattr(module, wanted.function))
    return typer.main.get_command(alone)


def _misused(ctx: Any, typed: list[str], error: typer.TyperException) -> None:
    """A usage error is an envelope too where --json was typed, before a "--" at least.

    Values are read by pydantic, whose texts Typer passes on.
    """
    details = getattr(error.__cause__, "errors", None)
    if details is not None:
        from gpuvm.validation import problem_text  # noqa: PLC0415 - it imports pydantic

        error.message = "; ".join(map(problem_text, details()))
    shown = visible(error.format_message())
    error.format_message = lambda: shown  # type: ignore[method-assign]
    ours = typed[: typed.index("--")] if "--" in typed else typed
    if error.exit_code != ExitCode.BAD_INPUT or "--json" not in ours:
        return
    state = ctx.ensure_object(State)
    at = getattr(error, "ctx", None) or ctx
    state.json, state.command = True, " ".join(command_words(at))
    _fail(ctx, BadInput(error.format_message(), hint=f"{at.command_path} --help"))


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
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="""Run TensorFlow on a vSphere cluster with NVIDIA GPUs.

[bold]Examples[/]

    gpuvm demo                            everything below, in a simulated vCenter

    gpuvm init                            your vCenter, once

    gpuvm doctor                          check what it has and what is missing

    gpuvm gpus                            every GPU, and the VM that holds it

    gpuvm provision --hosts 4             one VM with a GPU on each of four hosts

    gpuvm run captioning --distributed    train over all of them

    gpuvm run ./train.py -- --epochs 3    run your own code, and fetch its results

    gpuvm runs                            all runs; see also attach, logs, fetch, cancel

    gpuvm report                          timings, losses, captions

    gpuvm tensorboard                     the curves of all runs, live

    gpuvm stop                            free the GPUs until 'gpuvm start'

    gpuvm teardown                        destroy the VMs
""",
)


def _version(value: bool) -> None:
    if value:
        output.line(f"gpuvm {gpuvm.__version__}")
        raise typer.Exit


@app.callback()
def root(
    ctx: typer.Context,
    debug: bool = typer.Option(False, "--debug", help="Show tracebacks and debug messages."),
    version: bool = typer.Option(
        False, "--version", help="Show the version.", callback=_version, is_eager=True
    ),
) -> None:
    from rich.logging import RichHandler  # noqa: PLC0415 - slow to import

    state = ctx.ensure_object(State)
    state.debug = state.debug or debug
    logging.basicConfig(
        level=logging.DEBUG if state.debug else logging.WARNING,
        format="%(name)s: %(message)s",
        handlers=[RichHandler(console=output.stderr, show_path=False)],
        force=True,
    )
    # SOAP bodies and SSH packets may contain secrets: they are never logged, even with --debug.
    for noisy in ("pyVmomi", "paramiko", "matplotlib", "keyring"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def main() -> None:
    for stream in (sys.stdout, sys.stderr):
        # A terminal that is not UTF-8 gets escapes for what it cannot show, and not a traceback.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    app()
