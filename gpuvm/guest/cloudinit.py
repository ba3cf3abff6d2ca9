"""What a new guest reads at its first boot: cloud-init data in ``guestinfo`` keys.

See cloud-init's VMware data source. Metadata is JSON, which the older data source of CentOS 7
needs and newer ones read as YAML. Nothing secret goes in: every process in the guest can read it.
"""

import base64
import json
import re
from collections.abc import Sequence

from jinja2 import Environment, StrictUndefined

from gpuvm.errors import BadInput
from gpuvm.resources import resource

_PUBLIC_KEY = re.compile(r"(ssh|ecdsa|sk)-[a-z0-9@.-]+ [A-Za-z0-9+/]+=*( [^\r\n]*)?")


def user_data(
    *, hostname: str, instance_id: str, user: str, authorized_keys: Sequence[str]
) -> dict[str, str]:
    """The guestinfo keys; the host keys' one is emptied, since clones inherit their source's.

    Raises BadInput for an authorized key that is not a public one.
    """
    keys = [_public(key) for key in authorized_keys]
    text = resource("templates/user-data.yaml.j2").read_text(encoding="utf-8")
    # YAML, not HTML: every value goes through tojson, which is quoting enough for YAML.
    template = Environment(undefined=StrictUndefined, autoescape=False).from_string(text)  # noqa: S701
    filled = template.render(hostname=hostname, user=user, authorized_keys=keys)
    metadata = json.dumps({"instance-id": instance_id, "local-hostname": hostname})
    return {
        "guestinfo.userdata": _base64(filled),
        "guestinfo.userdata.encoding": "base64",
        "guestinfo.metadata": _base64(metadata),
        "guestinfo.metadata.encoding": "base64",
        "guestinfo.gpuvm.ssh_host_keys": "",
    }


def _public(key: str) -> str:
    """A private key pasted by mistake must not reach a VM; nor is it repeated in the message."""
    if not _PUBLIC_KEY.fullmatch(key.strip()):
        raise BadInput(
            "ssh.authorized_keys in the context has an entry that is not a public SSH key",
            hint="one line such as 'ssh-ed25519 AAAA… name', as in ~/.ssh/id_ed25519.pub",
        )
    return key.strip()


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode("ascii")
