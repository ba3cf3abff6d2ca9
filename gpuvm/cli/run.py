"""gpuvm run: a workload on one VM, or distributed over all of them."""

import enum
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from gpuvm import data as data_files
from gpuvm import lifecycle, results, runs
from gpuvm.cli import completion, output, targets
from gpuvm.cli.options import DeploymentOptions, FetchLimitOption, YesOption, grouped
from gpuvm.cli.run_control import finish_run
from gpuvm.cli.run_job import CompareOptions, DistributedOptions, Job
from gpuvm.cli.session import confirm, open_session
from gpuvm.errors import BadInput
from gpuvm.files import read_text
from gpuvm.runs import sweep as sweeps
from gpuvm.text import counted

ASK_BYTES = 1 << 30
"""A project that is larger is sent only after a question."""
ENV_FILE_KIB = 128
LONGEST_WORD_KIB, ALL_WORDS_KIB = 120, 1024
"""Linux starts no program with an argument or variable of 128 KiB, nor with all too long."""


class Then(enum.StrEnum):
    SHUTDOWN = "shutdown"


@grouped
def run(
    ctx: typer.Context,
    name: Annotated[
        str | None,
        typer.Argument(
            help="A shipped workload, or the path of a script; with --project any command.",
            metavar="WORKLOAD",
            autocompletion=completion.workloads,
        ),
    ] = None,
    arguments: Annotated[
        list[str] | None, typer.Argument(help="After --: for the program.", metavar="[-- ARGS]...")
    ] = None,
    project: Annotated[
        Path | None,
        typer.Option("--project", help="Run the command in a copy of this folder.", metavar="DIR"),
    ] = None,
    requirements: Annotated[
        Path | None,
        typer.Option(
            "--requirements",
            help="Packages it needs beyond the template's; default: requirements.txt or "
            "pyproject.toml of the project.",
            metavar="FILE",
        ),
    ] = None,
    wheelhouse: Annotated[
        Path | None,
        typer.Option(
            "--wheelhouse", help="Wheels for guests without a package index.", metavar="DIR"
        ),
    ] = None,
    env: Annotated[
        list[str] | None,
        typer.Option("--env", "-e", help="A variable for the program.", metavar="NAME=VALUE"),
    ] = None,
    env_file: Annotated[
        Path | None,
        typer.Option("--env-file", help="Lines NAME=VALUE.", metavar="FILE"),
    ] = None,
    secret: Annotated[
        list[str] | None,
        typer.Option(
            "--secret",
            help="Hand over a variable of this environment; its value is written nowhere.",
            metavar="NAME",
        ),
    ] = None,
    distributed: Annotated[
        bool, typer.Option("--distributed", help="One run over all VMs together.")
    ] = False,
    sweep: Annotated[
        bool,
        typer.Option("--sweep", help="The workload's grid (style has one), shared by all VMs."),
    ] = False,
    vms: Annotated[
        list[str] | None,
        typer.Option(
            "--vm",
            help="Only on this VM; may be repeated.",
            metavar="NAME",
            autocompletion=completion.vms,
        ),
    ] = None,
    resume: Annotated[
        str | None,
        typer.Option(
            help="Continue from this run's last checkpoint.",
            metavar="RUN-ID",
            autocompletion=completion.runs,
        ),
    ] = None,
    detach: Annotated[
        bool, typer.Option("--detach", "-d", help="Return once it has started; see 'gpuvm runs'.")
    ] = False,
    queue: Annotated[
        bool, typer.Option("--queue", help="Wait in the guests until their GPUs are free.")
    ] = False,
    share: Annotated[
        bool, typer.Option("--share", help="Run beside what already runs on the same GPUs.")
    ] = False,
    ignore_health: Annotated[
        bool, typer.Option("--ignore-gpu-health", help="Run on a GPU that reports errors too.")
    ] = False,
    then: Annotated[
        Then | None, typer.Option("--then", help="What its guests do when it has ended.")
    ] = None,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Do not show what it prints.")
    ] = False,
    fetch_limit: FetchLimitOption = "2G",  # type: ignore[assignment]  # typer parses it
    *,
    together: DistributedOptions,
    compare: CompareOptions,
    yes: YesOption = False,
    options: DeploymentOptions,
) -> None:
    """Push a workload, run it, follow it live, and fetch its logs and timings.

    [bold]Examples[/]

        gpuvm run captioning --distributed

        gpuvm run captioning --vm gpuvm-01 -- --steps 200

        gpuvm run style --sweep

        gpuvm run stock -- --data @./data_stocks.csv

        gpuvm run captioning -- --data @./flickr8k/

        gpuvm run ./train.py -- --epochs 3

        gpuvm run --project . --secret HF_TOKEN -- python -m mine.train

        gpuvm run captioning --distributed --detach --then shutdown

        gpuvm run stock --compare none --repeat 3

    Without --distributed it runs on the first VM. Results go to runs/RUN-ID/: of a script or
    project everything that it wrote beside itself or to $GPUVM_OUT (docs/your-own-code.md).
    """
    if queue and share:
        raise BadInput("--queue and --share exclude each other")
    if detach and sweep:
        raise BadInput("--detach: a sweep gathers its sheet when all VMs have ended; leave it out")
    run_options = runs.RunOptions(
        gpu="queue" if queue else "share" if share else "exclusive",
        then="shutdown" if then else None,
        detach=detach,
        healthy=not ignore_health,
        max_restarts=together.max_restarts,
        rejoin_s=together.rejoin_s,
        fetch_limit=None if fetch_limit < 0 else fetch_limit,
        environment=_variables(env or [], env_file, secret or []),
    )
    compare.check(run_options, sweep=sweep, distributed=distributed)
    chosen, arguments = _chosen(name, arguments or [], project, requirements)
    _check_lengths([*arguments, *chosen.command], run_options.environment)
    shared = sweeps.shared_out(chosen, arguments, sweep=sweep, distributed=distributed)
    distributed = distributed and not shared
    strategy = together.choose(chosen, distributed=distributed, detach=detach)
    if sweep and shared:
        arguments = sweeps.with_grid(shared, arguments)
    wanted = options.spec()
    before = results.load(resume) if resume else None
    with open_session(ctx, options.context, wanted.context) as session:
        inventory = lifecycle.read_inventory(wanted, session.vsphere)
        taking_part = targets.members(
            session, inventory, wanted, vms, every=distributed or bool(shared)
        )
        other = (
            targets.members(session, inventory, wanted, [compare.vm], every=False)
            if compare.vm
            else []
        )
    if distributed and len(taking_part) < 2:
        raise targets.too_few(inventory.ours(wanted.name), wanted.name, vms)
    arguments, inputs = runs.with_data(arguments)
    if wheelhouse is not None:
        wheels = _wheels(wheelhouse)
        inputs[wheels.place] = wheels.source
        run_options = replace(run_options, wheelhouse=f"{runs.DATA}/{wheels.place}")
    if chosen.own and chosen.size > ASK_BYTES:
        question = (
            f"{chosen.root} has {chosen.size / 1e9:.1f} GB in "
            f"{counted(len(chosen.files), 'file')}; send it? "
            f"(.gpuvmignore leaves files out, and @FOLDER in an argument sends data once)"
        )
        if not confirm(session.context, question, yes=yes):
            output.declined(ctx, "run")
            return
    job = Job(
        ctx,
        chosen,
        arguments,
        inventory,
        wanted,
        session.context.guest,
        distributed=distributed,
        strategy=strategy,
        resume=before,
        inputs=inputs,
        grid=shared,
        options=run_options,
        quiet=quiet,
    )
    if compare.wanted:
        job.compare(taking_part, other, compare.repeat)
        return
    record, events, ended = job.run(taking_part)
    if sweep and shared:
        events.note(f"contact sheet: {sweeps.gather(chosen, shared, record)}")
    finish_run(ctx, "run", record, ended=ended)


def _chosen(
    name: str | None, arguments: list[str], project: Path | None, requirements: Path | None
) -> tuple[runs.Workload, list[str]]:
    """The workload and its arguments; those of a command in a project are part of it."""
    if name is None:
        what = "its command follows '--'" if project else "name a workload or a script"
        raise BadInput(f"nothing to run: {what}", hint="'gpuvm run --help' has examples")
    if requirements is not None and not requirements.is_file():
        raise BadInput(f"--requirements {requirements}: no such file")
    if project is None:
        chosen = runs.find(name)
    else:
        chosen, arguments = runs.of_project(project, [name, *arguments]), []
    if requirements is not None:
        if not chosen.own:
            raise BadInput("--requirements: only a script or project of your own has them")
        chosen = replace(chosen, requirements=requirements.absolute(), requires=())
    return chosen, arguments


def _variables(pairs: Sequence[str], file: Path | None, secrets: Sequence[str]) -> dict[str, str]:
    """The program's variables, from --env-file, --env and --secret in this order."""
    found: dict[str, str] = {}
    if file is not None:
        lines = read_text(file, limit_kib=ENV_FILE_KIB, option="--env-file").splitlines()
        for number, line in enumerate(lines, 1):
            if line.strip() and not line.lstrip().startswith("#"):
                found |= _variable(line.strip(), f"{file}:{number}")
    for pair in pairs:
        found |= _variable(pair, "--env")
    for name in secrets:
        if name not in os.environ:
            raise BadInput(f"--secret {name}: this environment has no such variable")
        found[name] = os.environ[name]
    return found


def _variable(pair: str, where: str) -> dict[str, str]:
    name, equals, value = pair.partition("=")
    if not equals or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
        # Without the text itself, which may be a secret.
        raise BadInput(f"{where}: not of the form NAME=VALUE")
    return {name: value}


def _check_lengths(words: Sequence[str], variables: Mapping[str, str]) -> None:
    """Refuse here what no guest could start; the texts are not shown, they may be secrets."""
    given = [*words, *(f"{name}={value}" for name, value in variables.items())]
    sizes = [len(os.fsencode(word)) // 1024 for word in given]
    if max(sizes, default=0) >= LONGEST_WORD_KIB or sum(sizes) >= ALL_WORDS_KIB:
        raise BadInput(
            f"the arguments and variables are too long to start a program with: at most "
            f"{LONGEST_WORD_KIB} KiB each and {ALL_WORDS_KIB} KiB together",
            hint="write them to a file, which @FILE sends",
        )


def _wheels(folder: Path) -> data_files.Named:
    if not folder.is_dir():
        raise BadInput(f"--wheelhouse {folder}: no such folder")
    if not list(folder.glob("*.whl")):
        raise BadInput(f"--wheelhouse {folder}: no wheel (*.whl) in this folder")
    named = data_files.resolve(f"@{folder}/")
    assert named is not None  # noqa: S101 - it begins with @
    return named
