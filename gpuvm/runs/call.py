"""run_once(): runs a workload in one guest and returns its output."""

import contextlib
import secrets
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from gpuvm.errors import GuestError
from gpuvm.events import Events
from gpuvm.guest import CommandResult, Endpoint, Guest, connect, end_all, push
from gpuvm.guest.processes import MARK
from gpuvm.runs.bundle import SAFE_PATH, Workload, check_imports
from gpuvm.runs.inputs import Inputs, in_guest, push_inputs
from gpuvm.settings import GuestSettings

TIMEOUT_S = 900.0


def run_once(
    workload: Workload,
    args: Sequence[str],
    endpoint: Endpoint,
    settings: GuestSettings,
    *,
    files: Mapping[str, Path],
    inputs: Inputs,
) -> CommandResult:
    """Returns its output and exit status; leaves nothing but ``inputs`` in the guest.

    ``files`` are put beside the program; ``inputs`` and ``args`` are as for a run.
    """
    mark = f"{workload.name}-once-{secrets.token_hex(4)}"
    folder = f"{settings.work_dir}/{mark}"
    with connect(endpoint) as guest:
        check_imports(guest, settings.python, workload.requires)
        push_inputs(guest, settings.work_dir, inputs, Events(), python=settings.python)
        try:
            push(guest, {**workload.files, **files}, folder, python=settings.python)
            words = [settings.python, *workload.command]
            words += [in_guest(argument, inputs) for argument in args]
            environment = f"{MARK}={mark} {SAFE_PATH}="
            command = f"cd {shlex.quote(folder)} && {environment} exec {shlex.join(words)}"
            return guest.run(command, timeout_s=TIMEOUT_S, check=False, what=workload.program)
        finally:
            _clean_up(guest, settings.python, mark, folder)


def _clean_up(guest: Guest, python: str, mark: str, folder: str) -> None:
    """Ignores errors: after Ctrl-C or a lost connection another error is being raised."""
    with contextlib.suppress(GuestError):
        end_all(guest, python, mark)
        guest.run(["rm", "-rf", "--", folder], timeout_s=60, what="clean up")
