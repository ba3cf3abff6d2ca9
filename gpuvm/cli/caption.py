"""gpuvm caption: captions pictures with a trained run, on this machine or on a VM."""

from pathlib import Path
from typing import Annotated

import typer

from gpuvm import lifecycle, results, runs
from gpuvm.cli import completion, output, targets
from gpuvm.cli.options import DeploymentOptions, grouped
from gpuvm.cli.output import State
from gpuvm.cli.session import open_session
from gpuvm.errors import BadInput


@grouped
def caption(
    ctx: typer.Context,
    images: Annotated[list[Path], typer.Argument(help="Pictures.", metavar="IMAGE…")],
    run: Annotated[
        str | None,
        typer.Option(
            "--run",
            help="Default: the latest captioning run.",
            metavar="RUN-ID",
            autocompletion=completion.runs,
        ),
    ] = None,
    beam: Annotated[int, typer.Option("--beam", min=1, help="Beam width; 1: greedy search.")] = 3,
    on: Annotated[
        str | None,
        typer.Option(
            "--on",
            help="Run on this VM, not on this machine.",
            metavar="VM",
            autocompletion=completion.vms,
        ),
    ] = None,
    *,
    options: DeploymentOptions,
) -> None:
    """Caption pictures with a trained run, on this machine or on a VM.

    [bold]Examples[/]

        gpuvm caption bus.jpg

        gpuvm caption bus.jpg --on gpuvm-01

        gpuvm caption bus.jpg street.jpg --run captioning-20261124-013000-ab12 --beam 5 --json

    Without --on it needs TensorFlow (pip install '.[lab]' in gpuvm's source folder) but no vCenter.
    """
    record = results.load(run) if run else runs.caption.latest()
    for image in images:
        if not image.is_file():
            raise BadInput(f"{image}: no such file")
    captioner = runs.caption.captioner(record)
    if on is None:
        captions = captioner.here(images, beam)
    else:
        wanted = options.spec()
        with open_session(ctx, options.context, wanted.context) as session:
            inventory = lifecycle.read_inventory(wanted, session.vsphere)
            member = targets.members(session, inventory, wanted, [on], every=False)[0]
        captions = captioner.on(member.endpoint, session.context.guest, images, beam)
    knows = captioner.knows()
    pairs = [{"image": str(i), "caption": c} for i, c in zip(images, captions, strict=True)]
    if not ctx.ensure_object(State).json:
        for pair in pairs:
            output.line(f"{pair['image']}: {pair['caption']}")
        output.line(f"note: run {record.run_id} was {knows}")
    data = {"run_id": record.run_id, "vm": on, "captions": pairs, "knows": knows}
    output.finish(ctx, output.Result("caption", data))
