"""The checks of guests before an export to another engine, over real SSH."""

from dataclasses import replace

import pytest
import yaml
from ssh_servers import Machine

from gpuvm import export, guest
from gpuvm.export import Engine, Member
from gpuvm.guest import ssh_config
from gpuvm.settings import Context


def ask(machine: Machine) -> Member:
    with guest.connect(machine.endpoint) as connected:
        return Member(connected.endpoint, export.read_facts(connected, "python3"))


def test_guest_without_requirements_is_refused_for_every_engine(machine: Machine) -> None:
    for name in ("sudo", "docker", "nvidia-ctk", "nvidia-smi"):
        machine.program(name, "exit 1")
    member = ask(machine)
    assert not member.facts.sudo
    assert not member.facts.docker
    for engine, word in ((Engine.SKYPILOT, "k3s"), (Engine.DSTACK, "Docker"), (Engine.RAY, "Ray")):
        refusals = export.missing(engine, [member])
        assert any(word in str(refusal) for refusal in refusals)
        assert all(str(refusal).startswith("one: ") and refusal.hint for refusal in refusals)
    assert not export.missing(Engine.SSH, [member])


def test_requirements_are_detected(machine: Machine) -> None:
    machine.program("sudo", 'test "$1" = -n && shift && exec "$@"')
    machine.program("docker", "test $1 = info")
    machine.program("nvidia-ctk", "exit 0")
    machine.program("ray", "echo ray, version 2.60.0")
    machine.program("rsync", "exit 0")
    machine.nvidia_smi("GPU 0: one")
    facts = ask(machine).facts
    assert facts.sudo
    assert facts.docker
    assert facts.container_toolkit
    assert facts.gpu
    assert (facts.ray, facts.ray_version) == (f"{machine.home}/bin/ray", "ray, version 2.60.0")
    assert {"bash", "rsync"} <= set(facts.programs)


def test_different_versions_of_ray_are_refused(machine: Machine) -> None:
    machine.program("ray", "echo ray, version 2.60.0")
    one = ask(machine)
    other = Member(one.endpoint, replace(one.facts, ray_version="ray, version 2.9.0"))
    refusals = export.missing(Engine.RAY, [one, other])
    assert any("different versions of Ray" in str(refusal) for refusal in refusals)


@pytest.mark.parametrize("engine", list(Engine))
def test_no_file_has_the_private_key(machine: Machine, engine: Engine) -> None:
    context = Context(name="test", vcenter="127.0.0.1", user="nobody")
    machine.program("ray", "echo ray, version 2.60.0")
    text = export.render(engine, "gpuvm", [ask(machine)], context)
    assert str(machine.user_key) in text
    assert "PRIVATE KEY" not in text
    assert not set(machine.user_key.read_text().splitlines()) & set(text.split())
    if engine is not Engine.SSH:
        assert isinstance(yaml.safe_load(text), dict)


def test_without_a_key_file_the_agents_keys_are_used(machine: Machine) -> None:
    context = Context(name="test", vcenter="127.0.0.1", user="nobody")
    block = ssh_config.host_block(replace(machine.endpoint, key_file=context.key_file), context)
    assert "Identit" not in block
    assert "StrictHostKeyChecking yes" in block
