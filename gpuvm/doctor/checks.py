"""The checks of ``gpuvm doctor``: vCenter, account, hosts and GPUs, VM template, the plan itself.

Each yields results for one subject; ``gpuvm.doctor.run_checks`` has their order.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence

from gpuvm import privileges, selection, storage
from gpuvm.accelerators import VGPU, DeviceGroup, DynamicPassthrough
from gpuvm.devices import GPU
from gpuvm.doctor.model import Check, CheckInput, Level
from gpuvm.errors import GpuvmError, SeveralRefused
from gpuvm.inventory import Host, Licence, VMTemplate
from gpuvm.planner import Action, Plan
from gpuvm.privileges import Wanted
from gpuvm.selection import major

_WITHOUT_VGPU = ("standard", "essentials")
"""Editions of vSphere; vGPUs need Enterprise Plus, vSphere Foundation or Cloud Foundation."""


def version(given: CheckInput) -> Iterator[Check]:
    about = given.inventory.vcenter
    api = about.api_version
    text = f"{about.name} {about.version}, API {api}"
    if isinstance(given.spec.accelerator, DynamicPassthrough) and major(api) < 7:
        told = f"Dynamic DirectPath I/O needs vSphere 7.0, this vCenter's API is {api}"
        yield Check("vCenter", "failure", told, hint="--accelerator passthrough works here")
    elif major(api) < 7:
        hint = "accelerator passthrough works; upgrade for dynamic"
        yield Check("vCenter", "warning", f"{text}: no Dynamic DirectPath I/O before 7.0", hint)
    else:
        yield Check("vCenter", "ok", text + ("" if major(api) >= 8 else _NO_GROUPS))


_NO_GROUPS = ": Dynamic DirectPath I/O, but no device groups before 8.0"


def tls(given: CheckInput) -> Iterator[Check]:
    said = {
        "system": "verified by the system's certificate store",
        "ca": "verified by the context's CA file",
        "sha256": "pinned by its SHA-256",
    }
    if given.tls in said:
        yield Check("TLS", "ok", f"the vCenter's certificate is {said[given.tls]}")
    else:
        yield Check(
            "TLS",
            "warning",
            "the vCenter's certificate is not verified: anybody between could read the password",
            hint="fetch the CA from https://VCENTER/certs/download.zip, 'gpuvm init --ca-file'",
        )


def licences(given: CheckInput) -> Iterator[Check]:
    """What can be known of them; a licence that cannot be read stands in nobody's way."""
    if given.licences is None:
        yield Check("licences", "ok", "unknown: this account may not read it")
    else:
        yield Check("licences", "ok", _licensed(given, given.licences))
        yield from _trouble(given, given.licences)
    if isinstance(given.spec.accelerator, (VGPU, DeviceGroup)):
        told = "NVIDIA's vGPU licence is between guest and licence server: it cannot be known here"
        hint = "in a guest: nvidia-smi -q | grep -A2 License"
        yield Check("vGPU licence", "ok", told, hint)


def _licensed(given: CheckInput, known: Mapping[str, Licence]) -> str:
    own = known.get(given.inventory.vcenter.instance_uuid)
    hosts = Counter(
        _called(known.get(host.moref)) for host in given.inventory.hosts if not host.unusable
    )
    told = ", ".join(f"{count} with {name}" for name, count in sorted(hosts.items()))
    return f"vCenter: {_called(own)}; hosts: {told or 'none'}"


def _called(licence: Licence | None) -> str:
    if licence is None:
        return "a licence that is not known"
    ends = f" (until {licence.expires})" if licence.expires else ""
    return licence.name + ends


def _trouble(given: CheckInput, known: Mapping[str, Licence]) -> Iterator[Check]:
    inventory = given.inventory
    owners = {host.moref: host.name for host in inventory.hosts}
    owners[inventory.vcenter.instance_uuid] = "the vCenter"
    for key, name in owners.items():
        licence = known.get(key)
        if licence is not None and licence.expired:
            text = f"{name}: {licence.name} expired on {licence.expires}"
            hint = "no VM is powered on without a licence: assign another one"
            yield Check("licences", "warning", text, hint)
    if isinstance(given.spec.accelerator, VGPU):
        for host in inventory.hosts:
            licence = known.get(host.moref)
            if licence is not None and any(e in licence.name.lower() for e in _WITHOUT_VGPU):
                text = f"{host.name}: {licence.name} has no vGPUs"
                yield Check("licences", "warning", text, "Enterprise Plus or a Foundation has")


_ROLES = "docs/permissions.md has the roles, and the govc lines that make them"


def account_privileges(given: CheckInput) -> Iterator[Check]:
    spec, inventory, used = given.spec, given.inventory, given.trial.used
    lacking = _lacking(given, privileges.to_provision(spec, inventory, used))
    if lacking:
        yield Check("privileges", "failure", "missing: " + lacking, _ROLES)
    else:
        told = "this account may make, start and remove these VMs"
        yield Check("privileges", "ok", told + _not_asked(given))
    cancelling = _lacking(given, privileges.to_cancel(used))
    if cancelling:
        hint = "only Ctrl-C needs it, to stop clones that are under way"
        yield Check("privileges", "warning", "missing: " + cancelling, hint)
    moving = _lacking(given, privileges.to_move(spec, inventory))
    if moving and not lacking:
        hint = "only 'gpuvm start' needs it, to find a GPU on another host"
        yield Check("privileges", "warning", "missing: " + moving, hint)
    for moref, wanted in privileges.to_prepare_hosts(inventory).items():
        missing = _lacking(given, {moref: wanted})
        if missing:
            hint = "only 'gpuvm passthrough' needs them; another account may have them"
            yield Check("host privileges", "warning", "missing: " + missing, hint)


def _lacking(given: CheckInput, wanted: Wanted) -> str:
    names = privileges.names(given.spec, given.inventory)
    told = []
    for moref, asked in wanted.items():
        missing = [one for one in asked if one in given.missing.get(moref, ())]
        if missing:
            told.append(f"{', '.join(missing)} on {names[moref]}")
    return "; ".join(told)


def _not_asked(given: CheckInput) -> str:
    """What could not be asked is no finding, but is not ok either."""
    used = given.trial.used
    if not given.trial.makes_vms:
        return ""
    objects = {
        "template": used.template,
        "datastore": used.datastores or None,
        "template's network": used.network,
    }
    unknown = [name for name, found in objects.items() if found is None]
    return f"; not asked, for it is not known which: {', '.join(unknown)}" if unknown else ""


_IOMMU = "VT-d or the AMD IOMMU must be on in the host's firmware"


def hosts(given: CheckInput) -> Iterator[Check]:
    every = given.inventory.hosts
    usable = [host for host in every if host.unusable is None]
    level: Level = "ok" if usable else "failure"
    versions = ", ".join(sorted({f"ESXi {host.version}" for host in usable if host.version}))
    yield Check("hosts", level, f"{len(usable)} of {len(every)} can take VMs; {versions}")
    for host in every:
        if host.unusable is not None:
            yield Check("hosts", "warning", f"{host.name} is left out: {host.unusable}")
    yield from _too_old(given, usable)


def _too_old(given: CheckInput, usable: list[Host]) -> Iterator[Check]:
    """A vCenter may be newer than its hosts."""
    since = {DynamicPassthrough: (7, "Dynamic DirectPath I/O"), DeviceGroup: (8, "device groups")}
    needed, what = since.get(type(given.spec.accelerator), (0, ""))
    for host in usable:
        if host.version and major(host.version) < needed:
            text = f"{host.name}: ESXi {host.version} has no {what}, which came with {needed}.0"
            yield Check("hosts", "warning", text, "upgrade it, or take it out of the cluster")


def gpus(given: CheckInput) -> Iterator[Check]:
    found = given.inventory.gpus
    if not found:
        cluster = given.inventory.cluster.name
        yield Check(
            "GPUs",
            "warning" if not given.spec.has_gpu else "failure",
            f"no host of {cluster} has an NVIDIA GPU that this account can see",
            hint="--accelerator none makes VMs without one",
        )
        return
    free = [gpu for gpu in found if gpu.free or _is_shared(gpu)]
    yield Check("GPUs", "ok" if free else "warning", f"{len(free)} of {len(found)} are available")
    for gpu in found:
        if (gpu.holders and not gpu.reboot_pending) or gpu.free or _is_shared(gpu):
            continue
        hint = _hint(gpu)
        yield Check("GPUs", "warning", f"{gpu.host} {gpu.pci_address}: {gpu.state}", hint)


def unseen(given: CheckInput) -> Iterator[Check]:
    """What stays open, because the vCenter does not show it or this account may not see it."""
    for note in given.inventory.notes:
        yield Check("not shown", "warning", note, _READ)
    for store in given.inventory.datastores:
        if store.hidden:
            yield Check("not shown", "warning", f"{store.name}: {store.hidden}", _READ)


_READ = "docs/permissions.md says what an account must be able to read"


def _is_shared(gpu: GPU) -> bool:
    return bool(gpu.profiles) and not gpu.reboot_pending


def _hint(gpu: GPU) -> str:
    """Hint for a shared GPU: use it for vGPUs, or switch it to passthrough."""
    if not gpu.capable:
        return _IOMMU
    if gpu.profiles:
        only = f"{gpu.host} --gpu {gpu.pci_address}"
        return f"gpuvm passthrough disable {only} keeps it shared; enable {only} --reboot does not"
    return f"gpuvm passthrough enable {gpu.host} --reboot"


def vgpu(given: CheckInput) -> Iterator[Check]:
    """The driver shows itself by the types that a host offers; its version is not in the API."""
    wanted = isinstance(given.spec.accelerator, VGPU)
    for host in given.inventory.hosts:
        if host.gpus and host.unusable is None and (wanted or _sharing(host)):
            yield _driver(host, wanted=wanted)


def _sharing(host: Host) -> list[GPU]:
    return [gpu for gpu in host.gpus if gpu.shared_direct]


def _driver(host: Host, *, wanted: bool) -> Check:
    offered = sorted({p.name for gpu in host.gpus for p in gpu.profiles})
    if offered:
        told = f"{host.name} has NVIDIA's vGPU driver, and offers {', '.join(offered)}"
        return Check("vGPU", "ok", told)
    sharing = _sharing(host)
    if not sharing:
        text = (
            f"no GPU of {host.name} is set to Shared Direct: whether it has a vGPU driver is not "
            "known"
        )
        hint = "the host's graphics devices, 'Shared Direct', if they are to offer vGPUs"
        return Check("vGPU", "warning", text, hint)
    named = f"{', '.join(gpu.pci_address for gpu in sharing)} on {host.name}: Shared Direct"
    if all(gpu.active for gpu in sharing):
        only = "".join(f" --gpu {gpu.pci_address}" for gpu in sharing)
        text = f"{named}, and set aside for passthrough"
        return Check("vGPU", "warning", text, f"gpuvm passthrough disable {host.name}{only}")
    text = f"{named}, and no vGPU type is offered"
    hint = "NVIDIA's vGPU driver (VIB) is missing on the host, or does not know the card"
    return Check("vGPU", "failure" if wanted else "warning", text, hint)


def templates(given: CheckInput) -> Iterator[Check]:
    inventory = given.inventory
    if not inventory.templates:
        hint = "docs/template.md says how to make one"
        level: Level = "failure" if given.trial.makes_vms else "warning"
        yield Check("template", level, "there is no VM template at all", hint)
    for one in _candidates(given):
        yield _fit(one, given)
        yield from _inside(one, given)


def _candidates(given: CheckInput) -> Sequence[VMTemplate]:
    wanted, inventory = given.spec.template, given.inventory
    if wanted is None:
        return inventory.templates
    return selection.named(wanted, inventory.templates, inventory.cluster)


def _fit(one: VMTemplate, given: CheckInput) -> Check:
    why = selection.unfit_for(one, given.spec, given.inventory)
    if why is not None:
        hint = "docs/template.md says what a template must have"
        return Check("template", _level(one, given), f"{_label(one, given)}: {why}", hint)
    about = (
        f"{_label(one, given)}: {one.firmware}, hardware version {one.hardware_version}, "
        f"{one.cpus} CPUs, {one.memory_gib:g} GiB, {len(one.snapshots)} snapshots"
    )
    return Check("template", "ok", about)


def _label(one: VMTemplate, given: CheckInput) -> str:
    return selection.distinct(one, given.inventory.templates)


def _inside(one: VMTemplate, given: CheckInput) -> Iterator[Check]:
    if one.tools == "guestToolsNotInstalled":
        label = _label(one, given)
        text = f"{label}: VMware Tools are not installed, so no address is ever reported"
        yield Check("template", _level(one, given), text, "install open-vm-tools in it")
    if one.secure_boot and given.spec.has_gpu:
        text = f"{_label(one, given)}: Secure Boot is on"
        hint = "the NVIDIA kernel module must be signed with an enrolled key, or it will not load"
        yield Check("template", "warning", text, hint)


def _level(one: VMTemplate, given: CheckInput) -> Level:
    """A failure for the one that is used, and where there is no other."""
    chosen = given.trial.used.template
    needed = chosen == one if chosen else len(_candidates(given)) == 1
    return "failure" if needed and given.trial.makes_vms else "warning"


_DONE: dict[Action, str] = {
    "create": "to make",
    "power-on": "to power on",
    "keep": "unchanged",
    "remove": "to remove",
}


def choices(given: CheckInput) -> Iterator[Check]:
    """Device group, network and datastore: those of the plan, else what is known without one."""
    if isinstance(given.spec.accelerator, DeviceGroup):
        yield _tried("device group", lambda: _device_group(given))
    if not given.trial.makes_vms:
        return
    yield _tried("network", lambda: _network(given))
    if isinstance(given.trial.plan, Plan):
        yield from _datastores(given.trial.plan)
    elif given.trial.used.datastores:
        for store in given.trial.used.datastores:
            yield Check("datastore", "ok", f"{store.name}: {store.free_gib:.0f} GiB free")
    elif not any(store.accessible for store in given.inventory.datastores):
        yield Check("datastore", "failure", "no host has a datastore that can be reached")


def plan(given: CheckInput) -> Iterator[Check]:
    """Says no where ``gpuvm plan`` does, with its words."""
    made = given.trial.plan
    if isinstance(made, GpuvmError):
        several = made.errors if isinstance(made, SeveralRefused) else (made,)
        yield from (Check("plan", "failure", str(error), error.hint) for error in several)
        return
    counted = Counter(step.action for step in made.steps)
    told = ", ".join(f"{counted[a]} {what}" for a, what in _DONE.items() if counted[a])
    yield Check("plan", "ok", f"VMs: {told}")
    for finding in made.findings:
        yield Check("plan", "warning", finding.text, finding.hint)


def _device_group(given: CheckInput) -> str:
    selection.check_device_group(given.spec, given.inventory)
    return "offered"


def _network(given: CheckInput) -> str:
    made = given.trial.plan
    if isinstance(made, Plan):
        return made.network.name if made.network else _TEMPLATES_OWN
    chosen = selection.network(given.spec, given.inventory, ())
    return chosen.name if chosen else _TEMPLATES_OWN


_TEMPLATES_OWN = "the template's own"


def _datastores(made: Plan) -> Iterator[Check]:
    if made.template is None or not made.datastores:
        yield Check("datastore", "ok", "none is needed")
        return
    for store in made.datastores:
        clones = sum(step.datastore == store for step in made.created)
        space = storage.Space.of(made.spec, made.template, clones)
        yield Check("datastore", "ok", f"{store.name}: {store.free_gib:.0f} GiB free, {space}")


def _tried(name: str, find: Callable[[], str]) -> Check:
    try:
        return Check(name, "ok", find())
    except GpuvmError as error:
        return Check(name, "failure", str(error), error.hint)
