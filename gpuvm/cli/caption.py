"""gpuvm caption: captions any picture with a fetched run of captioning, here or on a VM."""

import json as jsons
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from gpuvm import data as data_files
from gpuvm import results, runs, spec
from gpuvm.cli import output, spec_options, targets
from gpuvm.cli.options import ContextOption, DebugOption, FileOption, JsonOption, NameOption
from gpuvm.cli.output import State
from gpuvm.cli.session import open_session
from gpuvm.errors import BadInput, PreflightRefused, RunError
from gpuvm.guest import Endpoint
from gpuvm.runs import Workload
from gpuvm.settings import GuestSettings

WORKLOAD = "captioning"
BAD_INPUT = 2
"""With this status a workload says so, in one line (workloads/README.md)."""


def caption(
    ctx: typer.Context,
    images: Annotated[list[Path], typer.Argument(help="Pictures.", metavar="IMAGE…")],
    run: Annotated[
        str | None,
        typer.Option("--run", help="The latest run of captioning when left out.", metavar="RUN-ID"),
    ] = None,
    beam: Annotated[
        int, typer.Option("--beam", min=1, help="Sentences kept side by side; 1: greedy.")
    ] = 3,
    on: Annotated[
        str | None, typer.Option("--on", help="On this VM instead of here.", metavar="VM")
    ] = None,
    file: FileOption = None,
    deployment: NameOption = None,
    context: ContextOption = None,
    json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Caption pictures with a trained run, on this machine or on a VM.

    [bold]Examples[/]

        gpuvm caption bus.jpg

        gpuvm caption bus.jpg --on gpuvm-01

        gpuvm caption bus.jpg street.jpg --run captioning-20261124-013000-ab12 --beam 5 --json

    Here it needs TensorFlow (pip install 'gpuvm[lab]') and nothing of the vCenter.
    """
    record = results.load(run, workload=None if run else WORKLOAD)
    for image in images:
        if not image.is_file():
            raise BadInput(f"{image}: no such file")
    question = _Question(runs.find(WORKLOAD), _model(record), images, beam)
    if on is None:
        told = question.here()
    else:
        wanted = spec.load(file, name=deployment)
        with open_session(ctx, context) as session:
            targets.require_key(session.context)
            inventory = spec_options.read_inventory(session, wanted)
            member = targets.running(session, inventory, wanted, [on], every=False)[0]
        told = question.on(member.endpoint, session.context.guest)
    if not ctx.ensure_object(State).json:
        for image, said in zip(images, told, strict=True):
            output.line(f"{image}: {said}")
    pairs = [{"image": str(i), "caption": said} for i, said in zip(images, told, strict=True)]
    data = {"run_id": record.run_id, "vm": on, "captions": pairs}
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


@dataclass(frozen=True)
class _Question:
    """Which pictures, to which model: the folder of its run."""

    program: Workload
    model: Path
    images: Sequence[Path]
    beam: int

    def here(self) -> list[str]:
        """The captions, in the order of the pictures."""
        words = [*map(str, self.images), "--run", str(self.model)]
        weights = self._weights()
        if weights is not None:
            words += ["--vgg16-weights", str(weights)]
        command = [sys.executable, str(self.program.program), *self._asked(words)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if "No module named" in done.stderr:
            raise PreflightRefused(
                f"captioning needs more here: {_last(done.stderr)}", hint="pip install 'gpuvm[lab]'"
            )
        return _answer(done.returncode, done.stdout, done.stderr)

    def on(self, endpoint: Endpoint, settings: GuestSettings) -> list[str]:
        model = data_files.folder(self._model_files(), "model")
        pictures = {f"picture-{n:04d}{i.suffix}": i for n, i in enumerate(self.images)}
        inputs: dict[str, Path | dict[str, Path]] = {model.place: model.source}
        words = [*pictures, "--run", f"{runs.DATA}/{model.place}"]
        weights = self._weights()
        if weights is not None:
            named = data_files.file(weights)
            inputs[named.place] = named.source
            words += ["--vgg16-weights", f"{runs.DATA}/{named.place}"]
        done = runs.ask(
            self.program, self._asked(words), endpoint, settings, files=pictures, inputs=inputs
        )
        errors = done.stderr
        for name, image in pictures.items():
            errors = errors.replace(name, str(image))
        return _answer(done.exit_status, done.stdout, errors)

    def _asked(self, words: Sequence[str]) -> list[str]:
        return ["caption", *words, "--beam", str(self.beam), "--json"]

    def _model_files(self) -> dict[str, Path]:
        """What the program reads of a run: of its checkpoints only the latest."""
        checkpoints = self.model / "checkpoints"
        latest = checkpoints / "latest.json"
        files = [self.model / "model.json", latest]
        if latest.is_file():
            path = jsons.loads(latest.read_text(encoding="utf-8"))["path"]
            files += sorted(checkpoints.glob(f"{path}.*"))
        there = [file for file in files if file.is_file()]
        return {file.relative_to(self.model).as_posix(): file for file in there}

    def _weights(self) -> Path | None:
        """VGG16's, of a run that sees with them; the run's own path is that of its guest."""
        about = jsons.loads((self.model / "model.json").read_text(encoding="utf-8"))
        return data_files.known_file("vgg16") if about.get("vgg16_weights") else None


def _answer(status: int, stdout: str, stderr: str) -> list[str]:
    if status != 0:
        kind = BadInput if status == BAD_INPUT else RunError
        raise kind(_last(stderr).removeprefix("captioning.py: "))
    return [str(pair["caption"]) for pair in jsons.loads(stdout.splitlines()[-1])]


def _last(stderr: str) -> str:
    return (stderr.strip().splitlines() or ["no message"])[-1]
