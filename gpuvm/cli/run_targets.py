"""Finds a run and its VMs, from the record on this machine or in the guests."""

import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import typer

from gpuvm import lifecycle, paths, results, runs
from gpuvm.cli import targets
from gpuvm.cli.options import DeploymentOptions
from gpuvm.cli.session import Session, open_session
from gpuvm.errors import BadInput, NotFound, PreflightRefused
from gpuvm.events import Event, Events
from gpuvm.inventory import VM
from gpuvm.results import Run
from gpuvm.runs import Member
from gpuvm.text import one_line, typed_word


@dataclass
class Guests:
    """The deployment's running VMs; ``ours`` are all that it has."""

    session: Session
    deployment: str
    ours: Sequence[VM]
    members: list[Member]
    events: Events
    warnings: list[str]

    @property
    def names(self) -> str:
        return ", ".join(member.name for member in self.members) or "no VM"

    def run(self, wanted: str) -> tuple[Run, list[Member]]:
        """Return the run with that id or prefix, and its running VMs.

        Raises NotFound, Ambiguous, BadInput and PreflightRefused (none of its VMs is running).
        """
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", wanted):
            raise BadInput(f"'{one_line(wanted)}' is not a run's id", hint="see 'gpuvm runs'")
        try:
            record = results.load(wanted)
        except NotFound as error:
            record = self._in_guests(wanted, error)
        names = {vm.name for vm in record.manifest.vms}
        members = [member for member in self.members if member.name in names]
        if not members:
            raise self._none_running(record, names)
        order = [vm.name for vm in record.manifest.vms]
        return record, sorted(members, key=lambda member: order.index(member.name))

    def _none_running(self, record: Run, names: Collection[str]) -> PreflightRefused:
        """VMs that are gone cannot be started; nor can those of another deployment be seen."""
        there = [vm.name for vm in self.ours if vm.name in names]
        fetched = f"what was fetched is in {record.place}"
        if not there:
            vms = "VM" if len(names) == 1 else "VMs"
            return PreflightRefused(
                f"the run was on {', '.join(sorted(names))}, and '{self.deployment}' has no such "
                f"{vms} any more",
                hint=f"{fetched}, and 'gpuvm report {record.run_id}' shows it; --name selects "
                "another deployment",
            )
        return PreflightRefused(
            f"none of the run's VMs is running: {', '.join(sorted(there))}",
            hint=f"'gpuvm start {' '.join(map(typed_word, sorted(there)))}' powers "
            f"{'it' if len(there) == 1 else 'them'} on; {fetched}",
        )

    def _in_guests(self, wanted: str, error: NotFound) -> Run:
        known = runs.list_runs(self.members, self.session.context.guest, self.events)
        by_id = {run.run_id: run for run in known}
        try:
            return runs.adopt(by_id[results.named(list(by_id), wanted)])
        except NotFound:
            guests = f", nor on {self.names}" if self.members else ""
            raise NotFound(
                "run",
                one_line(wanted, longest=60),
                [*error.existing, *by_id][-10:],
                where=f"{paths.runs_dir().absolute()}{guests}",
            ) from None

    def warn_of_missing(self, record: Run, members: Sequence[Member]) -> None:
        there = {member.name for member in members}
        for vm in record.manifest.vms:
            if vm.name not in there:
                self.events.warning("this VM of the run is not running", vm.name)


@contextmanager
def open_guests(ctx: typer.Context, options: DeploymentOptions) -> Iterator[Guests]:
    """Connect to the deployment's running VMs; there may be none."""
    wanted = options.spec()
    warnings: list[str] = []

    def sink(event: Event) -> None:
        if event.kind == "warning":
            warnings.append(f"{event.vm}: {event.text}" if event.vm else str(event.text))

    with open_session(ctx, options.context, wanted.context) as session:
        inventory = lifecycle.read_inventory(wanted, session.vsphere)
        ours = inventory.ours(wanted.name)
        there = [vm for vm in ours if vm.powered_on and vm.address]
        own = [vm.name for vm in targets.unshared(there, session)]
        names = own if len(own) < len(there) else None
        members = targets.members(session, inventory, wanted, names, every=True) if own else []
        yield Guests(session, wanted.name, ours, members, Events(sink), warnings)
