"""The checks of ``gpuvm doctor``: vCenter, account, hosts and GPUs, VM template, plan.

Each yields results for one subject; ``gpuvm.doctor.run_checks`` runs them in order.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence

from gpuvm import privileges, selection, storage
from gpuvm.accelerators import VGPU, DeviceGroup, DynamicPassthrough
from gpuvm.devices import GPU
from gpuvm.doctor.model import Check, CheckInput, Level
from gpuvm.errors import GpuvmError, SeveralRefused, SharedAddress
from gpuvm.inventory import Host, Licence, VMTemplate
from gpuvm.planner import Action, Plan
from gpuvm.privileges import Required
from gpuvm.selection import major
from gpuvm.text import counted, typed_word

_WITHOUT_VGPU = ("standard", "essentials")
"""Editions of vSphere; vGPUs need Enterprise Plus, vSphere Foundation or Cloud Foundation."""


def version(given: CheckInput) -> Iterator[Check]:
    about = given.inventory.vcenter
    api = about.api_version
    text = f"{about.name} {about.version}, API {api}"
    if isinstance(given.spec.accelerator, DynamicPassthrough) and major(api) < 7:
        text = f"Dynamic DirectPath I/O needs vSphere 7.0, this vCenter's API is {api}"
        yield Check("vCenter", "failure", text, hint="--accelerator passthrough works here")
    elif major(api) < 7:
        hint = "accelerator passthrough works; upgrade for dynamic"
        yield Check("vCenter", "warning", f"{text}: no Dynamic DirectPath I/O before 7.0", hint)
    else:
        yield Check("vCenter", "ok", text + ("" if major(api) >= 8 else _NO_GROUPS))


_NO_GROUPS = ": Dynamic DirectPath I/O, but no device groups before 8.0"


def tls(given: CheckInput) -> Iterator[Check]:
    how = {
        "system": "verified by the system's certificate store",
        "ca": "verified by the context's CA file",
        "sha256": "pinned by its SHA-256",
    }
    if given.tls in how:
        yield Check("TLS", "ok", f"the vCenter's certificate is {how[given.tls]}")
    else:
        yield Check(
            "TLS",
            "warning",
            "the vCenter's certificate is not verified: an attacker could read the password",
            hint="download the CA from https://VCENTER/certs/download.zip and pass its file to "
            "'gpuvm init' as --ca-file",
        )


def licences(given: CheckInput) -> Iterator[Check]:
    """Check what can be read of the licences; unreadable ones are no failure."""
    if given.licences is None:
        yield Check("licences", "ok", "unknown: they could not be read")
    else:
        yield Check("licences", "ok", _assigned_licences(given, given.licences))
        yield from _licence_warnings(given, given.licences)
    if isinstance(given.spec.accelerator, (VGPU, DeviceGroup)):
        text = "vCenter does not know NVIDIA's vGPU licences: guests get them from a licence server"
        hint = "in a guest: nvidia-smi -q | grep -A2 License"
        yield Check("vGPU licence", "ok", text, hint)


def _assigned_licences(given: CheckInput, known: Mapping[str, Licence]) -> str:
    own = known.get(given.inventory.vcenter.instance_uuid)
    hosts = Counter(
        _licence_text(known.get(host.moref)) for host in given.inventory.hosts if not host.unusable
    )
    text = ", ".join(f"{count} with {name}" for name, count in sorted(hosts.items()))
    return f"vCenter: {_licence_text(own)}; hosts: {text or 'none'}"


def _licence_text(licence: Licence | None) -> str:
    if licence is None:
        return "an unknown licence"
    ends = f" (until {licence.expires})" if licence.expires else ""
    return licence.name + ends


def _licence_warnings(given: CheckInput, known: Mapping[str, Licence]) -> Iterator[Check]:
    inventory = given.inventory
    owners = {host.moref: host.name for host in inventory.hosts}
    owners[inventory.vcenter.instance_uuid] = "the vCenter"
    for key, name in owners.items():
        licence = known.get(key)
        if licence is not None and licence.expired:
            text = f"{name}: {licence.name} expired on {licence.expires}"
            hint = "without a licence no VM can be powered on: assign another one"
            yield Check("licences", "warning", text, hint)
    if isinstance(given.spec.accelerator, VGPU):
        for host in inventory.hosts:
            licence = known.get(host.moref)
            if licence is not None and any(e in licence.name.lower() for e in _WITHOUT_VGPU):
                text = f"{host.name}: {licence.name} does not include vGPUs"
                hint = "use Enterprise Plus, vSphere Foundation or Cloud Foundation"
                yield Check("licences", "warning", text, hint)


_ROLES = "docs/permissions.md has the roles, and the govc commands that create them"


def account_privileges(given: CheckInput) -> Iterator[Check]:
    spec, inventory, used = given.spec, given.inventory, given.trial.used
    lacking = _missing(given, privileges.to_provision(spec, inventory, used))
    if lacking:
        yield Check("privileges", "failure", "missing: " + lacking, _ROLES)
    else:
        text = "this account may create, start and remove these VMs"
        yield Check("privileges", "ok", text + _not_checked(given))
    cancelling = _missing(given, privileges.to_cancel(used))
    if cancelling:
        hint = "only Ctrl-C needs it, to cancel running clones"
        yield Check("privileges", "warning", "missing: " + cancelling, hint)
    moving = _missing(given, privileges.to_move(spec, inventory))
    if moving and not lacking:
        hint = "only 'gpuvm start' needs it, to migrate a VM to a host with a free GPU"
        yield Check("privileges", "warning", "missing: " + moving, hint)
    for moref, required in privileges.to_prepare_hosts(inventory).items():
        missing = _missing(given, {moref: required})
        if missing:
            hint = "only 'gpuvm passthrough' needs them; another account may have them"
            yield Check("host privileges", "warning", "missing: " + missing, hint)


def _missing(given: CheckInput, required: Required) -> str:
    names = privileges.names(given.spec, given.inventory)
    texts = []
    for moref, needed in required.items():
        missing = [one for one in needed if one in given.missing.get(moref, ())]
        if missing:
            texts.append(f"{', '.join(missing)} on {names[moref]}")
    return "; ".join(texts)


def _not_checked(given: CheckInput) -> str:
    """Return which objects are unknown, so that their privileges were not checked."""
    used = given.trial.used
    if not given.trial.makes_vms:
        return ""
    objects = {
        "template": used.template,
        "datastore": used.datastores or None,
        "template's network": used.network,
    }
    unknown = [name for name, found in objects.items() if found is None]
    return f"; not checked, since not yet chosen: {', '.join(unknown)}" if unknown else ""


_IOMMU = "enable VT-d or the AMD IOMMU in the host's firmware"


def hosts(given: CheckInput) -> Iterator[Check]:
    every = given.inventory.hosts
    usable = [host for host in every if host.unusable is None]
    level: Level = "ok" if usable else "failure"
    versions = ", ".join(sorted({f"ESXi {host.version}" for host in usable if host.version}))
    yield Check("hosts", level, f"{len(usable)} of {len(every)} can run VMs; {versions}")
    for host in every:
        if host.unusable is not None:
            yield Check("hosts", "warning", f"{host.name} is left out: {host.unusable}")
    yield from _too_old(given, usable)


def _too_old(given: CheckInput, usable: list[Host]) -> Iterator[Check]:
    """Warn about hosts that are older than the spec needs; the vCenter may be newer."""
    since = {DynamicPassthrough: (7, "Dynamic DirectPath I/O"), DeviceGroup: (8, "device groups")}
    needed, what = since.get(type(given.spec.accelerator), (0, ""))
    for host in usable:
        if host.version and major(host.version) < needed:
            text = f"{host.name}: ESXi {host.version} has no {what}, available since {needed}.0"
            yield Check("hosts", "warning", text, "upgrade it, or remove it from the cluster")


def gpus(given: CheckInput) -> Iterator[Check]:
    found = given.inventory.gpus
    if not found:
        cluster = given.inventory.cluster.name
        yield Check(
            "GPUs",
            "warning" if not given.spec.has_gpu else "failure",
            f"no host of {cluster} has an NVIDIA GPU that this account can see",
            hint="--accelerator none creates VMs without a GPU",
        )
        return
    hosts = {host.name for host in given.inventory.hosts if not host.unusable}
    free = [gpu for gpu in found if gpu.host in hosts and (gpu.free or _is_shared(gpu))]
    yield Check("GPUs", "ok" if free else "warning", f"{len(free)} of {len(found)} are available")
    for gpu in found:
        if (gpu.holders and not gpu.reboot_pending) or gpu.free or _is_shared(gpu):
            continue
        hint = _gpu_hint(gpu)
        yield Check("GPUs", "warning", f"{gpu.host} {gpu.pci_address}: {gpu.state}", hint)


def not_shown(given: CheckInput) -> Iterator[Check]:
    """Warn about what vCenter does not show, or this account may not read."""
    for note in given.inventory.notes:
        yield Check("not shown", "warning", note, _READ)
    for store in given.inventory.datastores:
        if store.hidden:
            yield Check("not shown", "warning", f"{store.name}: {store.hidden}", _READ)


_READ = "docs/permissions.md lists what an account must be able to read"


def _is_shared(gpu: GPU) -> bool:
    return bool(gpu.profiles) and not gpu.reboot_pending


def _gpu_hint(gpu: GPU) -> str:
    """Hint for a shared GPU: use it for vGPUs, or switch it to passthrough."""
    if not gpu.capable:
        return _IOMMU
    if gpu.profiles:
        only = f"{typed_word(gpu.host)} --gpu {gpu.pci_address}"
        return (
            f"'gpuvm passthrough disable {only}' to share it, "
            f"'gpuvm passthrough enable {only} --reboot' otherwise"
        )
    return f"'gpuvm passthrough enable {typed_word(gpu.host)} --reboot'"


def addresses(given: CheckInput) -> Iterator[Check]:
    """Warn of VMs of gpuvm's, on one network, that report one address."""
    by_address: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for vm in given.inventory.vms:
        for address in vm.addresses:
            by_address.setdefault((address, vm.networks), []).append(vm.name)
    for (address, _), names in by_address.items():
        if len(names) > 1:
            shared = SharedAddress(names[0], address, names[1:])
            yield Check("addresses", "warning", str(shared), shared.hint)


def vgpu(given: CheckInput) -> Iterator[Check]:
    """Check for vGPU types, which show the host's driver; its version is not in the API."""
    wanted = isinstance(given.spec.accelerator, VGPU)
    for host in given.inventory.hosts:
        if host.gpus and host.unusable is None and (wanted or _shared_direct(host)):
            yield _driver(host, wanted=wanted)


def _shared_direct(host: Host) -> list[GPU]:
    return [gpu for gpu in host.gpus if gpu.shared_direct]


def _driver(host: Host, *, wanted: bool) -> Check:
    offered = sorted({p.name for gpu in host.gpus for p in gpu.profiles})
    if offered:
        text = f"{host.name} has NVIDIA's vGPU driver and offers {', '.join(offered)}"
        return Check("vGPU", "ok", text)
    sharing = _shared_direct(host)
    if not sharing:
        text = f"no GPU of {host.name} is set to Shared Direct: its vGPU driver cannot be checked"
        hint = "for vGPUs, set the host's graphics devices to 'Shared Direct'"
        return Check("vGPU", "warning", text, hint)
    named = f"{', '.join(gpu.pci_address for gpu in sharing)} on {host.name}: Shared Direct"
    if all(gpu.active for gpu in sharing):
        only = "".join(f" --gpu {gpu.pci_address}" for gpu in sharing)
        text = f"{named}, but passthrough is on"
        return Check(
            "vGPU", "warning", text, f"'gpuvm passthrough disable {typed_word(host.name)}{only}'"
        )
    text = f"{named}, but the host offers no vGPU type"
    hint = "NVIDIA's vGPU driver (VIB) is missing on the host, or does not support the GPU"
    return Check("vGPU", "failure" if wanted else "warning", text, hint)


def templates(given: CheckInput) -> Iterator[Check]:
    inventory = given.inventory
    if not inventory.templates:
        hint = "docs/template.md says how to create one"
        level: Level = "failure" if given.trial.makes_vms else "warning"
        yield Check("template", level, "there is no VM template", hint)
    for one in _candidates(given):
        yield _template_check(one, given)
        yield from _guest_warnings(one, given)


def _candidates(given: CheckInput) -> Sequence[VMTemplate]:
    wanted, inventory = given.spec.template, given.inventory
    if wanted is None:
        return inventory.templates
    return selection.named(wanted, inventory.templates, inventory.cluster)


def _template_check(one: VMTemplate, given: CheckInput) -> Check:
    why = selection.unfit_for(one, given.spec, given.inventory)
    if why is not None:
        hint = "docs/template.md lists the requirements"
        return Check("template", _level(one, given), f"{_label(one, given)}: {why}", hint)
    about = (
        f"{_label(one, given)}: {one.firmware}, hardware version {one.hardware_version}, "
        f"{counted(one.cpus, 'CPU')}, {one.memory_gib:g} GiB, "
        f"{counted(len(one.snapshots), 'snapshot')}"
    )
    return Check("template", "ok", about)


def _label(one: VMTemplate, given: CheckInput) -> str:
    return selection.distinct(one, given.inventory.templates)


def _guest_warnings(one: VMTemplate, given: CheckInput) -> Iterator[Check]:
    if one.tools == "guestToolsNotInstalled":
        label = _label(one, given)
        text = f"{label}: VMware Tools is not installed, so VMs will not report an IP address"
        yield Check("template", _level(one, given), text, "install open-vm-tools in it")
    if one.secure_boot and given.spec.has_gpu:
        text = f"{_label(one, given)}: Secure Boot is on"
        hint = "the NVIDIA kernel module must be signed with an enrolled key, or it will not load"
        yield Check("template", "warning", text, hint)


def _level(one: VMTemplate, given: CheckInput) -> Level:
    """Return a failure for the template that is used, or that is the only one."""
    chosen = given.trial.used.template
    needed = chosen == one if chosen else len(_candidates(given)) == 1
    return "failure" if needed and given.trial.makes_vms else "warning"


_ACTIONS: dict[Action, str] = {
    "create": "to create",
    "power-on": "to power on",
    "keep": "unchanged",
    "remove": "to remove",
}


def choices(given: CheckInput) -> Iterator[Check]:
    """Check device group, network and datastore, of the plan or else as far as they are known."""
    if isinstance(given.spec.accelerator, DeviceGroup):
        yield _check_of("device group", lambda: _device_group(given))
    if not given.trial.makes_vms:
        return
    yield _check_of("network", lambda: _network(given))
    if isinstance(given.trial.plan, Plan):
        yield from _datastores(given.trial.plan)
    elif given.trial.used.datastores:
        for store in given.trial.used.datastores:
            yield Check("datastore", "ok", f"{store.name}: {store.free_gib:.0f} GiB free")
    elif not any(store.accessible for store in given.inventory.datastores):
        yield Check("datastore", "failure", "no host has an accessible datastore")


def plan(given: CheckInput) -> Iterator[Check]:
    """Report the refusals or findings of ``gpuvm plan``."""
    made = given.trial.plan
    if isinstance(made, GpuvmError):
        several = made.errors if isinstance(made, SeveralRefused) else (made,)
        yield from (Check("plan", "failure", str(error), error.hint) for error in several)
        return
    counted = Counter(step.action for step in made.steps)
    text = ", ".join(f"{counted[a]} {what}" for a, what in _ACTIONS.items() if counted[a])
    yield Check("plan", "ok", f"VMs: {text}")
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


def _check_of(name: str, find: Callable[[], str]) -> Check:
    try:
        return Check(name, "ok", find())
    except GpuvmError as error:
        return Check(name, "failure", str(error), error.hint)
