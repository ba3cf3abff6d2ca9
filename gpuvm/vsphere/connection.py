"""A connection to one vCenter: login, the calls that gpuvm makes, logout."""

import contextlib
import socket
import ssl
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any
from urllib.request import getproxies

from pydantic import SecretStr
from pyVim import connect as pyvim
from pyVmomi import vim, vmodl

from gpuvm.errors import LoginRefused, NoPermission, Unreachable
from gpuvm.inventory import VM, Deployment, Host, Inventory, Licence, MoRef, StoragePolicy, VCenter
from gpuvm.ownership import index_in
from gpuvm.settings import Context, authority
from gpuvm.vsphere import (
    diagnosis,
    gpus,
    host_passthrough,
    policies,
    privileges,
    read_inventory,
    session,
    tasks,
)
from gpuvm.vsphere.clone import CloneRequest, clone_spec, repair_spec
from gpuvm.vsphere.diagnosis import Diagnosis, read_diagnosis
from gpuvm.vsphere.faults import CALL_FAILED, submitted, translated
from gpuvm.vsphere.gpus import Holders
from gpuvm.vsphere.host_passthrough import HostState
from gpuvm.vsphere.residents import Resident, read_residents
from gpuvm.vsphere.session import SessionStub, ssl_context, untrusted, without_tls
from gpuvm.vsphere.shared_addresses import others_at
from gpuvm.vsphere.tasks import CloneInFlight
from gpuvm.vsphere.template_snapshot import TemplateHandle, find_unfinished
from gpuvm.vsphere.updates import Task, UpdateStream
from gpuvm.vsphere.vm_watch import VMWatch

LOCALE = "en_US"
"""Of vCenter's texts: some hints depend on them, where the fault type is not specific enough."""
ROOT = "root"


def connect(context: Context, password: SecretStr) -> "VSphere":
    """Log in; a refused password is not tried again, because accounts get locked.

    Raises Unreachable, Untrusted, LoginRefused, and BadInput for errors in the context.
    """
    host, port = context.address
    trust = ssl_context(context.tls, host, port)
    try:
        with _default_timeout(context.timeout_s):
            service = pyvim.SmartConnect(
                host=host,
                port=port,
                user=context.user,
                pwd=password.get_secret_value(),
                sslContext=trust,
                httpConnectionTimeout=context.timeout_s,
            )
    except ssl.SSLCertVerificationError as error:
        raise untrusted(host, port, error) from None
    except ssl.SSLError as error:
        raise without_tls(host, port, error) from None
    except vim.fault.InvalidLogin:
        raise LoginRefused(
            f"{host} does not let {context.user} in: wrong user name or password",
            hint="check the context's user and password; with a federated login (AD FS, Entra ID) "
            "try user@domain instead of DOMAIN\\user, or a local or service account",
            wrong_password=True,
        ) from None
    except vmodl.MethodFault as fault:
        reason = getattr(fault, "msg", None) or type(fault).__name__
        raise LoginRefused(f"{host} refused the login of {context.user}: {reason}") from None
    except Exception as error:  # noqa: BLE001
        # pyVmomi raises a bare Exception if the server is no vCenter, and its proxies wrap causes.
        raise _no_connection(host, port, error) from None
    service = _with_relogin(service, context, password, trust)
    try:
        return VSphere(service, context)
    except BaseException:
        with contextlib.suppress(*CALL_FAILED):
            _log_out(service.RetrieveContent())
        raise


@contextlib.contextmanager
def _default_timeout(seconds: float) -> Iterator[None]:
    """The probe of the API versions, which pyVmomi makes first, has no timeout of its own."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def rejected_certificate(context: Context) -> session.Certificate | None:
    """Return the vCenter's certificate if it does not verify; no account and no password is sent.

    Raises Unreachable, Untrusted for a pin that differs, and BadInput for errors in the context.
    """
    host, port = context.address
    try:
        return session.rejected_certificate(context.tls, host, port)
    except ssl.SSLError as error:
        raise without_tls(host, port, error) from None
    except OSError as error:
        raise _no_connection(host, port, error) from None


def _with_relogin(first: Any, context: Context, password: SecretStr, trust: ssl.SSLContext) -> Any:
    """Return the same session on a stub that logs in again when it has expired."""

    def login(stub: Any) -> None:
        content: Any = vim.ServiceInstance("ServiceInstance", stub).RetrieveContent()
        content.sessionManager.Login(context.user, password.get_secret_value(), LOCALE)

    host, port = context.address
    stub = SessionStub(
        login,
        host=host,
        port=port,
        version=first._stub.version,
        path=first._stub.path,
        sslContext=trust,
        httpConnectionTimeout=context.timeout_s,
        poolSize=gpus.AT_ONCE,
    )
    stub.cookie = first._stub.cookie
    first._stub.DropConnections()
    service: Any = vim.ServiceInstance("ServiceInstance", stub)
    with contextlib.suppress(*CALL_FAILED):  # the locale only improves hints
        service.content.sessionManager.SetLocale(LOCALE)
    return service


class VSphere:
    """Each ``start_…`` is one round trip that returns a task; no method waits for its end."""

    def __init__(self, service: Any, context: Context) -> None:
        self._service = service
        with translated("reading its services", context.vcenter):
            self._content = service.RetrieveContent()
        self._host_names: dict[MoRef, str] = {}  # names that were read once
        about = self._content.about
        self.vcenter = VCenter(
            name=about.name,
            url=context.vcenter,
            version=about.version,
            api_version=about.apiVersion,
            instance_uuid=about.instanceUuid,
        )

    def __enter__(self) -> "VSphere":
        return self

    def __exit__(self, *_: object) -> None:
        _log_out(self._content)

    def read_inventory(
        self,
        cluster: str | None = None,
        folder: str | None = None,
        resource_pool: str | None = None,
        query_targets: read_inventory.ConfigTargets = "all",
    ) -> Inventory:
        """Read the inventory; each argument is a name or path, by default the only one is used.

        ``query_targets`` are names of hosts to query for systemIds, vGPU sizes and device groups, a
        round trip each. Raises NotFound and Ambiguous.
        """
        content = self._content
        read = read_inventory.read_inventory(
            content, self.vcenter, cluster, folder, resource_pool, query_targets
        )
        self._host_names |= {host.moref: host.name for host in read.hosts}
        return read

    def with_config_targets(self, inventory: Inventory, hosts: Collection[str]) -> Inventory:
        """Add the config targets (systemIds) of these hosts, by name: a round trip each."""
        if not hosts:
            return inventory
        cluster = self._reference(vim.ClusterComputeResource, inventory.cluster.moref)
        with translated("reading the cluster", "the vCenter"):
            browser = cluster.environmentBrowser

        names = set(hosts)
        asked = [host for host in inventory.hosts if host.name in names]
        targets = gpus.read_targets(browser, list(map(self._host, asked)))
        answers = {host.moref: target for host, target in zip(asked, targets, strict=True)}
        found = (
            gpus.with_target(host, answers[host.moref]) if host.moref in answers else host
            for host in inventory.hosts
        )
        return replace(inventory, hosts=tuple(found))

    def read_policies(self) -> tuple[StoragePolicy, ...]:
        """Read the storage policies, from another service that needs its own privilege."""
        return policies.read_policies(self._service._stub)

    def read_vms(self, morefs: Sequence[MoRef]) -> tuple[VM, ...]:
        """Read those of the VMs that still exist."""
        refs = [self._reference(vim.VirtualMachine, moref) for moref in morefs]
        return read_inventory.read_vms(self._content, self.vcenter, refs, self._host_names)

    def read_diagnosis(self, morefs: Sequence[MoRef]) -> tuple[Diagnosis, ...]:
        """Read why these VMs may have no address."""
        return read_diagnosis(self._content, [self._vm(moref) for moref in morefs])

    def others_at(self, vms: Sequence[VM]) -> Mapping[MoRef, Mapping[str, tuple[str, ...]]]:
        """Return, per VM and address, the names of other VMs that report it, as far as is shown."""
        try:
            return others_at(self._content, vms)
        except NoPermission:
            return {}

    def read_marked(self) -> tuple[VM, ...]:
        """Read every VM of the vCenter that carries the mark, copies included."""
        return read_inventory.read_marked(self._content, self.vcenter, self._host_names)[0]

    def read_deployment(self, name: str) -> Deployment:
        """Read the VMs of one deployment, in the whole vCenter."""
        uuid = self.vcenter.instance_uuid
        marked, hidden = read_inventory.read_marked(self._content, self.vcenter, self._host_names)
        return Deployment(
            ours=tuple(v for v in marked if v.deployment == name and v.ownership == "ours"),
            copies=tuple(v for v in marked if v.deployment == name and v.ownership == "copy"),
            unreadable=tuple(v for v in hidden if index_in(uuid, name, v) is not None),
        )

    def clusters_of(self, deployment: str) -> tuple[MoRef, ...]:
        """Return the clusters of the deployment's VMs."""
        vms = [self._vm(vm.moref) for vm in self.read_deployment(deployment).ours]
        return read_inventory.read_clusters(self._content, vms)

    def read_holders(self, hosts: Sequence[MoRef]) -> Holders:
        """Read the current holders of these hosts' GPUs, by host name and PCI address."""
        refs = [self._reference(vim.HostSystem, moref) for moref in hosts]
        return read_inventory.read_holders(self._content, refs)

    def start_clone(self, request: CloneRequest) -> Task:
        template = self._reference(vim.VirtualMachine, request.template)
        folder = self._reference(vim.Folder, request.folder)
        spec = clone_spec(request, self._reference)
        with submitted("clone", request.name):
            task = template.CloneVM_Task(folder=folder, name=request.name, spec=spec)
        return Task(task._moId, "clone")

    def start_repair(self, vm: VM, request: CloneRequest) -> Task | None:
        """Reconfigure what differs from the request; None if nothing does."""
        due = policies.is_due(vm, request.storage_policy)
        disks = policies.disks_of(self._content, self._vm(vm.moref)) if due else ()
        spec = repair_spec(vm, request, disks)
        if spec is None:
            return None
        with submitted("reconfigure", vm.name):
            task = self._vm(vm.moref).ReconfigVM_Task(spec=spec)
        return Task(task._moId, "reconfigure")

    def start_move(self, moref: MoRef, host: MoRef, pool: MoRef) -> Task:
        """Migrate a powered-off VM to another host, without its disks."""
        spec = vim.vm.RelocateSpec(
            host=self._reference(vim.HostSystem, host),
            pool=self._reference(vim.ResourcePool, pool),
        )
        with submitted("move", moref):
            return Task(self._vm(moref).RelocateVM_Task(spec=spec)._moId, "move")

    def start_power_on(self, moref: MoRef) -> Task:
        with submitted("power on", moref):
            return Task(self._vm(moref).PowerOnVM_Task()._moId, "power on")

    def start_power_off(self, moref: MoRef) -> Task:
        with submitted("power off", moref):
            return Task(self._vm(moref).PowerOffVM_Task()._moId, "power off")

    def start_destroy(self, moref: MoRef) -> Task:
        with submitted("destroy", moref):
            return Task(self._vm(moref).Destroy_Task()._moId, "destroy")

    def template(self, moref: MoRef, name: str) -> TemplateHandle:
        """Return a handle for creating the template's snapshot."""
        return TemplateHandle(self._content, self._reference, moref, name)

    def unfinished_templates(self) -> Mapping[MoRef, str]:
        """Return the names of templates that are VMs because gpuvm was killed meanwhile."""
        return find_unfinished(self._content)

    def switch_passthrough(self, host: Host, devices: Sequence[str], *, enabled: bool) -> None:
        host_passthrough.switch_passthrough(
            self._content,
            self._host(host),
            host.name,
            devices,
            enabled=enabled,
        )

    def refresh_passthrough(self, host: Host) -> None:
        host_passthrough.refresh_passthrough(self._content, self._host(host), host.name)

    def residents(self, host: Host) -> tuple[Resident, ...]:
        """Read the VMs that run on the host, and why vCenter does not move some of them."""
        return read_residents(self._content, self._host(host))

    def host_state(self, host: Host) -> HostState:
        return host_passthrough.read_state(self._content, self._host(host))

    def host_tasks(self, host: Host, operation: str) -> list[Task]:
        """Like ``running_tasks``, for a host."""
        return tasks.running_tasks(self._content, self._host(host), operation)

    def recent_reboots(self, host: Host) -> frozenset[MoRef]:
        """Return the host's reboot tasks that vCenter still knows, also those that have ended."""
        return tasks.recent_tasks(self._content, self._host(host), "reboot")

    def start_maintenance(self, host: Host) -> Task:
        return host_passthrough.enter_maintenance(self._host(host), host.name)

    def start_leaving_maintenance(self, host: Host) -> Task:
        return host_passthrough.exit_maintenance(self._host(host), host.name)

    def start_reboot(self, host: Host) -> Task:
        return host_passthrough.reboot(self._host(host), host.name)

    def missing_privileges(
        self, wanted: Mapping[MoRef, Sequence[str]]
    ) -> Mapping[MoRef, tuple[str, ...]]:
        """Return, per object, those of ``wanted`` that this account lacks; ROOT is the vCenter."""
        refs = {moref: self._any(moref) for moref in wanted}
        found = privileges.missing(self._content, {refs[m]: wanted[m] for m in wanted})
        return {moref: found[ref] for moref, ref in refs.items()}

    def read_licences(self) -> Mapping[str, Licence] | None:
        """Read licences by host moref or vCenter instance UUID; None without the privilege."""
        return privileges.assigned(self._content)

    def shut_down(self, moref: MoRef) -> None:
        """Start a guest shutdown. Raises TaskFailed without VMware Tools."""
        with submitted("shut down", moref):
            self._vm(moref).ShutdownGuest()

    def running_tasks(self, moref: MoRef, operation: str) -> list[Task]:
        """Return queued and running tasks of that kind on a VM or template, the oldest first."""
        return tasks.running_tasks(self._content, self._vm(moref), operation)

    def clones_in_flight(self) -> list[CloneInFlight]:
        """Return this account's clones that have not ended; they outlive a killed gpuvm."""
        return tasks.clones_in_flight(self._content)

    def find_in_folder(self, folder: MoRef, name: str) -> MoRef | None:
        """Return the VM of that name in this folder, or None."""
        return tasks.find_child(self._content, self._reference(vim.Folder, folder), name)

    def recent_events(self, moref: MoRef) -> tuple[str, ...]:
        """Return the texts of the VM's last events, the oldest first."""
        return diagnosis.recent_events(self._content, self._vm(moref))

    def cancel(self, task: Task) -> None:
        with translated(f"cancelling the {task.operation}", task.moref):
            self._reference(vim.Task, task.moref).CancelTask()

    def update_stream(self) -> UpdateStream:
        return UpdateStream(self._content, self._reference)

    def vm_watch(self) -> VMWatch:
        """For the lab, which simulates the guests of the VMs."""
        return VMWatch(self._content, self._reference)

    def _vm(self, moref: MoRef) -> Any:
        return self._reference(vim.VirtualMachine, moref)

    def _host(self, host: Host) -> Any:
        return self._reference(vim.HostSystem, host.moref)

    def _any(self, moref: MoRef) -> Any:
        """Return an object of unknown type: the call sends only its id."""
        if moref == ROOT:
            return self._content.rootFolder
        return self._reference(vim.ManagedEntity, moref)

    def _reference(self, kind: Any, moref: MoRef) -> Any:
        return kind(moref, self._service._stub)


def _log_out(content: Any) -> None:
    """Log out, because sessions are limited; errors of a lost connection do not matter."""
    manager = content.sessionManager
    with contextlib.suppress(*CALL_FAILED):
        manager.Logout()
    manager._stub.DropConnections()
    pyvim.SetSi(None)  # SmartConnect keeps the last connection in a global variable


def _no_connection(host: str, port: int, error: Exception) -> Unreachable:
    """In the hint, curl ignores the proxy of the environment, as gpuvm does."""
    reason, where = str(error).strip() or type(error).__name__, authority(host, port)
    proxy = "; HTTPS_PROXY is set, and gpuvm does not use it" if "https" in getproxies() else ""
    return Unreachable(
        f"no vCenter answers at {where}: {reason}",
        hint=f"check the name, the port and the route: curl --noproxy '*' -k "
        f"https://{where}/sdk/vimServiceVersions.xml{proxy}",
    )
