"""How a picture is made: on VMs, as `gpuvm run style` does, or on this machine."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from gpuvm import data, results, runs
from gpuvm.errors import BadInput, PreflightRefused
from gpuvm.events import Events
from gpuvm.inventory import Inventory
from gpuvm.runs import here
from gpuvm.studio.jobs import Wanted
from gpuvm.studio.site import Site

WORKLOAD: Final = "style"
ITERATIONS: Final = 40
"""In a round, as in the workload's quick preset."""
SHOWN: Final = 20
"""About as many times a picture is saved, and can be shown, while it is made."""
LIVE: Final = ("samples/*.png",)


class OnVMs:
    """Each picture on one VM; the VMs share a grid."""

    def __init__(self, site: Site, only: Sequence[str] = ()) -> None:
        """``only``: these VMs, instead of all that are running."""
        self._site, self._only = site, tuple(only)
        self._workload = runs.find(WORKLOAD)

    def workers(self) -> Sequence[str]:
        return [member.name for member in self._members()[1]]

    def make(
        self,
        wanted: Wanted,
        workers: Sequence[str],
        watch: runs.Watch,
        begun: Callable[[results.Run], None],
    ) -> None:
        inventory, there = self._members()
        members = [member for member in there if member.name in workers]
        if len(members) < len(workers):
            gone = ", ".join(sorted(set(workers) - {member.name for member in members}))
            raise PreflightRefused(f"{gone} is no longer running", hint="'gpuvm status'")
        spec, grid = self._site.spec, self._workload.declaration.sweep if wanted.grid else None
        words, inputs = runs.with_data(arguments(wanted, lambda file: f"@{file}"))
        record = runs.begin_record(
            self._workload, words, inventory, spec.name, members, distributed=False
        )
        begun(record)
        runs.run(
            self._workload,
            words,
            members,
            distributed=False,
            guest=self._site.guest,
            distribution=spec.distributed,
            record=record,
            events=Events(record.sink),
            inputs=inputs,
            more_args=runs.sweep.shares(grid, members) if grid else {},
            options=runs.RunOptions(live=LIVE),
            watch=watch,
        )
        if grid:
            runs.sweep.gather(self._workload, grid, record)

    def _members(self) -> tuple[Inventory, list[runs.Member]]:
        inventory, there = self._site.read()
        missing = set(self._only) - {member.name for member in there}
        if missing:
            raise PreflightRefused(
                f"{', '.join(sorted(missing))} is not running", hint="'gpuvm status'"
            )
        return inventory, [m for m in there if not self._only or m.name in self._only]


class OnThisMachine:
    """One at a time, on the CPU."""

    def __init__(self) -> None:
        self._workload = runs.find(WORKLOAD)

    def workers(self) -> Sequence[str]:
        return [here.NAME]

    def make(
        self,
        wanted: Wanted,
        workers: Sequence[str],  # noqa: ARG002 - there is but one
        watch: runs.Watch,
        begun: Callable[[results.Run], None],
    ) -> None:
        grid = self._workload.declaration.sweep if wanted.grid else None
        record = runs.begin_record_here(self._workload, arguments(wanted, str))
        begun(record)
        runs.run_here(self._workload, record, watch)
        if grid:
            runs.sweep.gather(self._workload, grid, record)


def arguments(wanted: Wanted, named: Callable[[Path], str]) -> list[str]:
    """The workload's command line; ``named`` is how it names a file."""
    words = ["--size", str(wanted.size), "--rounds", str(wanted.rounds)]
    words += ["--iterations", str(ITERATIONS)]
    words += ["--save-every", str(max(2, wanted.rounds * ITERATIONS // SHOWN))]
    if wanted.grid:
        words += ["--content-weights", f"0:2:{wanted.grid}"]
        words += ["--style-weights", f"0:10:{wanted.grid}"]
    else:
        words += ["--content-weight", f"{wanted.content_weight:g}"]
        words += ["--style-weight", f"{wanted.style_weight:g}"]
    for option, file in (("--content", wanted.content), ("--style", wanted.style)):
        if file is not None:
            words += [option, named(file)]
    network = trained_network()
    return words if network is None else [*words, "--weights", named(network)]


def trained_network() -> Path | None:
    """VGG19's weights, if they have been fetched (`gpuvm data fetch vgg19`)."""
    try:
        return data.known_file("vgg19")
    except BadInput:
        return None
