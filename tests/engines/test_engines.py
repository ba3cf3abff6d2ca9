"""What `gpuvm export` writes, read by SkyPilot's, dstack's and Ray's own code or schema.

Each engine is installed from the package registry into an environment of its own, which is thrown
away: none of them is a dependency of gpuvm. Of Ray only the wheel is unpacked, for its JSON schema
(jsonschema reads it); SkyPilot and dstack are installed whole, and their own parsers read the file.
Nothing is deployed: no engine has been seen to run on such guests.
"""

import os
import shutil
import subprocess
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
from registry_programs import environment_with, pip

from gpuvm import export, guest
from gpuvm.export import Engine, Facts, Member
from gpuvm.guest import Endpoint, ssh_config
from gpuvm.settings import Context

pytestmark = pytest.mark.engines

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGXqY02bdYqg1BcIf2x08zs60rS6XhlBSQ4qE47o5gbX"

FULL = Facts(
    system="Debian GNU/Linux 12",
    debian_like=True,
    systemd=True,
    sudo=True,
    docker=True,
    container_toolkit=True,
    gpu=True,
    programs=("bash", "curl", "rsync"),
    ray="/opt/tensorflow/bin/ray",
    ray_version="ray, version 2.60.0",
)

READ_BY_SKYPILOT = """
import sys
from sky.ssh_node_pools import utils
from sky.ssh_node_pools.core import SSHNodePoolManager
file = sys.argv[1]
targets = utils.load_ssh_targets(file)
pool = utils.get_cluster_config(targets, "gpuvm", file)["gpuvm"]
SSHNodePoolManager()._validate_pool_config(pool)
hosts = utils.prepare_hosts_info("gpuvm", pool)
assert [host["ip"] for host in hosts] == ["gpuvm-01", "gpuvm-02"], hosts
assert all(host["use_ssh_config"] for host in hosts), hosts
"""

READ_BY_DSTACK = """
import sys, yaml
from dstack._internal.core.models.fleets import FleetConfiguration
from dstack._internal.core.services import validate_dstack_resource_name
from dstack._internal.core.models.configurations import parse_apply_configuration
fleet = parse_apply_configuration(yaml.safe_load(open(sys.argv[1])))
fleet = getattr(fleet, "root", fleet)
assert isinstance(fleet, FleetConfiguration), type(fleet)
validate_dstack_resource_name(fleet.name)
assert [(h.hostname, h.port) for h in fleet.ssh_config.hosts] == [
    ("10.0.0.1", 2222), ("10.0.0.2", 2222)], fleet
"""

READ_BY_RAY = """
import json, sys, yaml, jsonschema
content, schema = yaml.safe_load(open(sys.argv[1])), json.load(open(sys.argv[2]))
jsonschema.Draft7Validator.check_schema(schema)
jsonschema.validate(content, schema)
try:
    jsonschema.validate({**content, "head_ip": "10.0.0.1"}, schema)
except jsonschema.ValidationError:
    pass
else:
    sys.exit("the schema refuses nothing")
"""


@pytest.fixture
def context() -> Context:
    made = Context(name="site", vcenter="127.0.0.1", user="nobody")
    guest.ensure_key_pair(made)
    return made


@pytest.fixture
def members(context: Context) -> list[Member]:
    first = Endpoint(
        name="gpuvm-01",
        address="10.0.0.1",
        port=2222,
        user="gpuvm",
        key_file=context.key_file,
        host_keys=(KEY,),
        trust="guestinfo",
        identity="uuid-1-generation",
    )
    second = replace(first, name="gpuvm-02", address="10.0.0.2", identity="uuid-2-generation")
    return [Member(first, FULL), Member(second, FULL)]


def test_skypilot_reads_its_pool(tmp_path: Path, context: Context, members: list[Member]) -> None:
    python = environment_with(tmp_path / "venv", "skypilot")
    ssh_config.keep(context, "gpuvm", [member.endpoint for member in members])
    file = _written(tmp_path, Engine.SKYPILOT, members, context)
    # ssh reads the configuration of the account, not of HOME: this one reads the test's.
    ssh = tmp_path / "bin" / "ssh"
    ssh.parent.mkdir()
    ssh.write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F {ssh_config.config_file()} "$@"\n')
    ssh.chmod(0o755)
    _reads(python, READ_BY_SKYPILOT, file, home=tmp_path)


def test_dstack_reads_its_fleet(tmp_path: Path, context: Context, members: list[Member]) -> None:
    python = environment_with(tmp_path / "venv", "dstack")
    file = _written(tmp_path, Engine.DSTACK, members, context)
    _reads(python, READ_BY_DSTACK, file, home=tmp_path)


def test_rays_schema_takes_its_cluster(
    tmp_path: Path, context: Context, members: list[Member]
) -> None:
    python = environment_with(tmp_path / "venv", "jsonschema", "pyyaml")
    pip(python, "download", "--no-deps", "--only-binary=:all:", "-d", str(tmp_path), "ray")
    schema = "ray/autoscaler/ray-schema.json"
    with zipfile.ZipFile(next(tmp_path.glob("ray-*.whl"))) as wheel:
        wheel.extract(schema, tmp_path)
    file = _written(tmp_path, Engine.RAY, members, context)
    _reads(python, READ_BY_RAY, file, str(tmp_path / schema), home=tmp_path)


def _written(folder: Path, engine: Engine, members: list[Member], context: Context) -> str:
    file = folder / f"{engine.value}.yaml"
    file.write_text(export.render(engine, "gpuvm", members, context))
    return str(file)


def _reads(python: str, program: str, *arguments: str, home: Path) -> None:
    environment = {name: text for name, text in os.environ.items() if name != "PYTHONPATH"}
    own = {"HOME": str(home), "PATH": f"{home / 'bin'}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        [python, "-c", program, *arguments],
        env=environment | own,
        cwd=home,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
