"""gpuvm doctor: checks whether a vCenter meets gpuvm's requirements, with hints."""

from json import dumps
from pathlib import Path
from typing import Annotated, Any

import typer

from gpuvm import doctor, lifecycle, privileges, spec
from gpuvm.cli import output
from gpuvm.cli.options import SpecOptions, grouped
from gpuvm.cli.output import State
from gpuvm.cli.session import open_session
from gpuvm.doctor import Check, CheckInput, TrialPlan
from gpuvm.errors import BadInput, ExitCode
from gpuvm.files import write_output
from gpuvm.inventory import Inventory
from gpuvm.privileges import Required

MARKS = {
    "ok": ("ok", "green"),
    "warning": ("warning", "yellow"),
    "failure": ("failure", "bold red"),
}


@grouped
def run_checks(
    ctx: typer.Context,
    *,
    options: SpecOptions,
    report: Annotated[
        Path | None,
        typer.Option(
            "--report",
            help="Write an anonymous report, to attach to an issue.",
            metavar="FILE",
        ),
    ] = None,
) -> None:
    """Check vCenter, account, template, hosts, GPUs, and the plan itself; change nothing.

    [bold]Examples[/]

        gpuvm doctor

        gpuvm doctor --hosts 4 --accelerator dynamic --json

        gpuvm doctor --report site.json

    The report has versions, counts and failed checks, but no names, addresses, ids or paths.
    Exit code 0: no check failed; 3: a check failed, and its line has a hint.
    """
    wanted = options.spec()
    with open_session(ctx, options.context, wanted.context) as session:
        inventory = lifecycle.read_inventory(wanted, session.vsphere, query_targets="all")
        trial = doctor.make_trial_plan(wanted, inventory)
        given = CheckInput(
            wanted,
            inventory,
            trial,
            missing=session.vsphere.missing_privileges(_required(wanted, inventory, trial)),
            tls=session.context.tls.verify,
            licences=session.vsphere.read_licences(),
        )
    checks = doctor.run_checks(given)
    if report is not None:
        _write(report, doctor.anonymous(given, checks))
    if not ctx.ensure_object(State).json:
        for check in checks:
            _print_check(check)
    failed = any(check.level == "failure" for check in checks)
    code = ExitCode.PREFLIGHT_REFUSED if failed else ExitCode.DONE
    data = {"checks": [vars(check) for check in checks]}
    again = "do what the failures say, then 'gpuvm doctor' again"
    next_step = again if failed else "'gpuvm plan'"
    output.finish(ctx, output.Result("doctor", data, code, next_step=next_step))


def _write(file: Path, anonymous: dict[str, Any]) -> None:
    try:
        write_output(file, dumps(anonymous, indent=2) + "\n")
    except OSError as error:
        raise BadInput(f"--report: cannot write {file}: {error.strerror}") from None


def _required(wanted: spec.ClusterSpec, inventory: Inventory, trial: TrialPlan) -> Required:
    return privileges.merged(
        privileges.to_provision(wanted, inventory, trial.used),
        privileges.to_cancel(trial.used),
        privileges.to_move(wanted, inventory),
        privileges.to_prepare_hosts(inventory),
    )


def _print_check(check: Check) -> None:
    output.marked(MARKS[check.level], f"{check.name}: {check.text}", check.hint)
