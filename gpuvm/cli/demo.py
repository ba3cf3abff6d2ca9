"""gpuvm demo: every main command in the lab, printed as it is run."""

import os
import shlex
import subprocess
import sys
from typing import Annotated

import typer

from gpuvm import lab
from gpuvm.cli import output
from gpuvm.cli.options import DebugOption
from gpuvm.errors import GpuvmError, PreflightRefused

STEPS = (
    ("gpuvm lab up", "a simulated vCenter: 4 Dell R730 hosts, one Tesla P100 each"),
    ("gpuvm provision --hosts 4", "4 VMs cloned, GPU passed through, ready over SSH"),
    ("gpuvm run captioning --distributed", "real TensorFlow training across the 4 guests"),
    ("gpuvm report", "timings per phase, VM and step; one HTML file"),
    ("gpuvm teardown --yes", "nothing is left in the vCenter"),
    ("gpuvm lab down", "no process, no port"),
)


class DemoFailed(GpuvmError):
    """A step of the demo failed; it has already printed the reason."""


def demo(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(help="After --: for the workload.", metavar="[-- ARGS]..."),
    ] = None,
    debug: DebugOption = False,
) -> None:
    """Run the main job from end to end in a simulated vCenter, and show each command.

    [bold]Examples[/]

        gpuvm demo

        gpuvm demo -- --preset quick

    It removes the lab at the end and keeps the results in runs/. If a lab is already up, the demo
    does not start.
    """
    if lab.status("lab").running:
        raise PreflightRefused(
            "a lab is already up, and the demo would take it down",
            hint="run 'gpuvm lab down' first, or run the demo's commands by hand",
        )
    environment = os.environ | {"GPUVM_CONTEXT": "lab"}
    try:
        for command, what in STEPS:
            _step(_with(command, arguments or []), what, environment)
    except BaseException:
        _clean_up(environment)
        raise


def _with(command: str, arguments: list[str]) -> str:
    if arguments and " run " in command:
        return f"{command} -- {shlex.join(arguments)}"
    return command


def _step(command: str, what: str, environment: dict[str, str]) -> None:
    output.styled("\n", ("$", "bold green"), " ", (command, "bold"), "  ", (f"# {what}", "dim"))
    done = subprocess.run(_argv(command), env=environment, check=False)
    if done.returncode != 0:
        raise DemoFailed(f"'{command}' ended with status {done.returncode}")


def _clean_up(environment: dict[str, str]) -> None:
    """Take the lab down after a failure or Ctrl-C."""
    output.styled(("taking the lab down", "dim"))
    subprocess.run(_argv("gpuvm lab down"), env=environment, check=False)


def _argv(command: str) -> list[str]:
    return [sys.executable, "-m", "gpuvm", *shlex.split(command)[1:]]
