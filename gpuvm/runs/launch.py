"""Checks, pushes and launches a run in its guests."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from gpuvm.errors import GPUsBusy, PreflightRefused
from gpuvm.guest import (
    Busy,
    GPUHealth,
    GPUProcess,
    Guest,
    Process,
    gpu_holder,
    launch,
    list_processes,
    mark_project,
    push,
    push_by_content,
    read_gpu_health,
    take_place,
)
from gpuvm.runs import environment, inputs, tf_config
from gpuvm.runs.bundle import SAFE_PATH, Workload, check_imports
from gpuvm.runs.fan_out import Member
from gpuvm.runs.follow import TIMINGS
from gpuvm.runs.inputs import STORE, Inputs, push_inputs
from gpuvm.runs.watched import LIMIT_BYTES, WatchedRun
from gpuvm.runs.worker_links import SOCKET
from gpuvm.text import counted, typed_word

MANIFEST = "run.json"
"""In a run's folder in each guest, for operators on other machines."""
REQUIREMENTS = "requirements"
"""The folder of a requirements file that is not part of the project."""
QUEUED_START_S = 7 * 24 * 3600.0
"""Start deadline of a worker whose peers may still wait for their guests."""


@dataclass(frozen=True)
class RunOptions:
    """``gpu``: require ``exclusive`` GPUs, ``share`` them with other processes, or wait in the
    ``queue``. ``then``: what the guests do after the run. ``detach``: return when the run has been
    started or queued.
    """

    gpu: Literal["exclusive", "share", "queue"] = "exclusive"
    then: Literal["shutdown"] | None = None
    detach: bool = False
    healthy: bool = True
    """Refuse GPUs that report problems, such as memory errors."""
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Variables for the program; they may be secret and are not written anywhere."""
    wheelhouse: str | None = None
    """A folder of wheels among the inputs, ``DATA/place``, to install requirements from."""
    fetch_limit: int | None = LIMIT_BYTES
    """The most bytes to fetch from each guest; None for no limit."""
    max_restarts: int = 3
    """How often the workers of a distributed run are started again, all in all."""
    rejoin_s: float = 120.0
    """How long a distributed run holds the place of a VM that is away."""
    live: Sequence[str] = ()
    """Globs of results to fetch during the run already, whenever it writes a checkpoint."""


@dataclass(frozen=True)
class Launch:
    """Its programs in the guests: all at the start, and again those that were lost."""

    work: WatchedRun
    workload: Workload
    args: tuple[str, ...]
    more_args: Mapping[str, Sequence[str]]
    options: RunOptions
    checkpoints: Mapping[str, inputs.Files]
    """The files to resume from, by VM."""
    pythons: dict[str, str] = field(default_factory=dict)
    """The interpreters with the project's requirements, by VM."""

    def push(self) -> None:
        self.work.guests.each("push", self._push)

    def push_inputs(self, inputs: Inputs) -> None:
        folder, python = self.work.settings.work_dir, self.work.settings.python

        def push_data(guest: Guest) -> None:
            push_inputs(guest, folder, inputs, self.work.events, python=python)

        self.work.guests.each("push_inputs", push_data)

    @property
    def in_rounds(self) -> bool:
        return self.work.record.manifest.strategy == "local-sgd"

    @property
    def active(self) -> list[Member]:
        """The members that have not been given up."""
        given_up = self.work.guests.given_up
        return [member for member in self.work.members if member.name not in given_up]

    def start_again(self, guest: Guest, member: Member) -> None:
        """The program of one member of a run in rounds."""
        answer = launch(guest, self.work.settings.python, self._process(member, 0, again=True))
        if isinstance(answer, Busy):
            raise self._busy(guest, answer.run)

    def launch(self, *, again: bool = False) -> None:
        """All active members' programs; ``again`` keeps what they have written before.

        Raises GPUsBusy, PortsBlocked and GuestError.
        """
        with ExitStack() as stack:
            connection = self.work.guests.connection
            guests = [stack.enter_context(connection(member)) for member in self.active]
            processes = [replace(one, again=again) for one in self._processes(guests)]
            self.work.launched = self.work.running = True
            with ThreadPoolExecutor(len(guests)) as threads:
                python = [self.work.settings.python] * len(guests)
                answers = list(threads.map(launch, guests, python, processes))
            for guest, answer in zip(guests, answers, strict=True):
                if isinstance(answer, Busy):
                    raise self._busy(guest, answer.run)
                if answer.ahead:
                    self.work.events.note(
                        f"queued: {counted(answer.ahead, 'run')} ahead", guest.name
                    )

    def _processes(self, guests: Sequence[Guest]) -> list[Process]:
        place = self._place(guests)
        if not self.work.distributed or self.in_rounds or len(guests) == 1:
            return [self._process(member, place) for member in self.active]
        with self.work.events.phase("check_network"):
            ports = tf_config.choose_ports(
                guests, self.work.settings.python, self.work.distribution
            )
        addresses = [guest.endpoint.address for guest in guests]
        return [
            self._process(member, place, tf_config.tf_config(addresses, ports, i), ports[i])
            for i, member in enumerate(self.active)
        ]

    def _place(self, guests: Sequence[Guest]) -> int:
        """The highest place of all guests' queues, which the run takes in each."""
        if self.options.gpu != "queue":
            return 0
        work, run_id = self.work.settings.work_dir, self.work.record.run_id
        python = self.work.settings.python
        with ThreadPoolExecutor(len(guests)) as threads:
            return max(threads.map(lambda one: take_place(one, python, work, run_id), guests))

    def check(self) -> None:
        """Before anything is sent, so that nothing is sent for a run that cannot be."""
        simulated, record = self.work.guests.each(None, self._check), self.work.record
        changed = [
            vm.model_copy(update={"simulated": simulated[vm.name]}) for vm in record.manifest.vms
        ]
        record.update_vms(changed)

    def _check(self, guest: Guest) -> bool:
        """Whether its GPUs are simulated."""
        python = self.work.settings.python
        check_imports(guest, python, self.workload.requires)
        if self.options.gpu == "exclusive":
            holder = gpu_holder(guest, python, self.work.settings.work_dir)
            if holder is not None:
                raise self._busy(guest, holder)
        gpus = read_gpu_health(guest, python)
        if self.options.healthy:
            _check_health(guest.name, gpus.health)
        if self.options.gpu == "exclusive":
            _check_unused(guest.name, gpus.processes)
        return gpus.simulated

    def _busy(self, guest: Guest, holder: str) -> GPUsBusy:
        """The error with details of the run that has the GPUs."""
        listed = list_processes(guest, self.work.settings.python, self.work.settings.work_dir)
        found = next((one for one in listed if one.run == holder), None)
        return GPUsBusy(guest.name, typed_word(holder), found.about if found else "")

    def _push(self, guest: Guest) -> None:
        workload, directory, python = self.workload, self.work.directory, self.work.settings.python
        below = "" if workload.cwd == "." else f"{workload.cwd}/"
        files: inputs.Files = {f"{below}{name}": file for name, file in workload.files.items()}
        files |= self.checkpoints.get(guest.name, {})
        files[MANIFEST] = self.work.record.manifest.model_dump_json(by_alias=True).encode()
        if workload.requirements is not None:
            files[f"{REQUIREMENTS}/{workload.requirements.name}"] = workload.requirements
        if workload.own:
            store = f"{self.work.settings.work_dir}/{STORE}"
            report = self.work.reporter(guest, "push", "sending")
            push_by_content(guest, files, directory, store, python=python, on_progress=report)
            mark_project(guest, python, directory)
        else:
            push(guest, files, directory, python=python)
        if workload.requirements is not None:
            self.pythons[guest.name] = self._environment(guest, workload.requirements)

    def _environment(self, guest: Guest, requirements: Path) -> str:
        """Returns the Python of an environment with the project's requirements."""
        settings, wheels = self.work.settings, self.options.wheelhouse
        key = environment.key(requirements, wheels)
        place = f"{self.work.directory}/{self.workload.cwd}/{requirements.name}"
        if self.workload.files.get(requirements.name) != requirements:
            place = f"{self.work.directory}/{REQUIREMENTS}/{requirements.name}"
        in_guest = None if wheels is None else f"{settings.work_dir}/{wheels}"
        return environment.ensure(guest, settings.python, self.work.directory, key, place, in_guest)

    def _process(
        self,
        member: Member,
        place: int,
        config: str | None = None,
        port: int | None = None,
        *,
        again: bool = False,
    ) -> Process:
        contract = self.workload.declaration.contract
        python = self.pythons.get(member.name, self.work.settings.python)
        command = [python, *self.workload.command] if self.workload.python else []
        command = command or list(self.workload.command)
        queued = self.options.gpu == "queue"
        variables = {
            "PYTHONUNBUFFERED": "1",
            SAFE_PATH: "",
            "GPUVM_WORKER": str(self.active.index(member)),
            "GPUVM_WORKERS": str(len(self.active)),
            **self.options.environment,
        }
        own_folder = self.workload.cwd != "."
        if self.work.distributed:
            name = "GPUVM_AVERAGING" if self.in_rounds else "GPUVM_HEARTBEAT"
            variables[name] = f"../{SOCKET}" if own_folder else SOCKET
        if self.work.record.manifest.gpus_hidden:
            variables["CUDA_VISIBLE_DEVICES"] = "-1"
        if contract:
            command += ["--out", "../out" if own_folder else "out"]
        if config is not None:
            variables["TF_CONFIG"] = config
            start_s = QUEUED_START_S if queued else self.work.distribution.start_s
            if contract:
                command += ["--start-deadline-s", f"{start_s:g}"]
        return Process(
            directory=self.work.directory,
            command=[*command, *self.args, *self.more_args.get(member.name, ())],
            mark=self.work.record.run_id,
            environment=variables,
            without=tf_config.PROXIES if config is not None else (),
            fresh=(TIMINGS,),
            cwd=self.workload.cwd,
            gpu="exclusive" if again and queued else self.options.gpu,
            place=place,
            port=port if queued else None,
            then=self.options.then,
            again=again,
        )


def _check_health(vm: str, gpus: Sequence[GPUHealth]) -> None:
    for gpu in gpus:
        if gpu.problems:
            raise PreflightRefused(
                f"{vm}: {gpu.name} at {gpu.bus_id} is unhealthy: {'; '.join(gpu.problems)}",
                hint="restart the VM or give it another GPU; --ignore-gpu-health runs anyway",
            )


def _check_unused(vm: str, users: Sequence[GPUProcess]) -> None:
    others = [user for user in users if user.run is None]
    if others:
        names = ", ".join(f"{one.name} (process {one.pid}, {one.memory})" for one in others)
        raise PreflightRefused(
            f"{vm}: its GPU is used by {names}, which gpuvm did not start",
            hint="end it, or run with --share",
        )
