"""gpuvm studio: a page on which pictures are made in another one's style, and captioned."""

import threading
import webbrowser
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated

import typer

from gpuvm import lifecycle, runs, settings, studio, variables
from gpuvm.cli import completion, gpus, output, run_list, status, targets
from gpuvm.cli.options import DeploymentOptions, grouped
from gpuvm.cli.output import State
from gpuvm.cli.run_list import Wanted
from gpuvm.cli.session import Session, open_session
from gpuvm.errors import BadInput, GpuvmError
from gpuvm.events import Event, Events
from gpuvm.inventory import Inventory
from gpuvm.runs import Member
from gpuvm.settings import GuestSettings
from gpuvm.spec import ClusterSpec
from gpuvm.studio import Glance, Table

RUNS_SHOWN = 20


@grouped
def serve(
    ctx: typer.Context,
    local: Annotated[
        bool, typer.Option("--local", help="Make pictures on this machine's CPU; no vCenter.")
    ] = False,
    vms: Annotated[
        list[str] | None,
        typer.Option(
            "--vm",
            help="Only on this VM; may be repeated. Default: all that are running.",
            metavar="NAME",
            autocompletion=completion.vms,
        ),
    ] = None,
    port: Annotated[
        int | None,
        typer.Option("--port", min=0, max=65535, help="Default: 7860, or a free one.", metavar="N"),
    ] = None,
    host: Annotated[
        str,
        typer.Option("--host", help="Another address to listen on, for others.", metavar="ADDRESS"),
    ] = "127.0.0.1",
    opened: Annotated[bool, typer.Option("--open", help="Open the page in a browser.")] = False,
    *,
    options: DeploymentOptions,
) -> None:
    """Serve a page that makes pictures in another one's style on the VMs, and captions pictures.

    [bold]Examples[/]

        gpuvm studio

        gpuvm studio --open --vm gpuvm-01 --vm gpuvm-02

        gpuvm studio --local

    The page is on this machine alone, at the address that is printed, with its token. Each picture
    is a run of its own, in runs/ like any other. Ctrl-C ends the page, and what is being made.
    """
    studio.check_installed()
    if local:
        if vms or options.context:
            raise BadInput("--local needs no VM and no vCenter: leave --vm and --context out")
        _serve(ctx, studio.OnThisMachine(), None, (host, port), opened=opened)
        return
    wanted = options.spec()
    if not (settings.names() or variables.named_vcenters()):
        raise BadInput(
            "there is no context yet",
            hint="'gpuvm lab up' makes a simulated vCenter, 'gpuvm init' knows yours; --local "
            "makes pictures on this machine",
        )
    with open_session(ctx, options.context, wanted.context) as session:
        site = _Site(session, wanted)
        maker = studio.OnVMs(site, vms or ())
        maker.workers()
        _serve(ctx, maker, site, (host, port), opened=opened)


def _serve(
    ctx: typer.Context,
    maker: studio.OnVMs | studio.OnThisMachine,
    site: "_Site | None",
    where: tuple[str, int | None],
    *,
    opened: bool,
) -> None:
    listener, address = studio.open_socket(*where)
    if not address.loopback:
        output.warn(
            f"others can reach {address.host}: whoever has the token can use the page, and it is "
            "sent unencrypted"
        )

    def ready() -> None:
        if not ctx.ensure_object(State).json:
            output.line(f"studio: {address.url}")
            output.line("Ctrl-C ends it")
        output.finish(ctx, output.Result("studio", {"url": address.url, "local": site is None}))
        if opened and not webbrowser.open(address.url):
            output.warn("found no browser; open the address yourself")

    try:
        studio.serve(listener, address, studio.Queue(maker), site, ready, output.completed)
    except KeyboardInterrupt:  # the usual end
        return


@dataclass
class _Site:
    """The deployment as other commands see it, one read at a time."""

    session: Session
    spec: ClusterSpec
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def name(self) -> str:
        return f"{self.session.vsphere.vcenter.name} (context {self.session.context.name})"

    @property
    def guest(self) -> GuestSettings:
        return self.session.context.guest

    def read(self) -> tuple[Inventory, Sequence[Member]]:
        with self.lock:
            inventory = lifecycle.read_inventory(self.spec, self.session.vsphere)
            there = targets.members(self.session, inventory, self.spec, None, every=True)
        return inventory, there

    def glance(self) -> Glance:
        warnings: list[str] = []

        def sink(event: Event) -> None:
            if event.kind == "warning":
                warnings.append(f"{event.vm}: {event.text}" if event.vm else str(event.text))

        with self.lock:
            inventory = lifecycle.read_inventory(self.spec, self.session.vsphere)
        try:
            members = targets.members(self.session, inventory, self.spec, None, every=True)
        except GpuvmError:  # the table of VMs shows why
            members = []
        found = runs.list_runs(members, self.guest, Events(sink))
        listed, unreadable = run_list.rows(found, Wanted(), limit=RUNS_SHOWN, every=False)
        against = status.Against(self.spec, None, counted=False)
        tables = (
            _gpus(inventory),
            _vms(status.compare([inventory], against, {})),
            _runs(listed.rows),
        )
        return Glance(tables, (*gpus.notes(inventory), *warnings, *unreadable))


def _gpus(inventory: Inventory) -> Table:
    return Table(
        "GPUs",
        ("Host", "GPU", "Model", "Memory", "State"),
        tuple(gpus.row(gpu, labels=False) for gpu in inventory.gpus),
        f"No NVIDIA GPU in {inventory.cluster.path}.",
    )


def _vms(found: status.Found) -> Table:
    columns = ("VM", "Host", "Power", "Address", "GPU", "Drift")
    rows = (status.row(one) for one in found.seen)
    without = tuple((*row[:5], row[6]) for row in rows)
    return Table("VMs", columns, without, "No VM: 'gpuvm provision' makes some.")


def _runs(rows: Sequence[run_list.Row]) -> Table:
    titles, cells = run_list.table(rows[::-1])
    columns = tuple("VMs" if title == "VMS" else title.capitalize() for title in titles)
    return Table("Runs", columns, tuple(map(tuple, cells)), "No run yet.")
