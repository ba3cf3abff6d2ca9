"""The privileges of docs/permissions.md: enough for the whole path, and each of them needed.

The tables of that page are read, so that it, ``gpuvm.privileges``, ``doctor`` and the simulator
cannot drift apart: one account has all of them, and for each there is an account without it.
"""

import json
import re
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from simulated_vcenter import Rig, clearing_faults, quick_site, rig_of
from typer.testing import CliRunner

from gpuvm import lifecycle, privileges, settings
from gpuvm.cli.main import app
from gpuvm.errors import Interrupted
from gpuvm.events import Event, Events
from gpuvm.lab.description import PermissionDescription, TemplateDescription, UserDescription

PAGE = Path(__file__).parents[2] / "docs/permissions.md"
HOSTS = ("esx-01.lab.local", "esx-02.lab.local", "esx-03.lab.local", "esx-04.lab.local")
TEMPLATE, PLAIN, OTHER = "centos7-tensorflow", "plain", "other"
STORE, NETWORK = "vsanDatastore", "VM Network"
FOLDER, CLUSTER = "/Lab/vm/team", "GPU-Cluster"
ENTITIES = {
    "the vCenter's root, with propagation": ("/",),
    "the VM template": (TEMPLATE, PLAIN, OTHER),
    "the VM template, or its folder": (TEMPLATE, PLAIN, OTHER),
    "the folder of the VMs": (FOLDER,),
    "the folder that the VMs are in": (FOLDER,),
    "the cluster or resource pool": (CLUSTER,),
    "the datastore": (STORE,),
    "the network": (NETWORK,),
    "the hosts": HOSTS,
}
SHOWN = {FOLDER: "folder team", CLUSTER: "resource pool /Lab/host/GPU-Cluster/Resources"}
"""How doctor names an object, where that is not its name."""


@dataclass(frozen=True)
class Granted:
    """One privilege of the page, and the objects that it is on."""

    section: str
    entities: tuple[str, ...]
    privilege: str

    @property
    def shown(self) -> str:
        entity = (
            PLAIN if self.section == "snapshot" and PLAIN in self.entities else self.entities[0]
        )
        return f"{self.privilege} on {SHOWN.get(entity, entity)}"


def of_the_page() -> list[Granted]:
    """Each row of the tables that begin with ``| on | privileges |``."""
    found: list[Granted] = []
    for section in PAGE.read_text().split("\n## ")[1:]:
        name, _, text = section.partition("\n")
        for table in text.split("| on | privileges |\n|---|---|\n")[1:]:
            for row in table.partition("\n\n")[0].splitlines():
                on, cell = (part.strip() for part in row.strip("| ").split(" | "))
                found += [Granted(name, ENTITIES[on], one) for one in _ids(cell)]
    return found


def _ids(cell: str) -> Iterator[str]:
    """``A.B.C`` and, after it, ``.D`` for ``A.B.D``."""
    parent = ""
    for one in re.findall(r"`(\w*\.[\w.]+)`", cell):
        privilege = parent + one if one.startswith(".") else one
        parent = privilege.rpartition(".")[0]
        yield privilege


PRIVILEGES = of_the_page()
READ = [one for one in PRIVILEGES if one.section == "read"]
REMOVABLE = [one for one in PRIVILEGES if one.section != "read"]
FULL = "full@lab.local"


def _on(sections: str, *entities: str) -> list[str]:
    return [
        one.privilege
        for one in PRIVILEGES
        if one.section in sections.split() and set(one.entities) & set(entities)
    ]


def test_the_page_has_what_the_code_requires() -> None:
    """Both ways: nothing is missing, and nothing is granted that no command needs."""
    on_folder = {*privileges.FOLDER, *privileges.GPU, *privileges.EDIT, *privileges.CONNECT}
    assert set(_on("provision remove", FOLDER)) == on_folder
    assert set(_on("provision", TEMPLATE)) == {*privileges.CANCEL, *privileges.TEMPLATE}
    assert _on("provision", CLUSTER) == _on("snapshot", CLUSTER) == list(privileges.POOL)
    assert _on("provision", STORE) == list(privileges.DATASTORE)
    assert _on("provision", NETWORK) == list(privileges.NETWORK)
    assert set(_on("snapshot", PLAIN)) == set(privileges.SNAPSHOT)
    assert _on("move", FOLDER) == list(privileges.MOVE)
    assert set(_on("hosts", *HOSTS)) == set(privileges.HOST)


def test_the_commands_that_make_the_roles_have_them_too() -> None:
    """Those of a first deployment: provision, remove and read."""
    _, _, commands = PAGE.read_text().partition("## Creating the roles")
    created = set(re.findall(r"\b[A-Z]\w+\.[A-Z][\w.]+\w", commands))
    needed = {one.privilege for one in PRIVILEGES if one.section in ("provision", "remove", "read")}
    assert created == needed


# The site: one account with every privilege of the page, and one without each.


def _name(one: Granted) -> str:
    return f"no-{REMOVABLE.index(one)}@lab.local"


def _permissions(user: str, without: Granted | None) -> Iterator[PermissionDescription]:
    """One role on each object, as vCenter has it; a privilege may be listed in two sections."""
    for entity in dict.fromkeys(entity for one in PRIVILEGES for entity in one.entities):
        granted = {
            one.privilege
            for one in PRIVILEGES
            if entity in one.entities
            and not (without and without.privilege == one.privilege and entity in without.entities)
        }
        yield PermissionDescription(principal=user, entity=entity, privileges=tuple(granted))


@pytest.fixture(scope="module")
def site(home: Path) -> Iterator[Rig]:
    shape = quick_site(len(HOSTS))
    cold = {"rebind_without_reboot": False}
    accounts: dict[str, Granted | None] = {FULL: None} | {_name(one): one for one in REMOVABLE}
    shape = shape.model_copy(
        update={
            "timings": shape.timings.model_copy(update={"reboot_s": 0.1}),
            "hosts": (*shape.hosts[:3], shape.hosts[3].model_copy(update=cold)),
            "templates": tuple(TemplateDescription(name=n) for n in (TEMPLATE, PLAIN, OTHER)),
            "users": (*shape.users, *(UserDescription(name=n, role="none") for n in accounts)),
            "permissions": tuple(
                permission
                for user, without in accounts.items()
                for permission in _permissions(user, without)
            ),
        }
    )
    with rig_of(home, "least", shape) as made:
        with made.connect() as admin:
            admin._content.searchIndex.FindByInventoryPath("/Lab/vm").CreateFolder("team")
        yield made


no_faults = clearing_faults("site")


@dataclass(frozen=True)
class Account:
    rig: Rig
    file: Path

    def __call__(self, command: str, *options: str, code: int | None = 0) -> dict[str, Any]:
        """Runs the command; returns its envelope, and as ``stderr`` what else it said."""
        spec = [] if command.startswith("passthrough") else ["--file", str(self.file)]
        of = ["--context", self.rig.context.name, "--json"]
        done = CliRunner().invoke(app, [*command.split(), *options, *spec, *of])
        assert code is None or done.exit_code == code, done.stdout + done.stderr
        return dict(json.loads(done.stdout)) | {"stderr": done.stderr}


@pytest.fixture
def account(site: Rig, tmp_path: Path) -> Any:
    """``account(user, **spec)``"""

    def of(user: str, **spec: Any) -> Account:
        rig = site.as_user(user)
        context = rig.context.model_copy(update={"name": user.partition("@")[0]})
        settings.save(context)
        said = {"name": "least", "hosts": 1, "folder": "team", "network": NETWORK}
        said |= {"template": TEMPLATE} | spec
        file = tmp_path / f"{context.name}-{len(list(tmp_path.iterdir()))}.yaml"
        file.write_text(json.dumps(said))
        return Account(Rig(context, rig.control), file)

    return of


PROVISION = ("provision", "--until", "powered-on", "--yes")
LINKED: dict[str, Any] = {"clone_mode": "linked", "template": PLAIN}
EXAMINED = {"snapshot": LINKED, "move": {"accelerator": {"mode": "dynamic"}}}
"""The spec that needs the privileges of a section, for doctor."""


def test_the_page_is_enough_for_the_whole_path(site: Rig, account: Any) -> None:
    full, linked = account(FULL), account(FULL, **LINKED | {"template": OTHER})
    checks = full("doctor")["data"]["checks"]
    of_privileges = [c["level"] for c in checks if "privileges" in c["name"]]
    assert of_privileges
    assert set(of_privileges) == {"ok"}
    full("plan", code=10)
    full(*PROVISION)
    full("status", "--no-guests")
    full("stop", "--now", "--yes")
    full("start", "--until", "powered-on")
    full("teardown", "--yes")
    linked(*PROVISION, "--create-snapshot")
    linked("teardown", "--yes")
    for verb in ("disable", "enable"):
        full(f"passthrough {verb}", HOSTS[3], "--reboot", "--yes")


@pytest.mark.parametrize("lacking", REMOVABLE, ids=lambda one: f"{one.section}-{one.privilege}")
def test_a_missing_privilege_is_named_by_doctor(account: Any, lacking: Granted) -> None:
    optional = lacking.section == "hosts" or lacking.privilege in (
        *privileges.MOVE,
        *privileges.CANCEL,
    )
    weak = account(_name(lacking), **EXAMINED.get(lacking.section, {}))
    checks = weak("doctor", code=None)["data"]["checks"]
    level = "warning" if optional else "failure"
    named = [c["text"] for c in checks if c["level"] == level and "privileges" in c["name"]]
    assert any(f"missing: {lacking.shown}" in text for text in named), checks


# The commands.


def _vms(rig: Rig) -> Any:
    with urllib.request.urlopen(f"{rig.control}/vms") as answer:
        return json.load(answer)


def _lacking(section: str, *but: str) -> pytest.MarkDecorator:
    chosen = [one for one in REMOVABLE if one.section == section and one.privilege not in but]
    assert chosen
    return pytest.mark.parametrize("lacking", chosen, ids=lambda one: one.privilege)


def _names(envelope: dict[str, Any], lacking: Granted, *objects: str) -> None:
    """The command's errors name the privilege, and the object that it is missing on."""
    said = [(e["type"], e["message"]) for e in envelope["errors"]]
    expected = f"this account lacks the privilege {lacking.privilege} on "
    assert ("NoPermission", expected) in [(kind, text[: len(expected)]) for kind, text in said]
    named = {text.removeprefix(expected) for _, text in said}
    assert named <= {*objects, *(e.rpartition("/")[2] for e in lacking.entities)}, said


@_lacking("provision", "VirtualMachine.Interact.PowerOn", "Global.CancelTask")
def test_provision_names_it_and_creates_nothing(site: Rig, account: Any, lacking: Granted) -> None:
    before = _vms(site)
    refused = account(_name(lacking))(*PROVISION, code=1)
    _names(refused, lacking, "Resources")
    (vm,) = refused["data"]["vms"]
    assert (vm["state"], vm["kept_after_failure"]) == ("failed", False)
    assert _vms(site) == before


def _one(privilege: str) -> Granted:
    (one,) = [one for one in REMOVABLE if one.privilege == privilege]
    return one


def test_provision_removes_a_vm_that_it_may_not_power_on(site: Rig, account: Any) -> None:
    before, lacking = _vms(site), _one("VirtualMachine.Interact.PowerOn")
    refused = account(_name(lacking))(*PROVISION, code=1)
    _names(refused, lacking, "least-01")
    assert not refused["data"]["vms"][0]["kept_after_failure"]
    assert _vms(site) == before


def test_ctrl_c_names_it_where_a_clone_continues(site: Rig) -> None:
    weak = site.as_user(_name(_one("Global.CancelTask")))
    warnings: list[str] = []

    def sink(event: Event) -> None:
        if event.kind == "warning":
            warnings.append(event.text or "")
        if event.kind == "progress" and event.name == "clone":
            raise KeyboardInterrupt

    weak.fault("CloneVM_Task", "NoDiskSpace", where="task", delay_s=1)
    with weak.connect() as connection:
        plan = weak.plan(connection, hosts=1, folder="team", template=TEMPLATE)
        with pytest.raises(Interrupted):
            lifecycle.provision(plan, connection, weak.context, Events(sink), until="powered-on")
    lacks = f"this account lacks the privilege Global.CancelTask on {TEMPLATE}"
    assert warnings == [f"gpuvm-01: its clone continues: {lacks}"]


@_lacking("remove")
def test_stop_and_teardown_name_it(site: Rig, account: Any, lacking: Granted) -> None:
    """A VM that may not be removed stays; one that may not be powered off runs on."""
    full, weak = (account(user, name="kept") for user in (FULL, _name(lacking)))
    full(*PROVISION)
    runs_on = lacking.privilege == "VirtualMachine.Interact.PowerOff"
    if runs_on:
        stopping = weak("stop", "--now", "--yes", code=1)
        _names(stopping, lacking, "kept-01")
        assert not stopping["data"]["vms"][0]["changed"]
    refused = weak("teardown", "--yes", code=1)
    _names(refused, lacking, "kept-01")
    (vm,) = [vm for vm in _vms(site) if vm["name"] == "kept-01"]
    assert vm["powered_on"] == runs_on
    full("teardown", "--yes")


@_lacking("snapshot")
def test_create_snapshot_names_it_and_leaves_the_template(
    site: Rig, account: Any, lacking: Granted
) -> None:
    before = _vms(site)
    refused = account(_name(lacking), **LINKED)(*PROVISION, "--create-snapshot", code=1)
    _names(refused, lacking, "the resource pool")
    assert _vms(site) == before


@_lacking("move")
def test_start_names_it_and_leaves_the_vm_where_it_is(
    site: Rig, account: Any, lacking: Granted
) -> None:
    dynamic = {"name": "moved", "accelerator": {"mode": "dynamic"}}
    full, weak = (account(user, **dynamic) for user in (FULL, _name(lacking)))
    host = full(*PROVISION)["data"]["vms"][0]["host"]
    full("stop", "--now", "--yes")
    site.add(name=f"taker-{lacking.privilege}", host=host, gpu="0000:3b:00.0")
    refused = weak("start", "--until", "powered-on", code=1)
    _names(refused, lacking, "moved-01", "Resources")
    moved = full("start", "--until", "powered-on")["data"]["vms"][0]["host"]
    assert moved != host
    full("teardown", "--yes")


@_lacking("hosts")
def test_passthrough_names_it_and_switches_nothing(
    site: Rig, account: Any, lacking: Granted
) -> None:
    weak = account(_name(lacking))
    command = ("passthrough disable", HOSTS[3], "--reboot", "--yes")
    if lacking.privilege == "Host.Config.Settings":  # not even needed, if the host reports it
        done = weak(*command)
        assert "was not refreshed: this account lacks the privilege" in done["stderr"]
        account(FULL)("passthrough enable", HOSTS[3], "--reboot", "--yes")
        return
    refused = weak(*command, code=1)
    _names(refused, lacking, HOSTS[3])
    assert not refused["data"]["changed"]
    (gpu,) = refused["data"]["gpus"]
    assert gpu["state"] == "free"
