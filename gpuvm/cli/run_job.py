"""A run as it was asked for: done once, or again and again on the sides of a comparison."""

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import typer

from gpuvm import results, runs
from gpuvm.cli import compare, output
from gpuvm.cli.output import State
from gpuvm.cli.progress import RunWatch
from gpuvm.cli.run_control import finish_run
from gpuvm.errors import BadInput
from gpuvm.events import Events
from gpuvm.inventory import Inventory
from gpuvm.runs import Member
from gpuvm.runs import sweep as sweeps
from gpuvm.runs.declaration import Sweep
from gpuvm.settings import GuestSettings
from gpuvm.spec import ClusterSpec


class Against(enum.StrEnum):
    NONE = "none"


@dataclass(frozen=True)
class CompareOptions:
    against: Annotated[
        Against | None,
        typer.Option("--compare", help="Run it with and without its GPU, and compare."),
    ] = None
    vm: Annotated[
        str | None,
        typer.Option("--compare-vm", help="Compare with a run on this VM.", metavar="NAME"),
    ] = None
    repeat: Annotated[
        int, typer.Option("--repeat", min=1, help="Runs of each side, in turn.", metavar="N")
    ] = 1

    @property
    def wanted(self) -> bool:
        return self.against is not None or self.vm is not None

    def check(self, options: runs.RunOptions, *, sweep: bool, distributed: bool) -> None:
        """Raises BadInput for options that a comparison has no use for."""
        if not self.wanted:
            if self.repeat > 1:
                raise BadInput("--repeat needs a comparison", hint="add --compare none")
            return
        if self.against and self.vm:
            raise BadInput("--compare and --compare-vm exclude each other")
        others = {
            "--detach": options.detach,
            "--then": options.then is not None,
            "--share": options.gpu == "share",
            "--sweep": sweep,
        }
        if self.vm:
            others["--distributed"] = distributed
        for option, given in others.items():
            if given:
                raise BadInput(f"{option} cannot be used in a comparison")


@dataclass(frozen=True)
class DistributedOptions:
    strategy: Annotated[
        results.Strategy | None,
        typer.Option(
            "--strategy",
            help="How distributed workers train together: local-sgd averages now and then over "
            "this terminal's connections, allreduce after every step over the VMs' network. "
            "Default: the workload's best.",
        ),
    ] = None
    max_restarts: Annotated[
        int,
        typer.Option(
            "--max-restarts",
            min=0,
            help="How often lost distributed workers are started again.",
            metavar="N",
        ),
    ] = 3
    rejoin_s: Annotated[
        float,
        typer.Option(
            "--rejoin-timeout",
            min=0,
            help="How long a distributed run waits for a lost VM before it is given up.",
            metavar="SECONDS",
        ),
    ] = 120

    def choose(
        self, workload: runs.Workload, *, distributed: bool, detach: bool
    ) -> results.Strategy | None:
        """None for a run on one VM. Raises BadInput."""
        if distributed:
            return runs.choose_strategy(workload, self.strategy, detach=detach)
        if self.strategy is not None:
            raise BadInput("--strategy is for --distributed runs")
        return None


@dataclass(frozen=True)
class Job:
    """``grid`` is what the members share out among them, each on its own."""

    ctx: typer.Context
    workload: runs.Workload
    arguments: Sequence[str]
    inventory: Inventory
    spec: ClusterSpec
    guest: GuestSettings
    distributed: bool
    strategy: results.Strategy | None
    resume: results.Run | None
    inputs: runs.Inputs
    grid: Sweep | None
    options: runs.RunOptions
    quiet: bool

    def run(
        self, members: Sequence[Member], *, hide_gpus: bool = False
    ) -> tuple[results.Run, Events, bool]:
        """The last is False when the run continues without its operator. Raises as runs.run."""
        record = runs.begin_record(
            self.workload,
            self.arguments,
            self.inventory,
            self.spec.name,
            members,
            distributed=self.distributed,
            strategy=self.strategy,
            then=self.options.then,
            gpus_hidden=hide_gpus,
        )
        state = self.ctx.ensure_object(State)
        state.if_it_fails = (
            f"'gpuvm logs {record.run_id}' shows what it printed, "
            f"'gpuvm report {record.run_id}' what was fetched"
        )
        if not state.json:
            where = ", ".join(member.vm.name for member in members)
            without = ", without its GPU" if hide_gpus else ""
            output.line(f"run {record.run_id}: {self.workload.name} on {where}{without}")
        events = Events(record.sink)
        with RunWatch(events, state, members, quiet=self.quiet) as watch:
            ended = runs.run(
                self.workload,
                self.arguments,
                members,
                distributed=self.distributed,
                guest=self.guest,
                distribution=self.spec.distributed,
                record=record,
                events=events,
                resume=self.resume,
                inputs=self.inputs,
                more_args=sweeps.shares(self.grid, members) if self.grid else {},
                options=self.options,
                watch=watch,
            )
        return record, events, ended

    def compare(self, members: Sequence[Member], other: Sequence[Member], repeat: int) -> None:
        """Run on the two sides in turn and show the comparison.

        ``other`` empty: the same VMs, with their GPUs hidden from the program.
        """
        records = []
        for _ in range(repeat):
            for side in (members, other):
                hide = not side
                record, _, ended = self.run(side or members, hide_gpus=hide)
                if not ended:
                    finish_run(self.ctx, "run", record, ended=False)
                    return
                records.append(record)
        compare.finish(self.ctx, "run", records)
