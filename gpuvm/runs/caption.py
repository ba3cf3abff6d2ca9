"""Captions for pictures from a fetched run of a workload that declares how (workload.toml)."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gpuvm import data, results
from gpuvm.errors import BadInput, NotFound, RunError
from gpuvm.guest import Endpoint
from gpuvm.runs.bundle import Workload, find, shipped
from gpuvm.runs.call import ask
from gpuvm.runs.declaration import Caption
from gpuvm.runs.inputs import DATA, Folder
from gpuvm.settings import GuestSettings

BAD_INPUT = 2
"""The status of a workload whose arguments or data are wrong (workloads/README.md)."""


@dataclass(frozen=True)
class Captioner:
    """``model`` is the folder of a fetched run."""

    workload: Workload
    declared: Caption
    model: Path

    def here(self, images: Sequence[Path], beam: int) -> list[str]:
        """The captions, in the order of the pictures.

        Raises BadInput, RunError, and PreflightRefused for a module that is missing here.
        """
        words = [*map(str, images), "--run", str(self.model)]
        for option, file in self._data():
            words += [option, str(file)]
        done = self.workload.run_here(_arguments(words, beam))
        return self._captions(done.returncode, done.stdout, done.stderr)

    def on(
        self, endpoint: Endpoint, settings: GuestSettings, images: Sequence[Path], beam: int
    ) -> list[str]:
        """The same, computed in a guest, which gets the model once. Raises GuestError too."""
        model = data.folder(self._files(), "model")
        pictures = {f"picture-{n:04d}{i.suffix}": i for n, i in enumerate(images)}
        inputs: dict[str, Path | Folder] = {model.place: model.source}
        words = [*pictures, "--run", f"{DATA}/{model.place}"]
        for option, file in self._data():
            named = data.file(file)
            inputs[named.place] = named.source
            words += [option, f"{DATA}/{named.place}"]
        done = ask(
            self.workload,
            _arguments(words, beam),
            endpoint,
            settings,
            files=pictures,
            inputs=inputs,
        )
        errors = done.stderr
        for name, image in pictures.items():
            errors = errors.replace(name, str(image))
        return self._captions(done.exit_status, done.stdout, errors)

    def _files(self) -> dict[str, Path]:
        """What the program reads of the run, by its path there."""
        found = [file for pattern in self.declared.files for file in self.model.glob(pattern)]
        return {file.relative_to(self.model).as_posix(): file for file in sorted(found)}

    def _data(self) -> list[tuple[str, Path]]:
        """Options with known files that this model needs. Raises BadInput for one not here."""
        model = json.loads((self.model / self.declared.model).read_text(encoding="utf-8"))
        needed = [one for one in self.declared.data if model.get(one.field)]
        return [(one.option, data.known_file(one.name)) for one in needed]

    def _captions(self, status: int, stdout: str, stderr: str) -> list[str]:
        if status != 0:
            kind = BadInput if status == BAD_INPUT else RunError
            raise kind(self.workload.error(stderr))
        return [str(pair["caption"]) for pair in json.loads(stdout.splitlines()[-1])]


def latest() -> results.Run:
    """The latest run of a workload that can caption. Raises BadInput when there is none."""
    able = [one for one in shipped() if one.declaration.caption]
    return results.load(
        workloads=[name for one in able for name in (one.name, *one.declaration.aliases)]
    )


def captioner(record: results.Run) -> Captioner:
    """Raises BadInput for a run that cannot caption."""
    try:
        workload = find(record.manifest.workload)
    except NotFound:  # a program of the user's own
        raise _no_captioner(record) from None
    declared = workload.declaration.caption
    models = sorted(record.dir.glob(f"*/{declared.model}")) if declared else []
    if declared is None or not models:
        raise _no_captioner(record)
    return Captioner(workload, declared, models[0].parent)


def _no_captioner(record: results.Run) -> BadInput:
    return BadInput(
        f"run {record.run_id} has no trained captioner",
        hint="gpuvm run captioning --distributed makes one; --run names another run",
    )


def _arguments(words: Sequence[str], beam: int) -> list[str]:
    return ["caption", *words, "--beam", str(beam), "--json"]
