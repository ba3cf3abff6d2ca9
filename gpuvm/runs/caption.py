"""Captions for pictures, from a fetched run of a workload that declares it (workload.toml)."""

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from gpuvm import data, report, results
from gpuvm.errors import BadInput, NotFound, RunError
from gpuvm.guest import Endpoint
from gpuvm.runs.bundle import Workload, find, shipped
from gpuvm.runs.call import run_once
from gpuvm.runs.contract import BAD_INPUT
from gpuvm.runs.declaration import Caption
from gpuvm.runs.inputs import DATA, Folder
from gpuvm.settings import GuestSettings


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
        """Like ``here``, in a guest, to which the model is sent once. Raises GuestError too."""
        model = data.folder(self._files(), "model")
        pictures = {f"picture-{n:04d}{i.suffix}": i for n, i in enumerate(images)}
        inputs: dict[str, Path | Folder] = {model.place: model.source}
        words = [*pictures, "--run", f"{DATA}/{model.place}"]
        for option, file in self._data():
            named = data.file(file)
            inputs[named.place] = named.source
            words += [option, f"{DATA}/{named.place}"]
        done = run_once(
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

    def knows(self) -> str:
        """What it was trained on and how well it does there, which its sentences do not show."""
        model = json.loads((self.model / self.declared.model).read_text(encoding="utf-8"))
        what = model.get("trained_on")
        text = f"trained on {what}" if what else "trained on data that is not recorded"
        score = next((s for run in self._report().runs for s in run.main_scores), None)
        if score is not None:
            number = f"{score.examples} " if score.examples else ""
            text += f"; {score.title} {score.value:.3f} on {number}held-out ones"
            if score.shuffled is not None:
                text += f", {score.shuffled:.3f} with the images shuffled"
        return f"{text}. It knows no other words, so it describes any other picture with these."

    def _report(self) -> report.ReportData:
        try:
            return report.build([self.model.parent])
        except BadInput:  # records that cannot be read have no scores
            return report.ReportData(())

    def _files(self) -> dict[str, Path]:
        """The files of the run that the program reads, by path."""
        found = [file for pattern in self.declared.files for file in self.model.glob(pattern)]
        return {file.relative_to(self.model).as_posix(): file for file in sorted(found)}

    def _data(self) -> list[tuple[str, Path]]:
        """Options for known files that this model needs. Raises BadInput for a missing file."""
        model = json.loads((self.model / self.declared.model).read_text(encoding="utf-8"))
        needed = [file for file in self.declared.data if model.get(file.field)]
        return [(file.option, data.known_file(file.name)) for file in needed]

    def _captions(self, status: int, stdout: str, stderr: str) -> list[str]:
        if status != 0:
            kind = BadInput if status == BAD_INPUT else RunError
            raise kind(self.workload.error(stderr))
        return [str(pair["caption"]) for pair in json.loads(stdout.splitlines()[-1])]


def latest() -> results.Run:
    """The latest run of a workload that can caption. Raises BadInput when there is none."""
    return results.load(workloads=list(_declared()))


def trained_runs() -> list[results.Run]:
    """Every run with a trained captioner, the latest first; records that cannot be read are not
    among them.
    """
    declared, found = _declared(), []
    for run_id in reversed(results.list_runs()):
        with suppress(BadInput):
            record = results.load(run_id)
            one = declared.get(record.manifest.workload)
            if one is not None and _models(record, one):
                found.append(record)
    return found


def captioner(record: results.Run) -> Captioner:
    """Raises BadInput for a run without a trained captioner."""
    try:
        workload = find(record.manifest.workload)
    except NotFound:  # a program of the user's own
        raise _no_captioner(record) from None
    declared = workload.declaration.caption
    models = _models(record, declared) if declared else []
    if declared is None or not models:
        raise _no_captioner(record)
    return Captioner(workload, declared, models[0].parent)


def _declared() -> dict[str, Caption]:
    """By the names of the workloads that can caption, former ones too."""
    return {
        name: one.declaration.caption
        for one in shipped()
        if one.declaration.caption
        for name in (one.name, *one.declaration.aliases)
    }


def _models(record: results.Run, declared: Caption) -> list[Path]:
    return sorted(record.dir.glob(f"*/{declared.model}"))


def _no_captioner(record: results.Run) -> BadInput:
    return BadInput(
        f"run {record.run_id} has no trained captioner",
        hint="'gpuvm run captioning --distributed' trains one; --run selects another run",
    )


def _arguments(words: Sequence[str], beam: int) -> list[str]:
    return ["caption", *words, "--beam", str(beam), "--json"]
