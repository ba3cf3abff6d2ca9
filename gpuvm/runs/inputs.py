"""Files and folders that guests get once, by their content; and the arguments that name them.

A place is ``HASH/NAME`` below the guest's data folder, which lies beside the folders of the runs.
Checkpoints of an earlier run are inputs of one that resumes it.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from gpuvm import results
from gpuvm.errors import PreflightRefused
from gpuvm.guest import Guest, push

DATA = "data"
WHOLE = ".whole"
"""Sent after the last file of a folder: without it, the folder came only in part."""
PART_BYTES = 256 << 20
"""So much of a folder goes in one stream, since each is gathered on this machine's disk first."""

Folder = Mapping[str, Path]
"""Its files by their paths below it."""
Inputs = Mapping[str, Path | Folder]
"""Files and folders by their place."""


def push_inputs(guest: Guest, work_dir: str, inputs: Inputs) -> None:
    """What the guest has already is not sent again."""
    data = f"{work_dir}/{DATA}"
    for place, source in inputs.items():
        if not isinstance(source, Path):
            _push_folder(guest, data, place, source)
        elif _size(guest, f"{data}/{place}") != source.stat().st_size:
            push(guest, {place: source}, data)


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


def _push_folder(guest: Guest, data: str, place: str, folder: Folder) -> None:
    mark = f"{place.partition('/')[0]}/{WHOLE}"
    if _size(guest, f"{data}/{mark}") is not None:
        return
    for part in _parts(folder):
        push(guest, {f"{place}/{name}": file for name, file in part.items()}, data)
    push(guest, {mark: b""}, data)


def _size(guest: Guest, path: str) -> int | None:
    """None when there is no such file."""
    seen = ["stat", "-c", "%s", path]
    there = guest.run(seen, timeout_s=60, check=False, what="look for data")
    return int(there.stdout) if there.exit_status == 0 else None


def _parts(folder: Folder) -> Iterator[Folder]:
    part: dict[str, Path] = {}
    size = 0
    for name, file in folder.items():
        part[name] = file
        size += file.stat().st_size
        if size >= PART_BYTES:
            yield part
            part, size = {}, 0
    if part:
        yield part


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
