"""run(): push, start, follow and fetch on every member; nothing stays behind in any guest."""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

from gpuvm import results
from gpuvm.errors import GpuvmError, Interrupted
from gpuvm.events import Events
from gpuvm.guest import (
    Guest,
    Process,
    TransferProgress,
    connect,
    end_all,
    fetch,
    launch,
    push,
    query_gpus,
)
from gpuvm.inventory import Inventory
from gpuvm.runs import contract, follow, inputs, tf_config
from gpuvm.runs.bundle import Workload, check_imports
from gpuvm.runs.fan_out import Everywhere, Member
from gpuvm.runs.follow import TIMINGS, Follower, Outcome, Progress
from gpuvm.runs.inputs import Inputs, in_guest, push_inputs
from gpuvm.settings import GuestSettings
from gpuvm.spec import Distributed

PORT_RETRIES = 3
LOOK_S = 1.0
GRACE_S = 3.0
"""So long others may end after the first failure, to tell the one that died from its victims."""
START_SLACK = 1.5
"""The program's own start deadline says more, so it comes first."""

OnStep = Callable[[Progress], None]


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
    inputs: Inputs = MappingProxyType({}),
    more_args: Mapping[str, Sequence[str]] = MappingProxyType({}),
    on_step: OnStep = lambda _: None,
) -> None:
    """Runs the workload to its end; what the guests wrote is in ``record`` afterwards, whatever
    happened, and no process of the run is left in any guest that can be reached.

    Distributed, one worker's death ends all; else the members run side by side, each to its end.
    ``inputs`` are files and folders by their place below the guest's data folder, pushed once; an
    argument ``DATA/place`` becomes their path there. ``more_args`` are those that only single
    members get, by name. ``on_step`` is called from several threads.
    Raises PreflightRefused (a missing module), PortsBlocked, WorkerDied, RunError, GuestError,
    PartlyDone, and Interrupted on Ctrl-C.
    """
    work = _Running(
        workload,
        tuple(in_guest(argument, inputs) for argument in args),
        tuple(members),
        distributed,
        guest,
        distribution,
        record,
        events,
        on_step,
        more_args,
    )
    try:
        work.check(resume)
        work.push_inputs(inputs)
        work.push()
        work.train()
        work.fetch()
    except KeyboardInterrupt:
        with record.finishing("interrupted", "interrupted"):
            work.clean_up()
        raise Interrupted(
            "interrupted; the workload was ended in every guest",
            hint=_how_to_go_on(record),
        ) from None
    except BaseException as error:
        with record.finishing("failed", str(error)):
            work.clean_up()
        raise
    record.finish("succeeded")


def begin_record(
    workload: str,
    args: Sequence[str],
    inventory: Inventory,
    deployment: str,
    members: Sequence[Member],
    *,
    distributed: bool,
) -> results.Run:
    """The run's folder with its manifest: which VMs take part, with which GPUs, in which role."""
    vcenter = inventory.vcenter
    return results.create(
        workload=workload,
        args=args,
        distributed=distributed,
        vcenter=vcenter,
        cluster=inventory.cluster.name,
        deployment=deployment,
        vms=[_run_vm(m, i, distributed=distributed) for i, m in enumerate(members)],
        provisioning=results.provisioning_record(vcenter.instance_uuid, deployment),
    )


def _run_vm(member: Member, position: int, *, distributed: bool) -> results.RunVM:
    role: Literal["chief", "worker", "single"] = "single"
    if distributed:
        role = "worker" if position else "chief"
    return results.RunVM(
        name=member.name,
        index=member.vm.index or 0,
        host=member.vm.host,
        address=member.endpoint.address,
        role=role,
        accelerator=member.vm.accelerator,
        gpus=tuple(
            results.RunGPU(
                pci_address=gpu.pci_address,
                model=gpu.name,
                vendor_id=gpu.vendor_id,
                device_id=gpu.device_id,
            )
            for gpu in member.gpus
        ),
    )


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
    on_step: OnStep
    more_args: Mapping[str, Sequence[str]]
    resumed: Mapping[str, inputs.Files] = field(default_factory=dict)
    """The checkpoints to go on from, by VM."""
    launched: bool = False
    """Something has been started at some time."""
    running: bool = False
    """It may still run."""
    fetched: bool = False

    def __post_init__(self) -> None:
        self.guests = Everywhere(self.members, self.events)

    # The order of work.

    def check(self, resume: results.Run | None) -> None:
        """Before anything is sent, so that nothing is sent for a run that cannot be."""
        if resume is not None:
            kept = inputs.files(resume, len(self.members), distributed=self.distributed)
            names = [member.name for member in self.members]
            self.resumed = dict(zip(names, kept, strict=True))
        python, modules = self.settings.python, self.workload.requires
        self.guests.each(None, lambda guest: check_imports(guest, python, modules))

    def push(self) -> None:
        simulated = self.guests.each("push", self._push)
        self.record.describe_vms(
            [
                vm.model_copy(update={"simulated": simulated[vm.name]})
                for vm in self.record.manifest.vms
            ]
        )

    def push_inputs(self, inputs: Inputs) -> None:
        if inputs:
            folder, python = self.settings.work_dir, self.settings.python

            def push_data(guest: Guest) -> None:
                push_inputs(guest, folder, inputs, self.events, python=python)

            self.guests.each("push_inputs", push_data)

    def train(self) -> None:
        """A port that was lost between choice and use is chosen again, three times at most."""
        for retries_left in reversed(range(PORT_RETRIES + 1)):
            self._launch()
            followers = [self._follower(member) for member in self.members]
            error = self._follow(followers)
            if error is None:
                return
            lost = [f for f in followers if f.port_lost and not f.stepped]
            if not (self.distributed and lost and retries_left):
                raise error
            self.events.warning("its port was taken meanwhile; new ones are chosen", lost[0].name)

    def fetch(self) -> None:
        """What the program may have left running ends before its files are read."""

        def end_and_fetch(guest: Guest) -> None:
            end_all(guest, self.settings.python, self.record.run_id)
            self._fetch(guest)

        self.guests.each("fetch", end_and_fetch)
        self.fetched = True
        self._check_contract()

    def clean_up(self) -> None:
        """After an error or Ctrl-C, whatever of it is still to be done."""
        if self.running:
            self._end()
        if self.launched and not self.fetched:
            self.guests.quietly(self._fetch)

    # In one guest.

    def _push(self, guest: Guest) -> bool:
        files: inputs.Files = {file.name: file for file in self.workload.files}
        files |= self.resumed.get(guest.name, {})
        push(guest, files, self._directory, python=self.settings.python)
        return query_gpus(guest).simulated

    def _fetch(self, guest: Guest) -> None:
        def report(progress: TransferProgress) -> None:
            self.events.progress(guest.name, "fetch", progress.fraction, f"fetching: {progress}")

        folder, here = f"{self._directory}/out", self.record.vm_dir(guest.name)
        fetch(guest, folder, here, python=self.settings.python, on_progress=report)

    def _check_contract(self) -> None:
        said = contract.complaint(
            self.workload.program.name,
            {member.name: self.record.vm_dir(member.name) for member in self.members},
            chief=self.members[0].name if self.distributed else None,
            resumed=bool(self.resumed),
        )
        if said:
            self.events.warning(said)

    @property
    def _directory(self) -> str:
        return f"{self.settings.work_dir}/{self.record.run_id}"

    def _process(self, member: Member, config: str | None) -> Process:
        command = [self.settings.python, self.workload.program.name, "--out", "out"]
        environment = {"PYTHONUNBUFFERED": "1"}
        if config is not None:
            command += ["--start-deadline-s", f"{self.distribution.start_s:g}"]
            environment["TF_CONFIG"] = config
        return Process(
            directory=self._directory,
            command=[*command, *self.args, *self.more_args.get(member.name, ())],
            mark=self.record.run_id,
            environment=environment,
            without=tf_config.PROXIES if config is not None else (),
            anew=(TIMINGS,),
        )

    # Start and follow.

    def _follower(self, member: Member) -> Follower:
        return Follower(member, self.record.vm_dir(member.name), self.events, self.on_step)

    def _launch(self) -> None:
        with ExitStack() as stack:
            guests = [stack.enter_context(connect(m.endpoint)) for m in self.members]
            processes = self._processes(guests)
            self.launched = self.running = True
            with ThreadPoolExecutor(len(guests)) as threads:
                python = [self.settings.python] * len(guests)
                list(threads.map(launch, guests, python, processes))

    def _processes(self, guests: Sequence[Guest]) -> list[Process]:
        if not self.distributed:
            return [self._process(member, None) for member in self.members]
        with self.events.phase("check_network"):
            ports = tf_config.choose_ports(guests, self.settings.python, self.distribution)
        addresses = [guest.endpoint.address for guest in guests]
        return [
            self._process(member, tf_config.tf_config(addresses, ports, i))
            for i, member in enumerate(self.members)
        ]

    def _follow(self, followers: Sequence[Follower]) -> GpuvmError | None:
        """Why it failed, or None; the programs have ended by then."""
        stop = threading.Event()
        with ThreadPoolExecutor(len(followers)) as threads:
            futures = {threads.submit(self._follow_one, f, stop): f for f in followers}
            try:
                return self._wait(futures)
            except BaseException:
                self._end()
                raise
            finally:
                stop.set()  # the threads end when what they follow does, or is out of reach

    def _follow_one(self, follower: Follower, stop: threading.Event) -> Outcome:
        self.events.start("train", follower.name)
        begun = time.monotonic()
        outcome = follower.follow(self.settings.python, self._directory, stop)
        seconds = time.monotonic() - begun
        self.events.end("train", seconds, follower.name, ok=not outcome.failed)
        return outcome

    def _wait(self, futures: "Mapping[Future[Outcome], Follower]") -> GpuvmError | None:
        waiting = set(futures)
        while waiting:
            done, waiting = wait(waiting, timeout=LOOK_S, return_when=FIRST_COMPLETED)
            if not self.distributed:
                continue
            failed = [futures[one] for one in done if one.result().failed]
            if failed:
                clear = any(follower.port_lost for follower in failed)
                wait(waiting, timeout=0 if clear else GRACE_S)
                return self._died(futures)
            start_s = self.distribution.start_s * START_SLACK
            late = [futures[one] for one in waiting if futures[one].overdue(start_s)]
            if late:
                self._end()
                return follow.not_started(late, start_s)
        return follow.sum_up([(futures[one], one.result()) for one in futures])

    def _died(self, futures: "Mapping[Future[Outcome], Follower]") -> GpuvmError:
        """Ends the others too, and so finds out which guests do not answer any more."""
        endings = [(futures[one], one.result()) for one in futures if one.done()]
        ended = {follower.name for follower, _ in endings}
        self._end()
        lost = self.guests.lost - ended
        silent = [follower for follower in futures.values() if follower.name in lost]
        return follow.cause(endings, silent)

    def _end(self) -> None:
        """Ends the run's processes in every guest that can be reached."""
        self.guests.quietly(lambda one: end_all(one, self.settings.python, self.record.run_id))
        self.running = False


def _how_to_go_on(record: results.Run) -> str:
    kept = f"its records are in {record.dir}"
    if inputs.possible(record):
        return f"{kept}; --resume {record.run_id} resumes from its last checkpoint"
    return f"{kept}; there is no checkpoint to resume from yet"
