"""What becomes of a worker in the middle of a run, and what the run's record says of it.

The programs write their process id to ``pid`` in their home, and end once there is a file
``enough``.
"""

import os
import signal
from collections.abc import Callable, Sequence

from run_harness import BEGIN, Runner
from ssh_servers import Machine

from gpuvm import results
from gpuvm.report.records import read_incidents
from gpuvm.runs import Progress

# Each worker adds 1 to the weights in a round, until one of them finds a file "enough", or has seen
# another go and come back. All can see that in the second weight, and end after the same round.
ROUNDS = (
    BEGIN
    + """
import numpy as np
from common.averaging import Averaging, Terms
home = pathlib.Path(os.environ["HOME"])
me = int(os.environ["GPUVM_WORKER"])
averaging = Averaging.from_environment(me)
say("start", workload="mine", schema=1, device="/device:CPU:0", worker=me,
    workers=int(os.environ["GPUVM_WORKERS"]))
topic = averaging.enter("train", [np.zeros(2)], Terms(10**6, 1, 1))
(home / "pid").write_text(str(os.getpid()))
print("members", topic.members, flush=True)
was_alone = False
while topic.weights[0][1] == 0:
    if (home / "bad").exists():
        sys.exit(int((home / "bad").read_text()))
    time.sleep(0.02)
    is_whole = len(topic.members) == int(os.environ["GPUVM_WORKERS"])
    was_alone |= not is_whole
    found = topic.weights[0] + [1, (home / "enough").exists() or (was_alone and is_whole)]
    averaging.average(topic, [found])
    step(len(topic.rounds), 100)
while True:
    if averaging.is_chief:
        (options.out / "results.json").write_text("{}")
    if averaging.barrier("end"):
        break
averaging.close()
say("end", ok=True, steps=1, seconds=0.1)
"""
)


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
