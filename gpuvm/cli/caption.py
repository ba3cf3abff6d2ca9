"""gpuvm caption: captions any picture with a run of captioning that was fetched."""

import json as jsons
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from gpuvm import results
from gpuvm.cli import output
from gpuvm.cli.options import DebugOption, JsonOption
from gpuvm.cli.state import State
from gpuvm.errors import BadInput, PreflightRefused
from gpuvm.resources import resource


def caption(
    ctx: typer.Context,
    images: Annotated[list[Path], typer.Argument(help="Pictures.", metavar="IMAGE…")],
    run: Annotated[
        str | None, typer.Option("--run", help="The latest run when left out.", metavar="RUN-ID")
    ] = None,
    beam: Annotated[
        int, typer.Option("--beam", min=1, help="Sentences kept side by side; 1: greedy.")
    ] = 3,
    json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Caption pictures with a trained run, on this machine.

    [bold]Examples[/]

        gpuvm caption bus.jpg

        gpuvm caption bus.jpg street.jpg --run captioning-20261124-013000-ab12 --beam 5 --json

    It needs TensorFlow here (pip install 'gpuvm[lab]') and nothing of the vCenter.
    """
    record = results.load(run)
    told = _captions(_model(record), images, beam)
    if not ctx.ensure_object(State).json:
        for pair in told:
            output.line(f"{pair['image']}: {pair['caption']}")
    data = {"run_id": record.run_id, "captions": told}
    output.finish(ctx, output.Result("caption", data))


def _model(record: results.Run) -> Path:
    """The chief's folder of the run."""
    found = sorted(record.dir.glob("*/model.json"))
    if not found:
        raise BadInput(
            f"run {record.run_id} has no trained captioner",
            hint="gpuvm run captioning --distributed makes one; --run names another run",
        )
    return found[0].parent


def _captions(model: Path, images: list[Path], beam: int) -> list[dict[str, str]]:
    program = resource("workloads") / "captioning.py"
    arguments = ["caption", *map(str, images), "--run", str(model), "--beam", str(beam), "--json"]
    done = subprocess.run(
        [sys.executable, str(program), *arguments], capture_output=True, text=True, check=False
    )
    if done.returncode == 0:
        return list(jsons.loads(done.stdout.splitlines()[-1]))
    last = (done.stderr.strip().splitlines() or ["no message"])[-1]
    if "No module named" in last:
        raise PreflightRefused(
            f"captioning needs more here: {last}", hint="pip install 'gpuvm[lab]'"
        )
    raise BadInput(last.removeprefix("captioning.py: "))
