"""gpuvm passthrough: switches DirectPath I/O of the hosts' GPUs on and off."""

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
from gpuvm.errors import BadInput, ExitCode, GpuvmError
from gpuvm.events import Events
from gpuvm.lifecycle import SwitchResult

app = typer.Typer(
    no_args_is_help=True,
    help="""Switch passthrough (DirectPath I/O) of the hosts' GPUs on or off.

[bold]Examples[/]

    gpuvm passthrough enable esx-01.example.com

    gpuvm passthrough enable --all --reboot

    gpuvm passthrough disable esx-01.example.com

It is set for the device that the GPU depends on, takes effect at once where the host can do that,
is read back, and the answer is what is: active, reboot pending, or why not. A host is rebooted only
with --reboot, one host at a time, and never by force. It enters maintenance mode first: where DRS
is fully automated that moves the VMs which run there, and you are asked with their names; a VM that
is not moved is named with the reason, and the host is left as it is.
""",
)

Hosts = Annotated[list[str] | None, typer.Argument(help="Names of hosts.", metavar="[HOST]…")]
AllOption = Annotated[bool, typer.Option("--all", help="Every host that has a GPU.")]
GPUOption = Annotated[
    list[str] | None,
    typer.Option(
        "--gpu",
        help="Only this card, and those that are switched with it; can be repeated.",
        metavar="ADDRESS",
    ),
]
RebootOption = Annotated[
    bool,
    typer.Option("--reboot", help="Maintenance mode, reboot, and back, where that is needed."),
]

LeaveOption = Annotated[
    bool,
    typer.Option(
        "--leave-maintenance",
        help="Take hosts out of maintenance mode that were in it before; else they stay in it.",
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
        """Of the hosts; none for all of them. Raises BadInput."""
        if bool(self.hosts) == self.every:
            raise BadInput("name the hosts, or use --all", hint="'gpuvm gpus' lists them")
        return self.hosts or ()


@app.command("enable")
@grouped
def enable(ctx: typer.Context, switch: SwitchOptions, options: ClusterOptions) -> None:
    """Give the hosts' GPUs to VMs.

    [bold]Examples[/]

        gpuvm passthrough enable esx-01.example.com

        gpuvm passthrough enable esx-01.example.com --gpu 0000:3b:00.0

        gpuvm passthrough enable --all --reboot --yes

    A card that a VM runs with, passed through or as vGPU, is not switched.
    """
    _switch(ctx, switch, options, enabled=True)


@app.command("disable")
@grouped
def disable(ctx: typer.Context, switch: SwitchOptions, options: ClusterOptions) -> None:
    """Give the hosts' GPUs back to the hosts, as vGPU needs it.

    [bold]Example[/]

        gpuvm passthrough disable esx-01.example.com --reboot

    A card that a VM runs with, passed through or as vGPU, is not switched.
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
    """VMs of other people are named before they are moved."""
    told = [f"{', '.join(names)} from {host}" for host, names in moved.items()]
    return f"; DRS first moves these running VMs to other hosts: {'; '.join(told)}" if told else ""


def _gpu_json(one: SwitchResult) -> dict[str, Any]:
    return {"done": one.done, "host_in_maintenance_mode": one.in_maintenance_mode}


def _print_results(
    switched: Sequence[SwitchResult], switch: SwitchOptions, *, enabled: bool
) -> None:
    rows = [
        (one.gpu.host, one.gpu.pci_address, one.gpu.name, "failed" if one.error else one.state)
        for one in switched
    ]
    output.table(("HOST", "GPU", "MODEL", "STATE"), rows)
    pending = {one.gpu.host for one in switched if not one.done and one.error is None}
    for host in dict.fromkeys(one.gpu.host for one in switched if one.in_maintenance_mode):
        command = lifecycle.continue_hint(host, enabled=enabled, gpus=tuple(switch.gpu or ()))
        output.warn(f"{host} is in maintenance mode: {command} takes it out of it")
    if pending and not switch.reboot:
        output.line(f"a reboot is pending on {', '.join(sorted(pending))}: --reboot does it")
    elif not any(one.changed or one.error for one in switched):
        output.line("nothing to do: passthrough is in that state already")


def _errors(switched: Sequence[SwitchResult]) -> tuple[GpuvmError, ...]:
    """Each host's once, whatever the number of its GPUs."""
    by_host = {one.gpu.host: one.error for one in switched if one.error is not None}
    return tuple(by_host.values())


def _exit_code(switched: Sequence[SwitchResult]) -> ExitCode:
    """A pending reboot is not done yet: 10, as for any other change that is still to come."""
    failed = [one for one in switched if one.error is not None]
    if failed:
        alone = failed[0].error if len(_errors(switched)) == 1 else None
        every = len(failed) == len(switched)
        if not every:
            return ExitCode.PARTLY_DONE
        return alone.exit_code if alone is not None else ExitCode.FAILED
    return ExitCode.DONE if all(one.done for one in switched) else ExitCode.CHANGES_PENDING
