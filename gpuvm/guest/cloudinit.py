"""cloud-init data for a new guest, in ``guestinfo`` keys (cloud-init, "VMware data source").

Metadata is JSON, which the older data source of CentOS 7 needs and newer ones read as YAML. There
are no secrets in it: every process in the guest can read it.
"""

import base64
import ipaddress
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gpuvm.errors import BadInput
from gpuvm.paths import resource

_PUBLIC_KEY = re.compile(r"(ssh|ecdsa|sk)-[a-z0-9@.-]+ [A-Za-z0-9+/]+=*( [^\r\n]*)?")


METADATA = "guestinfo.metadata"


@dataclass(frozen=True)
class FixedAddress:
    """For a guest's first network adapter; the others use DHCP. ``prefix`` is its length."""

    address: str
    prefix: int
    gateway: str | None
    dns: tuple[str, ...]
    domain: str


def user_data(
    *, hostname: str, instance_id: str, user: str, authorized_keys: Sequence[str]
) -> dict[str, str]:
    """Returns the guestinfo keys; host keys are cleared, since clones inherit their source's.

    Raises BadInput for an authorized key that is not a public key.
    """
    keys = [_public(key) for key in authorized_keys]
    text = resource("templates/user-data.yaml.j2").read_text(encoding="utf-8")
    # YAML, not HTML: every value goes through tojson, which is quoting enough for YAML.
    # Only provisioning needs it, and it takes a while to import.
    from jinja2 import Environment, StrictUndefined  # noqa: PLC0415

    template = Environment(undefined=StrictUndefined, autoescape=False).from_string(text)  # noqa: S701
    filled = template.render(hostname=hostname, user=user, authorized_keys=keys)
    metadata = {"instance-id": instance_id, "local-hostname": hostname}
    return {
        "guestinfo.userdata": _base64(filled),
        "guestinfo.userdata.encoding": "base64",
        METADATA: _base64(json.dumps(metadata)),
        f"{METADATA}.encoding": "base64",
        "guestinfo.gpuvm.ssh_host_keys": "",
    }


def with_network(metadata: str, macs: Sequence[str], fixed: FixedAddress) -> str:
    """Returns ``guestinfo.metadata`` of ``user_data`` with a network configuration added.

    cloud-init applies it at the first boot of an instance id. Adapters are matched by MAC address,
    which a VM has once it has been cloned; the first of ``macs`` gets the address. The format is
    "Networking Config Version 2"; without ``set-name`` some renderers would use the key as the name
    of the interface.
    """
    adapters = {
        f"id{number}": {"match": {"macaddress": mac.lower()}, "set-name": f"eth{number}"}
        | ({"dhcp4": True} if number else _static(fixed))
        for number, mac in enumerate(macs)
    }
    known = json.loads(base64.b64decode(metadata))
    known["network"] = _base64(json.dumps({"version": 2, "ethernets": adapters}))
    known["network.encoding"] = "base64"
    return _base64(json.dumps(known))


def _static(fixed: FixedAddress) -> dict[str, Any]:
    version = ipaddress.ip_address(fixed.address).version
    adapter: dict[str, Any] = {
        "dhcp4": False,
        "dhcp6": False,
        "addresses": [f"{fixed.address}/{fixed.prefix}"],
        "nameservers": {"addresses": list(fixed.dns), "search": [fixed.domain]},
    }
    return adapter | ({f"gateway{version}": fixed.gateway} if fixed.gateway else {})


def _public(key: str) -> str:
    """Refuses a private key pasted by mistake, without repeating it in the message."""
    if not _PUBLIC_KEY.fullmatch(key.strip()):
        raise BadInput(
            "an entry of ssh.authorized_keys in the context is not a public SSH key",
            hint="use a line such as 'ssh-ed25519 AAAA… name', as in ~/.ssh/id_ed25519.pub",
        )
    return key.strip()


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode("ascii")
