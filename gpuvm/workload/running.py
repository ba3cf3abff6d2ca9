"""run(): push, start, follow and fetch on every member; nothing stays behind in any guest."""

import json
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from gpuvm import results
from gpuvm.errors import GpuvmError, GuestError, Interrupted, PreflightRefused, RunError, WorkerDied
from gpuvm.events import Events
from gpuvm.guest import Guest, connect, look_at_gpus
from gpuvm.settings import GuestSettings
from gpuvm.spec import Distributed
from gpuvm.workload import network, scripts
from gpuvm.workload.bundle import Workload
from gpuvm.workload.follow import Followed, Progress, follow, tail_of
from gpuvm.workload.member import Member

ATTEMPTS = 3
GRACE_S = 3.0
"""So long others may end after the first failure, to tell the one that died from its victims."""
LOST_A_PEER = 3
"""With this status a workload says that another worker went away (workloads/README.md)."""
_PORT_LOST = ("could not start grpc server", "address already in use")

OnStep = Callable[[Progress], None]
Result = TypeVar("Result")


def run(
    workload: Workload,
    args: Sequence[str],
    members: Sequence[Member],
    *,
    distributed: bool,
    guest: GuestSettings,
    distribution: Distributed,
    record: results.Run,
    events: Events,
    resume: results.Run | None = None,
    on_step: OnStep = lambda _: None,
) -> None:
    """Runs the workload to its end; what the guests wrote is in ``record`` afterwards, whatever
    happened. Raises WorkerDied, PortsBlocked, RunError, GuestError, Interrupted.
    """
    work = _Running(
        workload, tuple(args), tuple(members), distributed, guest, distribution, record, events
    )
    work.on_step = on_step
    try:
        work.push(resume)
        work.train()
    except KeyboardInterrupt:
        work.kill()
        work.fetch()
        record.finish("interrupted", "interrupted")
        raise Interrupted(
            "interrupted; the workload was ended in every guest",
            hint=f"its records are in {record.dir}; --resume {record.run_id} goes on with them",
        ) from None
    except GpuvmError as error:
        work.kill()
        work.fetch()
        record.finish("failed", str(error))
        raise
    try:
        work.fetch(strict=True)
    except GpuvmError as error:
        record.finish("failed", str(error))
        raise
    record.finish("succeeded")


@dataclass
class _Running:
    workload: Workload
    args: tuple[str, ...]
    members: tuple[Member, ...]
    distributed: bool
    settings: GuestSettings
    distribution: Distributed
    record: results.Run
    events: Events
    on_step: OnStep = lambda _: None

    def push(self, resume: results.Run | None) -> None:
        """The imports are checked first, so that nothing is started that cannot run."""
        files: dict[str, Path | bytes] = {file.name: file for file in self.workload.files}
        if resume is not None:
            files |= _checkpoint(resume)
        simulated = self._on_all("push", lambda guest: self._push(guest, files))
        vms = [
            vm.model_copy(update={"simulated": simulated[vm.name]})
            for vm in self.record.manifest.vms
        ]
        self.record.describe_vms(vms)

    def train(self) -> None:
        """A port that was lost between its choice and its use is chosen anew, three times."""
        for attempt in range(1, ATTEMPTS + 1):
            seen = {member.name: Followed() for member in self.members}
            self._launch()
            try:
                self._follow(seen)
            except WorkerDied as error:
                lost = any(text in "\n".join(error.tail).lower() for text in _PORT_LOST)
                if not lost or attempt == ATTEMPTS or not self.distributed:
                    raise
                self.kill()
                self.events.warning(f"a port was taken meanwhile: attempt {attempt + 1}", error.vm)
            else:
                return

    def kill(self) -> None:
        """Best effort, and quiet: a guest that is gone has nothing running."""

        def end(guest: Guest) -> None:
            command = [self.settings.python, "-c", scripts.KILL, self.record.run_id]
            guest.run(command, timeout_s=30, check=False)

        self._quietly(end)

    def fetch(self, *, strict: bool = False) -> None:
        def fetch(guest: Guest) -> None:
            guest.fetch(f"{self._directory}/out", self.record.vm_dir(guest.name))

        if strict:
            self._on_all("fetch", fetch)
        else:
            self._quietly(fetch)

    @property
    def _directory(self) -> str:
        return f"{self.settings.work_dir}/{self.record.run_id}"

    def _push(self, guest: Guest, files: Mapping[str, Path | bytes]) -> bool:
        command = [self.settings.python, "-c", scripts.MISSING_IMPORTS, *self.workload.requires]
        missing = guest.run(command, timeout_s=120).stdout.split()
        if missing:
            raise PreflightRefused(
                f"{guest.name}: {self.settings.python} has no module {', '.join(missing)}",
                hint="install it in the VM template (workloads/requirements.txt), or name another "
                "interpreter with guest.python",
            )
        guest.push(files, self._directory)
        return look_at_gpus(guest).simulated

    def _launch(self) -> None:
        with ExitStack() as stack:
            guests = [stack.enter_context(connect(m.endpoint)) for m in self.members]
            configs: list[str | None] = [None] * len(guests)
            if self.distributed:
                with self.events.phase("check_network"):
                    ports = network.choose_ports(guests, self.settings.python, self.distribution)
                addresses = [guest.endpoint.address for guest in guests]
                configs = [network.tf_config(addresses, ports, i) for i in range(len(guests))]
            for guest, config in zip(guests, configs, strict=True):
                task = json.dumps(self._task(config)).encode()
                guest.run([self.settings.python, "-c", scripts.LAUNCH], timeout_s=60, stdin=task)

    def _task(self, tf_config: str | None) -> dict[str, object]:
        command = [self.settings.python, self.workload.program.name, "--out", "out"]
        environment = {"GPUVM_RUN": self.record.run_id, "PYTHONUNBUFFERED": "1"}
        if tf_config is not None:
            command += ["--start-deadline-s", f"{self.distribution.start_s:g}"]
            environment["TF_CONFIG"] = tf_config
        return {
            "dir": self._directory,
            "command": [*command, *self.args],
            "env": environment,
            "without": network.PROXIES if tf_config is not None else (),
        }

    def _follow(self, seen: dict[str, Followed]) -> None:
        """Raises WorkerDied for the first that failed; others get a moment to end by themselves."""
        with ThreadPoolExecutor(len(self.members)) as threads:
            futures = {
                threads.submit(self._follow_one, member, seen[member.name]): member.name
                for member in self.members
            }
            try:
                waiting = set(futures)
                while waiting:
                    done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                    _raise_if_died(done, waiting, futures, seen)
            except BaseException:
                # The threads end when what they follow does.
                self.kill()
                raise

    def _follow_one(self, member: Member, seen: Followed) -> int:
        with self.events.phase("train", member.name):
            python = self.settings.python
            return follow(member.endpoint, python, self._directory, seen, self.on_step)

    def _on_all(self, phase: str, work: Callable[[Guest], Result]) -> dict[str, Result]:
        """On every guest at once; the first error in the members' order is raised."""

        def one(member: Member) -> Result:
            with self.events.phase(phase, member.name), connect(member.endpoint) as guest:
                return work(guest)

        with ThreadPoolExecutor(len(self.members)) as threads:
            futures = {member.name: threads.submit(one, member) for member in self.members}
            return {name: future.result() for name, future in futures.items()}

    def _quietly(self, work: Callable[[Guest], None]) -> None:
        def one(member: Member) -> None:
            try:
                with connect(member.endpoint, timeout_s=5) as guest:
                    work(guest)
            except GuestError as error:
                self.events.warning(str(error), member.name)

        threads = [threading.Thread(target=one, args=(member,)) for member in self.members]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


def _failed(future: "Future[int]") -> bool:
    return future.exception() is not None or future.result() != 0


def _raise_if_died(
    done: set["Future[int]"],
    waiting: set["Future[int]"],
    names: Mapping["Future[int]", str],
    seen: Mapping[str, Followed],
) -> None:
    if any(_failed(one) for one in done):
        late, _ = wait(waiting, timeout=GRACE_S)
        raise _died(done | late, names, seen)


def _died(
    ended: set["Future[int]"], names: Mapping["Future[int]", str], seen: Mapping[str, Followed]
) -> RunError:
    """The one that died by itself, rather than one that lost it as a peer."""

    def by_itself(future: "Future[int]") -> int:
        return 0 if future.exception() or future.result() != LOST_A_PEER else 1

    failed = [one for one in ended if _failed(one)]
    first = min(failed, key=lambda one: (by_itself(one), names[one]))
    name = names[first]
    problem = first.exception()
    if problem is not None:
        return WorkerDied(name, None, [*tail_of(seen[name]), str(problem)])
    return WorkerDied(name, first.result(), tail_of(seen[name]))


def _checkpoint(resume: results.Run) -> dict[str, Path | bytes]:
    """The chief's checkpoint, for every VM: they share no disk."""
    chief = resume.vm_dir(resume.manifest.vms[0].name)
    files = [file for file in (chief / "checkpoints").rglob("*") if file.is_file()]
    if not files:
        raise PreflightRefused(f"run {resume.run_id} has no checkpoint to go on from")
    return {f"out/{file.relative_to(chief)}": file for file in files}
