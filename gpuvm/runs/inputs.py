"""Input files and folders, which are sent to a guest once, and the arguments that refer to them.

A place is ``HASH/NAME`` below the guest's data folder, beside the folders of the runs. Checkpoints
of an earlier run are inputs of a run that resumes it.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from gpuvm import data, results
from gpuvm.errors import PreflightRefused
from gpuvm.events import Events
from gpuvm.guest import Guest, TransferProgress, push_by_content
from gpuvm.guest.progress import size
from gpuvm.text import counted

DATA = "data"
STORE = "store"
"""Contents by hash, beside DATA: a file in several folders is sent and stored once."""
COMPLETE = ".whole"
"""The last file of a folder; without it, the folder is incomplete."""

Folder = Mapping[str, Path]
"""Files by their paths below the folder."""
Inputs = Mapping[str, Path | Folder]
"""Files and folders by their place."""


def with_data(arguments: Sequence[str]) -> tuple[list[str], dict[str, Path | Folder]]:
    """Arguments such as ``@vgg19`` as the guests will have them, and what to push for them.

    Raises NotFound and BadInput.
    """
    inputs: dict[str, Path | Folder] = {}
    replaced = []
    for argument in arguments:
        named = data.resolve(argument)
        if named is None:
            replaced.append(argument)
        else:
            inputs[named.place] = named.source
            replaced.append(f"{named.option}{DATA}/{named.place}")
    return replaced, inputs


def push_inputs(
    guest: Guest, work_dir: str, inputs: Inputs, events: Events, *, python: str = "python3"
) -> None:
    """Sends what the guest does not have; resumes an interrupted push.

    Data is read-only in the guest. Raises as ``gpuvm.guest.push`` does.
    """
    below = f"{work_dir}/{DATA}"
    for place, source in inputs.items():
        if _has(guest, below, place, source):
            continue
        report = _PushProgress(guest.name, place.rpartition("/")[2], events)
        push_by_content(
            guest,
            {place: source} if isinstance(source, Path) else _with_marker(place, source),
            below,
            f"{work_dir}/{STORE}",
            fill="link",
            python=python,
            on_progress=report,
        )


def in_guest(argument: str, inputs: Inputs, cwd: str = ".") -> str:
    """Converts ``data/PLACE`` or ``--option=data/PLACE`` to a path relative to ``cwd``.

    ``cwd`` is the run's folder or a folder directly below it.
    """
    option, equals, value = argument.partition("=")
    if not (equals and option.startswith("-")):
        option, equals, value = "", "", argument
    place = value.removeprefix(f"{DATA}/")
    known = place != value and place in inputs
    up = "../" if cwd == "." else "../../"
    return f"{option}{equals}{up}{value}" if known else argument


def _with_marker(place: str, folder: Folder) -> dict[str, Path | bytes]:
    files: dict[str, Path | bytes] = {f"{place}/{name}": file for name, file in folder.items()}
    return files | {_marker(place): b""}


def _marker(place: str) -> str:
    return f"{place.partition('/')[0]}/{COMPLETE}"


def _has(guest: Guest, data: str, place: str, source: Path | Folder) -> bool:
    if isinstance(source, Path):
        return _size(guest, f"{data}/{place}") == source.stat().st_size
    return _size(guest, f"{data}/{_marker(place)}") is not None


def _size(guest: Guest, path: str) -> int | None:
    """The file's size, or None when there is none."""
    command = ["stat", "-c", "%s", path]
    done = guest.run(command, timeout_s=60, check=False, what="look for data")
    return int(done.stdout) if done.exit_status == 0 else None


class _PushProgress:
    """Reports the progress of a push, and first what the guest already had."""

    def __init__(self, vm: str, name: str, events: Events) -> None:
        self._vm, self._name, self._events, self._begun = vm, name, events, False

    def __call__(self, progress: TransferProgress) -> None:
        if not self._begun and progress.already_there:
            there, total = size(progress.already_there), size(progress.total)
            self._events.note(f"{self._name}: {there} of {total} already there", self._vm)
        self._begun = True
        text = f"{self._name}: {progress}"
        self._events.progress(self._vm, "push_inputs", progress.fraction, text)


CHECKPOINTS = "checkpoints"

Files = dict[str, Path | bytes]


def has_checkpoints(run: results.Run) -> bool:
    """Whether the run can be resumed."""
    return any(_files_of(run, vm) for vm in run.manifest.vms)


def checkpoints(run: results.Run, members: int, *, distributed: bool) -> Sequence[Files]:
    """For each member, in order, the checkpoint files to push to its folder.

    Raises PreflightRefused when there are none, or they are for another number of VMs.
    """
    vms = run.manifest.vms
    if distributed or run.manifest.distributed or len(vms) == 1:
        found = [_files_of(run, vms[0])] * members
    elif len(vms) == members:
        found = [_files_of(run, vm) for vm in vms]
    else:
        raise PreflightRefused(
            f"run {run.run_id} was on {counted(len(vms), 'VM')}, each with its own checkpoints, "
            f"but this run is on {members}",
            hint="select as many with --vm, in the same order: " + ", ".join(vm.name for vm in vms),
        )
    if not any(found):
        raise PreflightRefused(f"run {run.run_id} has no checkpoint to resume from")
    return found


def _files_of(run: results.Run, vm: results.RunVM) -> Files:
    folder = run.vm_dir(vm.name)
    kept = [file for file in (folder / CHECKPOINTS).rglob("*") if file.is_file()]
    return {f"out/{file.relative_to(folder)}": file for file in kept}
