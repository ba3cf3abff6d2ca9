"""Files and folders that guests get once, by their content; and the arguments that name them.

A place is ``HASH/NAME`` below the guest's data folder, which lies beside the folders of the runs.
Checkpoints of an earlier run are inputs of one that resumes it.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from gpuvm import results
from gpuvm.errors import PreflightRefused
from gpuvm.events import Events
from gpuvm.guest import Guest, TransferProgress, push_by_content
from gpuvm.guest.progress import size

DATA = "data"
STORE = "store"
"""Contents by their hash, beside DATA: what several folders share is sent and kept once."""
WHOLE = ".whole"
"""The last file of a folder: without it, the folder came only in part."""

Folder = Mapping[str, Path]
"""Its files by their paths below it."""
Inputs = Mapping[str, Path | Folder]
"""Files and folders by their place."""


def push_inputs(
    guest: Guest, work_dir: str, inputs: Inputs, events: Events, *, python: str = "python3"
) -> None:
    """What the guest has already is not sent again; what broke off is continued.

    Data is read-only in the guest. Raises as ``gpuvm.guest.push`` does.
    """
    data = f"{work_dir}/{DATA}"
    for place, source in inputs.items():
        if _is_there(guest, data, place, source):
            continue
        report = _Report(guest.name, place.rpartition("/")[2], events)
        push_by_content(
            guest,
            {place: source} if isinstance(source, Path) else _whole(place, source),
            data,
            f"{work_dir}/{STORE}",
            fill="link",
            python=python,
            on_progress=report,
        )


def in_guest(argument: str, inputs: Inputs, cwd: str = ".") -> str:
    """``data/PLACE`` or ``--option=data/PLACE`` as a program sees it that runs in ``cwd``.

    ``cwd`` is the run's folder or one just below it.
    """
    option, equals, value = argument.partition("=")
    if not (equals and option.startswith("-")):
        option, equals, value = "", "", argument
    place = value.removeprefix(f"{DATA}/")
    known = place != value and place in inputs
    up = "../" if cwd == "." else "../../"
    return f"{option}{equals}{up}{value}" if known else argument


def _whole(place: str, folder: Folder) -> dict[str, Path | bytes]:
    files: dict[str, Path | bytes] = {f"{place}/{name}": file for name, file in folder.items()}
    return files | {_mark(place): b""}


def _mark(place: str) -> str:
    return f"{place.partition('/')[0]}/{WHOLE}"


def _is_there(guest: Guest, data: str, place: str, source: Path | Folder) -> bool:
    if isinstance(source, Path):
        return _size(guest, f"{data}/{place}") == source.stat().st_size
    return _size(guest, f"{data}/{_mark(place)}") is not None


def _size(guest: Guest, path: str) -> int | None:
    """None when there is no such file."""
    seen = ["stat", "-c", "%s", path]
    there = guest.run(seen, timeout_s=60, check=False, what="look for data")
    return int(there.stdout) if there.exit_status == 0 else None


class _Report:
    """Shows how far a push is, and first what the guest had of it."""

    def __init__(self, vm: str, name: str, events: Events) -> None:
        self._vm, self._name, self._events, self._begun = vm, name, events, False

    def __call__(self, progress: TransferProgress) -> None:
        if not self._begun and progress.already_there:
            there, whole = size(progress.already_there), size(progress.total)
            self._events.note(f"{self._name}: {there} of {whole} are there already", self._vm)
        self._begun = True
        text = f"{self._name}: {progress}"
        self._events.progress(self._vm, "push_inputs", progress.fraction, text)


CHECKPOINTS = "checkpoints"

Files = dict[str, Path | bytes]


def possible(run: results.Run) -> bool:
    """Something was kept that could be gone on from."""
    return any(_of(run, vm) for vm in run.manifest.vms)


def files(run: results.Run, members: int, *, distributed: bool) -> Sequence[Files]:
    """For each of so many members, in order, the files to push into its folder.

    Raises PreflightRefused when there is nothing to go on from, or it fits only other VMs.
    """
    vms = run.manifest.vms
    if distributed or run.manifest.distributed or len(vms) == 1:
        found = [_of(run, vms[0])] * members
    elif len(vms) == members:
        found = [_of(run, vm) for vm in vms]
    else:
        raise PreflightRefused(
            f"run {run.run_id} was on {len(vms)} VMs, each with checkpoints of its own; "
            f"this one would be on {members}",
            hint="name as many with --vm, in the same order: " + ", ".join(vm.name for vm in vms),
        )
    if not any(found):
        raise PreflightRefused(f"run {run.run_id} has no checkpoint to resume from")
    return found


def _of(run: results.Run, vm: results.RunVM) -> Files:
    folder = run.vm_dir(vm.name)
    kept = [file for file in (folder / CHECKPOINTS).rglob("*") if file.is_file()]
    return {f"out/{file.relative_to(folder)}": file for file in kept}
