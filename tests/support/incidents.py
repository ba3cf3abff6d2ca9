"""What becomes of a worker in the middle of a run, and what the run's record says of it.

The programs write their process id to ``pid`` in their home, and end once there is a file
``enough``.
"""

import os
import signal
from collections.abc import Callable, Sequence

from run_harness import Runner
from ssh_servers import Machine

from gpuvm import results
from gpuvm.report.records import read_incidents
from gpuvm.runs import Progress


class Incident:
    """Does ``act`` once, when the worker on ``machine`` has done a round, and ends the run when
    ``over``.
    """

    def __init__(
        self,
        machines: Sequence[Machine],
        machine: Machine,
        act: Callable[[Machine], None],
        over: Callable[[], bool],
    ) -> None:
        self._machines, self._machine, self._act, self._over = machines, machine, act, over
        self._done = False

    def __call__(self, progress: Progress) -> None:
        if progress.step is None:
            return
        if progress.vm == self._machine.name and not self._done:
            self._done = True
            self._act(self._machine)
        elif self._done and self._over():
            for machine in self._machines:
                (machine.home / "enough").touch()


def program_of(machine: Machine) -> int:
    return int((machine.home / "pid").read_text())


def kill(machine: Machine) -> None:
    os.kill(program_of(machine), signal.SIGKILL)


def freeze(machine: Machine) -> None:
    os.kill(program_of(machine), signal.SIGSTOP)


def incidents(record: results.Run) -> Sequence[results.Incident]:
    return read_incidents(record.dir).records


def happened(runner: Runner) -> list[tuple[str, str]]:
    assert runner.record is not None
    return [(one.vm, one.what) for one in incidents(runner.record)]
