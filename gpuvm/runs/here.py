"""run_here(): a workload on this machine, in a process of its own, with a record like any other."""

import os
import signal
import socket
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from gpuvm import results
from gpuvm.errors import Interrupted, PreflightRefused, RunError
from gpuvm.events import Events
from gpuvm.inventory import VCenter
from gpuvm.runs.bundle import MISSING_HERE, Workload, last_line
from gpuvm.runs.follow import Watch

NAME: Final = "this-machine"
"""Stands for the VM in the record, and is the name of its folder."""
VCENTER: Final = VCenter("this machine, without a vCenter", "", "", "", "")
CPU: Final = ("--device", "cpu")
ASK_EVERY_S = 0.25
GRACE_S = 5.0
"""From SIGTERM to SIGKILL."""


def begin_record_here(workload: Workload, args: Sequence[str]) -> results.Run:
    """Creates the run's folder and its manifest, which names this machine in place of a VM."""
    me = results.RunVM(
        name=NAME, index=1, host=socket.gethostname(), cpus=os.cpu_count() or 0, accelerator="none"
    )
    return results.create(
        workload=workload.name,
        args=[*args, *CPU],
        distributed=False,
        vcenter=VCENTER,
        cluster="",
        deployment="",
        vms=[me],
        contract=workload.declaration.contract,
    )


def run_here(workload: Workload, record: results.Run, watch: Watch) -> None:
    """Runs a shipped workload on the CPU and finishes the record; its output grows in the record.

    The record is from ``begin_record_here``. Raises RunError, PreflightRefused for a module that is
    missing here, and Interrupted when ``watch`` cancels it.
    """
    out = record.vm_dir(NAME)
    out.mkdir(parents=True)
    command, environment = workload.command_here(record.manifest.args)
    with (
        (out / "stdout.log").open("wb") as stdout,
        (out / "stderr.log").open("wb") as stderr,
        subprocess.Popen(
            [*command, "--out", str(out)],
            env=environment | {"CUDA_VISIBLE_DEVICES": "-1", "PYTHONUNBUFFERED": "1"},
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            start_new_session=True,  # Ctrl-C reaches it only as SIGTERM, from _wait
        ) as process,
    ):
        try:
            with Events(record.sink).phase("train", NAME):
                status = _wait(process, watch)
        except BaseException:
            _end(process)
            record.finish("interrupted", "interrupted")
            raise
    if status is None:
        record.finish("cancelled", "cancelled")
        raise Interrupted(f"run {record.run_id} was cancelled")
    if status != 0:
        error = _error(workload, (out / "stderr.log").read_text(errors="replace"), status)
        record.finish("failed", str(error))
        raise error
    record.finish("succeeded")


def _wait(process: "subprocess.Popen[bytes]", watch: Watch) -> int | None:
    """Its exit status, or None after it was cancelled."""
    while True:
        with suppress(subprocess.TimeoutExpired):
            return process.wait(ASK_EVERY_S)
        if watch.cancelled():
            _end(process)
            return None


def _end(process: "subprocess.Popen[bytes]") -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(GRACE_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _error(workload: Workload, stderr: str, status: int) -> RunError | PreflightRefused:
    if "No module named" in stderr:
        what = f"{workload.name} cannot run on this machine: {last_line(stderr)}"
        return PreflightRefused(what, hint=MISSING_HERE)
    return RunError(f"{workload.name} ended with status {status}: {workload.error(stderr)}")
