"""Other tools work with the lab as with a vCenter; `gpuvm gpus` shows the GPUs they hold.

Govc is built here. Terraform's provider takes minutes to build and Ansible's collections weigh half
a gigabyte: their tests are marked `engines`. GPUVM_TEST_VSPHERE_PROVIDER names another build of the
provider, and GPUVM_TEST_ANSIBLE the Python of an environment that has Ansible.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from govc_client import Govc, govc_of
from registry_programs import environment_with, vsphere_provider
from simulated_vcenter import QUICK, Rig, rig_of

from gpuvm.lab.description import About, Description, VMDescription, describe

GPU = "0000:3b:00.0"
FILES = Path(__file__).parent / "other_tools"
NAMED_AS_REAL = About(name="VMware vCenter Server")
"""Terraform's provider has no tags and no libraries in a vCenter of another name."""


@pytest.fixture
def sites(tmp_path: Path, simulator: None) -> Path:
    return tmp_path


def shape(**changes: object) -> Description:
    return describe(hosts=2).model_copy(update={"timings": QUICK, **changes})


@pytest.fixture
def one_host(sites: Path) -> Iterator[Rig]:
    """Govc takes the first host's systemId for a PCI address that several hosts have."""
    with rig_of(sites, "tools", describe(hosts=1).model_copy(update={"timings": QUICK})) as rig:
        yield rig


def holders(rig: Rig) -> dict[str, list[tuple[str, bool]]]:
    """By host: who holds its GPU, and whether it runs."""
    with rig.connect() as connection:
        gpus = connection.read_inventory().gpus
    return {gpu.host: [(holder.vm, holder.powered_on) for holder in gpu.holders] for gpu in gpus}


def test_govc_gives_a_vm_a_gpu_moves_it_and_registers_it_again(one_host: Rig) -> None:
    govc = govc_of(one_host.context)
    clone = ("vm.clone", "-vm", "centos7-tensorflow", "-on=false", "-c=4", "-m=8192")
    govc(*clone, "-host", "esx-01.lab.local", "trainer")
    govc("device.pci.add", "-vm", "trainer", GPU)
    window = ("-e=pciPassthru.use64bitMMIO=TRUE", "-e=pciPassthru.64bitMMIOSizeGB=64")
    govc("vm.change", "-vm", "trainer", *window, "-memory-pin=true", "-mem.reservation=8192")
    assert holders(one_host) == {"esx-01.lab.local": [("trainer", False)]}
    govc("vm.power", "-on", "trainer")
    assert holders(one_host) == {"esx-01.lab.local": [("trainer", True)]}

    pool = "/Lab/host/GPU-Cluster/Resources/learning"
    govc("pool.create", pool)
    govc("vm.migrate", "-pool", pool, "trainer")
    assert govc("find", pool, "-type", "m").split() == ["/Lab/vm/trainer"]
    (trainer,) = govc.json("vm.info", "trainer")["virtualMachines"]
    assert trainer["resourcePool"] == govc.json("pool.info", pool)["resourcePools"][0]["self"]

    govc("vm.power", "-off", "trainer")
    govc("vm.unregister", "trainer")
    assert holders(one_host) == {"esx-01.lab.local": []}
    govc("vm.register", "-ds=vsanDatastore", "-pool", pool, "trainer/trainer.vmx")
    govc("vm.power", "-on", "trainer")
    assert holders(one_host) == {"esx-01.lab.local": [("trainer", True)]}
    govc("vm.destroy", "trainer")
    assert holders(one_host) == {"esx-01.lab.local": []}


def test_govc_finds_policies_tags_and_libraries(one_host: Rig) -> None:
    govc = govc_of(one_host.context)
    assert "vSAN Default Storage Policy" in govc("storage.policy.ls")
    govc("tags.category.create", "-t", "VirtualMachine", "team")
    govc("tags.create", "-c", "team", "learning")
    govc("tags.attach", "-c", "team", "learning", "/Lab/vm/centos7-tensorflow")
    assert govc("tags.attached.ls", "learning").startswith("VirtualMachine:")
    govc("library.create", "-ds", "vsanDatastore", "images")
    assert govc("library.ls").strip() == "/images"
    wrong = Govc(govc.url, govc.user, "wrong", govc.ca_file)
    assert "401 Unauthorized" in wrong.run("library.ls").stderr


@pytest.mark.engines
def test_terraform_creates_changes_and_destroys(sites: Path) -> None:
    terraform = shutil.which("terraform") or shutil.which("tofu")
    if terraform is None:
        pytest.skip("Terraform or OpenTofu is needed")
    named = os.environ.get("GPUVM_TEST_VSPHERE_PROVIDER")
    provider = Path(named) if named else vsphere_provider(sites / "provider")
    with rig_of(sites, "terraform", shape(about=NAMED_AS_REAL)) as rig:
        work = sites / "work"
        shutil.copytree(FILES, work)
        environment = terraform_settings(rig, sites, provider)
        # Older providers add the GPU by the second one, in place, as the change to eight CPUs.
        apply = ("apply", "-auto-approve", "-parallelism=4")
        for command in (
            ("init",),
            apply,
            apply,
            ("plan", "-detailed-exitcode"),
            (*apply, "-var=cpus=8"),
            ("plan", "-detailed-exitcode", "-var=cpus=8"),
        ):
            run([terraform, *command, "-no-color"], work, environment)
        assert holders(rig) == {
            "esx-01.lab.local": [("trainer-1", True)],
            "esx-02.lab.local": [("trainer-2", True)],
        }
        (trainer,) = govc_of(rig.context).json("vm.info", "trainer-2")["virtualMachines"]
        assert trainer["config"]["hardware"]["numCPU"] == 8
        run([terraform, "destroy", "-auto-approve", "-no-color"], work, environment)
        assert holders(rig) == {"esx-01.lab.local": [], "esx-02.lab.local": []}


@pytest.mark.engines
def test_ansible_clones_changes_starts_and_removes(sites: Path) -> None:
    named = os.environ.get("GPUVM_TEST_ANSIBLE")
    python = named or environment_with(sites / "venv", "ansible", "pyvmomi", "requests")
    holder = VMDescription(name="holder", host="esx-01.lab.local", gpu=GPU)
    with rig_of(sites, "ansible", shape(vms=(holder,))) as rig:
        govc, (host, port) = govc_of(rig.context), rig.context.address
        environment = {
            **os.environ,
            "VMWARE_HOST": host,
            "VMWARE_PORT": str(port),
            "VMWARE_USER": govc.user,
            "VMWARE_PASSWORD": govc.password,
            "ANSIBLE_PYTHON_INTERPRETER": python,
            "ANSIBLE_LOCAL_TEMP": str(sites / "ansible"),
        }
        run([str(Path(python).with_name("ansible-playbook")), "playbook.yml"], FILES, environment)
        assert holders(rig)["esx-01.lab.local"] == [("holder", True)]
        assert govc("find", "/", "-type", "m", "-name", "ansible-1") == ""


def run(command: list[str], folder: Path, environment: Mapping[str, str]) -> None:
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr


def terraform_settings(rig: Rig, folder: Path, provider: Path) -> dict[str, str]:
    """The provider is installed from a folder, as the only one that there is."""
    for registry in ("registry.terraform.io", "registry.opentofu.org"):
        place = folder / "plugins" / registry / "hashicorp/vsphere/9.9.9/linux_amd64"
        place.mkdir(parents=True)
        shutil.copy(provider, place / "terraform-provider-vsphere_v9.9.9")
    settings = folder / "terraformrc"
    mirror = f'filesystem_mirror {{ path = "{folder}/plugins" }}'
    settings.write_text(f"provider_installation {{\n  {mirror}\n}}\n")
    govc, (host, port) = govc_of(rig.context), rig.context.address
    return {
        **os.environ,
        "TF_CLI_CONFIG_FILE": str(settings),
        "VSPHERE_SERVER": f"{host}:{port}",
        "VSPHERE_USER": govc.user,
        "VSPHERE_PASSWORD": govc.password,
    }
