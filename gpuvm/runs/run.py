"""run(): push, launch, follow and fetch on every member; attach() to one that runs."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Literal

from gpuvm import results
from gpuvm.errors import GpuvmError, PreflightRefused
from gpuvm.events import Events
from gpuvm.inventory import Inventory
from gpuvm.runs import inputs
from gpuvm.runs.bundle import Workload
from gpuvm.runs.fan_out import Member
from gpuvm.runs.follow import Watch
from gpuvm.runs.inputs import Inputs, in_guest
from gpuvm.runs.launch import Launch, RunOptions
from gpuvm.runs.lockstep import Lockstep
from gpuvm.runs.rounds import Restarts, Rounds
from gpuvm.runs.watched import WatchedRun
from gpuvm.settings import GuestSettings
from gpuvm.spec import Distributed


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
    options: RunOptions = RunOptions(),  # noqa: B008 - is frozen
    watch: Watch = Watch(),  # noqa: B008 - has no state
) -> bool:
    """Run the workload; return False when it keeps running after this returns.

    In any case the guests' output is then in ``record``, and no process of an ended run is left in
    a reachable guest. ``attach`` follows a run that keeps running.

    If ``distributed``, the workers go on without one that is lost, or from the last checkpoint;
    else the members are independent.
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
    launch = Launch(work, workload, in_guests, more_args, options, checkpoints)
    with work.guests:
        try:
            launch.check()
        except PreflightRefused:
            record.discard()
            raise
        with work.recorded():
            if inputs:
                launch.push_inputs(inputs)
            launch.push()
            if options.detach:
                launch.launch()
                work.detached = True
            else:
                _train(launch)
                work.fetch()
    return not work.detached


def attach(
    record: results.Run,
    members: Sequence[Member],
    *,
    guest: GuestSettings,
    events: Events,
    watch: Watch = Watch(),  # noqa: B008 - has no state
) -> bool:
    """Follow a run that is running or has ended, and fetch its output.

    ``members`` are its reachable VMs. Returns and raises as ``run`` does.
    """
    work = WatchedRun(tuple(members), guest, Distributed(), record, events, watch)
    work.launched = work.running = work.resumed = True
    with work.guests, work.recorded():
        followers = [work.follower(member, started=True) for member in members]
        if record.manifest.strategy == "local-sgd":
            error = Rounds(work, Restarts()).follow(followers)
        else:
            error = work.follow(followers)
        if error is not None:
            raise error
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
    strategy: results.Strategy | None = None,
    then: Literal["shutdown"] | None = None,
    gpus_hidden: bool = False,
) -> results.Run:
    """Creates the run's folder and its manifest: the VMs with their GPUs and roles.

    ``strategy`` is that of a distributed run.
    """
    vcenter = inventory.vcenter
    return results.create(
        workload=workload.name,
        args=args,
        distributed=distributed,
        strategy=strategy,
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


def _train(launch: Launch) -> None:
    work, options = launch.work, launch.options
    launch.launch()
    followers = [work.follower(member, from_start=True) for member in work.members]
    error: GpuvmError | None
    if launch.in_rounds:
        # A guest that is to shut down does so when its program has ended.
        most = 0 if options.then else options.max_restarts
        restarts = Restarts(launch.start_again, most, options.rejoin_s)
        error = Rounds(work, restarts).follow(followers)
    elif work.distributed:
        error = Lockstep(launch).follow(followers)
    else:
        error = work.follow(followers)
    if error is not None:
        raise error


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
