"""Exports the VMs of a deployment to other engines: SkyPilot, dstack, Ray.

    refusals = export.missing(engine, members)     what the guests lack, with hints
    text = export.render(engine, "gpuvm", members, context)

Sources, as of SkyPilot 0.14, dstack 0.22 and Ray 2.60: SkyPilot's "Deploy SkyPilot on existing
machines" (Debian-based, passwordless sudo, ``sky ssh up`` installs k3s with curl), dstack's "SSH
fleets" (Docker, NVIDIA Container Toolkit, passwordless sudo; its shim is a systemd service), Ray's
"Launching an on-premise cluster" (``ray`` on every node; ``ray up`` uses port 22 and rsync).
"""

import enum
import ipaddress
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from gpuvm.errors import GuestError, PreflightRefused
from gpuvm.guest import Endpoint, Guest, ssh_config
from gpuvm.settings import Context

SSH_PORT = 22
RAY_PORT = 6379
FACTS_TIMEOUT_S = 180.0
_AUTOSCALING = "--autoscaling-config=~/ray_bootstrap_config.yaml"


class Engine(enum.StrEnum):
    SKYPILOT = "skypilot"
    DSTACK = "dstack"
    RAY = "ray"
    SSH = "ssh"


@dataclass(frozen=True)
class Facts:
    """The output of engine_facts; ``ray`` is the program's path, or empty."""

    system: str
    debian_like: bool
    systemd: bool
    sudo: bool
    docker: bool
    container_toolkit: bool
    gpu: bool
    programs: tuple[str, ...]
    ray: str
    ray_version: str


@dataclass(frozen=True)
class Member:
    endpoint: Endpoint
    facts: Facts


def read_facts(guest: Guest, python: str) -> Facts:
    """Raises GuestError when the guest's ``python`` does not answer."""
    done = guest.script(
        python, "engine_facts", timeout_s=FACTS_TIMEOUT_S, what="what the guest has"
    )
    output = done.stdout
    try:
        facts = json.loads(output)
        return Facts(**{**facts, "programs": tuple(facts["programs"])})
    except (ValueError, TypeError, KeyError):
        raise GuestError(f"{guest.name}: unexpected output: {output[:200]!r}") from None


def missing(engine: Engine, members: Sequence[Member]) -> list[PreflightRefused]:
    """An error for each unmet requirement, naming the VMs."""
    found = []
    for need in _NEEDS[engine]:
        without = [member.endpoint.name for member in members if not need.is_met(member)]
        if without:
            found.append(PreflightRefused(f"{', '.join(without)}: {need.text}", hint=need.hint))
    versions = {member.facts.ray_version for member in members if member.facts.ray}
    if engine is Engine.RAY and len(versions) > 1:
        found.append(
            PreflightRefused(
                f"the guests have different versions of Ray: {', '.join(sorted(versions))}",
                hint="all nodes of a Ray cluster need the same version",
            )
        )
    return found


def render(
    engine: Engine, deployment: str, members: Sequence[Member | Endpoint], context: Context
) -> str:
    """Returns the engine's configuration file; host blocks need no facts."""
    endpoints = [one.endpoint if isinstance(one, Member) else one for one in members]
    facts = [one for one in members if isinstance(one, Member)]
    if engine is Engine.SSH:
        return "\n".join(ssh_config.host_block(one, context) for one in endpoints)
    if engine is Engine.SKYPILOT:
        return _yaml(_SKYPILOT_HEADER, skypilot(deployment, endpoints))
    if engine is Engine.DSTACK:
        return _yaml(_DSTACK_HEADER, dstack(deployment, endpoints))
    return _yaml(_RAY_HEADER, ray(deployment, facts))


def skypilot(deployment: str, endpoints: Sequence[Endpoint]) -> dict[str, Any]:
    """An SSH node pool of hosts in ~/.ssh/config, which has the ports and pinned host keys."""
    return {deployment: {**_login(endpoints[0], "user"), "hosts": [one.name for one in endpoints]}}


def dstack(deployment: str, endpoints: Sequence[Endpoint]) -> dict[str, Any]:
    """An SSH fleet; its name must begin with a letter and have at least two characters."""
    valid = deployment[0].isalpha() and len(deployment) > 1
    hosts = [
        {
            "hostname": one.address,
            "port": one.port,
            **({"internal_ip": one.address} if _is_private(one.address) else {}),
        }
        for one in endpoints
    ]
    return {
        "type": "fleet",
        "name": deployment if valid else f"gpuvm-{deployment}",
        "placement": "cluster" if len(endpoints) > 1 else "any",
        "ssh_config": {**_login(endpoints[0], "user"), "hosts": hosts},
    }


def ray(deployment: str, members: Sequence[Member]) -> dict[str, Any]:
    """An on-premise cluster: the first VM is the head, the others are its workers."""
    head, *workers = (member.endpoint.address for member in members)
    program = members[0].facts.ray
    login = _login(members[0].endpoint, "ssh_user")
    if "identity_file" in login:
        login["ssh_private_key"] = login.pop("identity_file")
    return {
        "cluster_name": deployment,
        "provider": {"type": "local", "head_ip": head, "worker_ips": workers},
        "auth": login,
        "max_workers": len(workers),
        "head_start_ray_commands": [
            f"{program} stop",
            f"ulimit -c unlimited; {program} start --head --port={RAY_PORT} {_AUTOSCALING}",
        ],
        "worker_start_ray_commands": [
            f"{program} stop",
            f"{program} start --address=$RAY_HEAD_IP:{RAY_PORT}",
        ],
    }


def _login(endpoint: Endpoint, user: str) -> dict[str, str]:
    """The user and the path of the private key; without a path ssh-agent has the key."""
    key = {"identity_file": str(endpoint.key_file.absolute())} if endpoint.key_file.exists() else {}
    return {user: endpoint.user, **key}


def _is_private(address: str) -> bool:
    return ipaddress.ip_address(address).is_private


def _yaml(header: str, content: dict[str, Any]) -> str:
    return header + yaml.safe_dump(content, sort_keys=False)


_SKYPILOT_HEADER = """\
# SkyPilot's SSH node pool: goes into ~/.sky/ssh_node_pools.yaml, then `sky ssh up`.
# The hosts are in ~/.ssh/config, updated by `gpuvm ssh-config`.
"""
_DSTACK_HEADER = """\
# dstack's SSH fleet: `dstack apply -f FILE`. dstack itself does not check host keys.
"""
_RAY_HEADER = """\
# Ray's on-premise cluster: `ray up FILE`. Ray itself does not check host keys.
# `ray` on this machine must have the same version as in the guests.
"""


@dataclass(frozen=True)
class _Need:
    text: str
    hint: str
    is_met: Callable[[Member], bool]


def _has(program: str, what_for: str) -> _Need:
    return _Need(
        f"{program} is not installed, {what_for}",
        f"install {program} in the VM template",
        lambda member: program in member.facts.programs,
    )


def _sudo(what_for: str) -> _Need:
    return _Need(
        f"sudo is missing or asks for a password, {what_for}",
        "install sudo in the VM template; the user that gpuvm creates needs no password for it",
        lambda member: member.facts.sudo,
    )


def _systemd(what_for: str) -> _Need:
    return _Need(
        f"systemd is not running, {what_for}",
        "build the VM template from a distribution with systemd",
        lambda member: member.facts.systemd,
    )


_NEEDS: dict[Engine, tuple[_Need, ...]] = {
    Engine.SSH: (),
    Engine.SKYPILOT: (
        _Need(
            "the system is not Debian-like, which SkyPilot's node pools need",
            "use a VM template with Debian or Ubuntu, or another engine: dstack, ray",
            lambda member: member.facts.debian_like,
        ),
        _sudo("with which SkyPilot installs k3s"),
        _systemd("which runs k3s"),
        _has("curl", "with which SkyPilot fetches k3s"),
    ),
    Engine.DSTACK: (
        _Need(
            "Docker is not installed or not running: dstack runs everything in containers",
            "install Docker in the VM template",
            lambda member: member.facts.docker,
        ),
        _Need(
            "the NVIDIA Container Toolkit is not installed: without it containers have no GPU",
            "install nvidia-container-toolkit in the VM template",
            lambda member: member.facts.container_toolkit or not member.facts.gpu,
        ),
        _sudo("with which dstack installs its agent"),
        _systemd("which runs dstack's agent"),
        _has("curl", "with which dstack queries its agent"),
    ),
    Engine.RAY: (
        _Need(
            "Ray is not installed",
            "pip install 'ray[default]' beside TensorFlow in the VM template",
            lambda member: bool(member.facts.ray),
        ),
        _Need(
            f"SSH listens on another port than {SSH_PORT}, the only one that 'ray up' connects to",
            "start Ray by hand ('gpuvm ssh', 'ray start'), or let sshd listen on port 22 too",
            lambda member: member.endpoint.port == SSH_PORT,
        ),
        _has("bash", "in which 'ray up' runs its commands"),
        _has("rsync", "with which 'ray up' copies its files"),
    ),
}
