"""gpuvm passthrough: enables and disables DirectPath I/O of the hosts' GPUs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

import typer

from gpuvm import lifecycle
from gpuvm.cli import output, progress
from gpuvm.cli.gpus import gpu_json
from gpuvm.cli.options import ClusterOptions, YesOption, grouped
from gpuvm.cli.output import State
from gpuvm.cli.session import confirm, open_session
from gpuvm.cli.tables import Prose
from gpuvm.errors import BadInput, ExitCode, GpuvmError
from gpuvm.events import Events
from gpuvm.lifecycle import SwitchResult

app = typer.Typer(
    no_args_is_help=True,
    help="""Enable or disable passthrough (DirectPath I/O) of the hosts' GPUs.

[bold]Examples[/]

    gpuvm passthrough enable esx-01.example.com

    gpuvm passthrough enable --all --reboot

    gpuvm passthrough disable esx-01.example.com

Passthrough is set for the device that the GPU depends on. It takes effect at once if the host
supports that, otherwise after a reboot; the command shows the resulting state. Hosts are rebooted
only with --reboot, one at a time and never by force. A host enters maintenance mode first, and DRS
migrates its VMs if it is fully automated: you are asked first, with their names. If a VM cannot be
migrated, the reason is shown and the host is not changed.
""",
)

Hosts = Annotated[list[str] | None, typer.Argument(help="Names of hosts.", metavar="[HOST]…")]
AllOption = Annotated[bool, typer.Option("--all", help="Every host that has a GPU.")]
GPUOption = Annotated[
    list[str] | None,
    typer.Option(
        "--gpu",
        help="Only this GPU, and those on the same dependent device; can be repeated.",
        metavar="ADDRESS",
    ),
]
RebootOption = Annotated[
    bool,
    typer.Option("--reboot", help="If needed, reboot the hosts in maintenance mode."),
]

LeaveOption = Annotated[
    bool,
    typer.Option(
        "--leave-maintenance",
        help="Also take hosts out of maintenance mode that were in it before.",
    ),
]


@dataclass(frozen=True)
class SwitchOptions:
    hosts: Hosts = None
    every: AllOption = False
    gpu: GPUOption = None
    reboot: RebootOption = False
    leave: LeaveOption = False
    yes: YesOption = False

    def names(self) -> Sequence[str]:
        """Return the hosts' names, or none for all hosts. Raises BadInput."""
        if self.hosts and self.every:
            raise BadInput("--all and host names exclude each other")
        if not self.hosts and not self.every:
            raise BadInput("give host names, or --all", hint="'gpuvm gpus' lists the hosts")
        return self.hosts or ()


@app.command("enable")
@grouped
def enable(ctx: typer.Context, switch: SwitchOptions, options: ClusterOptions) -> None:
    """Enable passthrough of GPUs, so that VMs can use them.

    [bold]Examples[/]

        gpuvm passthrough enable esx-01.example.com

        gpuvm passthrough enable esx-01.example.com --gpu 0000:3b:00.0

        gpuvm passthrough enable --all --reboot --yes

    A GPU that a running VM uses, by passthrough or as vGPU, is not changed.
    """
    _switch(ctx, switch, options, enabled=True)


@app.command("disable")
@grouped
def disable(ctx: typer.Context, switch: SwitchOptions, options: ClusterOptions) -> None:
    """Disable passthrough of GPUs, as vGPU requires.

    [bold]Example[/]

        gpuvm passthrough disable esx-01.example.com --reboot

    A GPU that a running VM uses, by passthrough or as vGPU, is not changed.
    """
    _switch(ctx, switch, options, enabled=False)


def _switch(
    ctx: typer.Context, switch: SwitchOptions, options: ClusterOptions, *, enabled: bool
) -> None:
    names, gpus, wanted = switch.names(), tuple(switch.gpu or ()), options.spec()
    state = ctx.ensure_object(State)
    events = Events()
    command = f"passthrough {'enable' if enabled else 'disable'}"
    with open_session(ctx, options.context, wanted.context) as session:
        vcenter = session.vsphere
        read = partial(lifecycle.read_inventory, wanted, vcenter, query_targets="all")
        chosen = lifecycle.choose_hosts(names, read(), gpus)
        question = f"{command} on {', '.join(host.name for host in chosen)}"
        if switch.reboot:
            moved = lifecycle.moved_first(chosen, vcenter, enabled=enabled, gpus=gpus)
            question += f", rebooting them where needed{_moves(moved)}"
        question += "?"
        if not confirm(session.context, question, yes=switch.yes):
            output.declined(ctx, command)
            return
        with progress.shown(events, state):
            switched = lifecycle.switch_passthrough(
                chosen,
                vcenter,
                read,
                events,
                enabled=enabled,
                gpus=gpus,
                reboot=switch.reboot,
                leave_maintenance=switch.leave,
            )
    if not state.json:
        _print_results(switched, switch, enabled=enabled)
    data = {
        "changed": any(one.changed for one in switched),
        "gpus": [gpu_json(one.gpu) | _gpu_json(one) for one in switched],
    }
    output.finish(ctx, output.Result(command, data, _exit_code(switched), _errors(switched)))


def _moves(moved: Mapping[str, Sequence[str]]) -> str:
    """List the VMs to be migrated, because they may belong to other people."""
    each = [f"{', '.join(names)} from {host}" for host, names in moved.items()]
    return f"; DRS first moves these running VMs to other hosts: {'; '.join(each)}" if each else ""


def _gpu_json(one: SwitchResult) -> dict[str, Any]:
    return {"done": one.done, "host_in_maintenance_mode": one.in_maintenance_mode}


def _print_results(
    switched: Sequence[SwitchResult], switch: SwitchOptions, *, enabled: bool
) -> None:
    rows = [
        (one.gpu.host, one.gpu.pci_address, one.gpu.name, "failed" if one.error else one.state)
        for one in switched
    ]
    output.table(("HOST", "GPU", Prose("MODEL"), Prose("STATE")), rows)
    pending = {one.gpu.host for one in switched if not one.done and one.error is None}
    for host in dict.fromkeys(one.gpu.host for one in switched if one.in_maintenance_mode):
        command = lifecycle.continue_hint(host, enabled=enabled, gpus=tuple(switch.gpu or ()))
        output.warn(f"{host} is in maintenance mode: {command} takes it out of it")
    if pending and not switch.reboot:
        output.line(f"a reboot is pending on {', '.join(sorted(pending))}: --reboot does it")
    elif not any(one.changed or one.error for one in switched):
        output.line("nothing to do: passthrough is already in that state")


def _errors(switched: Sequence[SwitchResult]) -> tuple[GpuvmError, ...]:
    """Return one error per host, for any number of GPUs."""
    by_host = {one.gpu.host: one.error for one in switched if one.error is not None}
    return tuple(by_host.values())


def _exit_code(switched: Sequence[SwitchResult]) -> ExitCode:
    """Return 10 for a pending reboot, as for any other pending change."""
    failed = [one for one in switched if one.error is not None]
    if failed:
        alone = failed[0].error if len(_errors(switched)) == 1 else None
        every = len(failed) == len(switched)
        if not every:
            return ExitCode.PARTLY_DONE
        return alone.exit_code if alone is not None else ExitCode.FAILED
    return ExitCode.DONE if all(one.done for one in switched) else ExitCode.CHANGES_PENDING
