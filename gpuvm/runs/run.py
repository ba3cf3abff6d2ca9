"""run(): push, launch, follow and fetch on every member."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from gpuvm import results
from gpuvm.errors import GPUsBusy, PreflightRefused
from gpuvm.events import Events
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
from gpuvm.inventory import Inventory
from gpuvm.runs import environment, inputs, tf_config
from gpuvm.runs.bundle import SAFE_PATH, Workload, check_imports
from gpuvm.runs.fan_out import Member
from gpuvm.runs.follow import TIMINGS, Watch
from gpuvm.runs.inputs import STORE, Inputs, in_guest, push_inputs
from gpuvm.runs.watched import LIMIT_BYTES, WatchedRun
from gpuvm.settings import GuestSettings
from gpuvm.spec import Distributed
from gpuvm.text import counted, typed_word

MANIFEST = "run.json"
"""In a run's folder in each guest, for operators on other machines."""
REQUIREMENTS = "requirements"
"""The folder of a requirements file that is not part of the project."""
PORT_RETRIES = 3
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
    live: Sequence[str] = ()
    """Globs of results to fetch during the run already, whenever it writes a checkpoint."""


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
    options: RunOptions = RunOptions(),
    watch: Watch = Watch(),  # noqa: B008 - has no state
) -> bool:
    """Run the workload; return False when it keeps running after this returns.

    In any case the guests' output is then in ``record``, and no process of an ended run is left in
    a reachable guest. ``attach`` follows a run that keeps running.

    If ``distributed``, the failure of one worker ends all; else the members are independent.
    ``inputs`` are files and folders by their place below the guest's data folder, pushed once; an
    argument ``DATA/place`` is replaced by their path there. ``more_args`` are additional arguments
    by member.
    Raises PreflightRefused (a missing module), GPUsBusy, PortsBlocked, WorkerDied, RunError,
    GuestError, PartlyDone, and Interrupted on Ctrl-C.
    """
    checkpoints = _checkpoints(resume, members, distributed=distributed)
    work = WatchedRun(tuple(members), guest, distribution, record, events, watch)
    work.resumed, work.queued = bool(checkpoints), options.gpu == "queue"
    work.limit_bytes, work.live = options.fetch_limit, options.live
    in_guests = tuple(in_guest(argument, inputs, workload.cwd) for argument in args)
    start = _Start(work, workload, in_guests, more_args, options, checkpoints)
    with work.guests:
        try:
            start.check()
        except PreflightRefused:
            record.discard()
            raise
        with work.recorded():
            if inputs:
                start.push_inputs(inputs)
            start.push()
            if options.detach:
                start.launch()
                work.detached = True
            else:
                start.train()
                work.fetch()
    return not work.detached


def begin_record(
    workload: Workload,
    args: Sequence[str],
    inventory: Inventory,
    deployment: str,
    members: Sequence[Member],
    *,
    distributed: bool,
    then: Literal["shutdown"] | None = None,
    gpus_hidden: bool = False,
) -> results.Run:
    """Creates the run's folder and its manifest: the VMs with their GPUs and roles."""
    vcenter = inventory.vcenter
    return results.create(
        workload=workload.name,
        args=args,
        distributed=distributed,
        vcenter=vcenter,
        cluster=inventory.cluster.name,
        deployment=deployment,
        vms=[_run_vm(m, i, distributed=distributed) for i, m in enumerate(members)],
        provisioning=results.provisioning_record(vcenter.instance_uuid, deployment),
        then=then,
        gpus_hidden=gpus_hidden,
        contract=workload.declaration.contract,
        project=workload.hashes() if workload.own else None,
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


def _checkpoints(
    resume: results.Run | None, members: Sequence[Member], *, distributed: bool
) -> dict[str, inputs.Files]:
    if resume is None:
        return {}
    found = inputs.checkpoints(resume, len(members), distributed=distributed)
    return dict(zip([member.name for member in members], found, strict=True))


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
        cpus=member.vm.cpus,
        memory_gib=member.vm.memory_gib,
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


@dataclass(frozen=True)
class _Start:
    """Checks, pushes and launches a run in its guests."""

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

    def train(self) -> None:
        """Chooses new ports if one was taken before its use, three times at most."""
        for retries_left in reversed(range(PORT_RETRIES + 1)):
            self.launch()
            followers = [
                self.work.follower(member, from_start=True) for member in self.work.members
            ]
            error = self.work.follow(followers)
            if error is None:
                return
            lost = [f for f in followers if f.port_lost and not f.stepped]
            if not (self.work.distributed and lost and retries_left):
                raise error
            self.work.events.warning("its port is in use now; choosing new ports", lost[0].name)

    def launch(self) -> None:
        with ExitStack() as stack:
            connection = self.work.guests.connection
            guests = [stack.enter_context(connection(member)) for member in self.work.members]
            processes = self._processes(guests)
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
        if not self.work.distributed:
            return [self._process(member, place) for member in self.work.members]
        with self.work.events.phase("check_network"):
            ports = tf_config.choose_ports(
                guests, self.work.settings.python, self.work.distribution
            )
        addresses = [guest.endpoint.address for guest in guests]
        return [
            self._process(member, place, tf_config.tf_config(addresses, ports, i), ports[i])
            for i, member in enumerate(self.work.members)
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
        self, member: Member, place: int, config: str | None = None, port: int | None = None
    ) -> Process:
        contract = self.workload.declaration.contract
        python = self.pythons.get(member.name, self.work.settings.python)
        command = [python, *self.workload.command] if self.workload.python else []
        command = command or list(self.workload.command)
        queued = self.options.gpu == "queue"
        variables = {
            "PYTHONUNBUFFERED": "1",
            SAFE_PATH: "",
            "GPUVM_WORKER": str(self.work.members.index(member)),
            "GPUVM_WORKERS": str(len(self.work.members)),
            **self.options.environment,
        }
        if self.work.record.manifest.gpus_hidden:
            variables["CUDA_VISIBLE_DEVICES"] = "-1"
        if contract:
            command += ["--out", "out" if self.workload.cwd == "." else "../out"]
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
            gpu=self.options.gpu,
            place=place,
            port=port if queued else None,
            then=self.options.then,
        )
