"""The part of cloud-init that the lab's guests need: users with SSH keys, host name, bootcmd.

User data comes from ``guestinfo`` and is applied once for each instance id, as on a real template;
``bootcmd`` is run at every boot.
"""

import base64
import gzip
import json
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

_LOG = logging.getLogger(__name__)
_SUPPORTED = {"users", "ssh_authorized_keys", "hostname", "bootcmd"}
_DEFAULT_USER = "cloud-user"
_SHELL = "/bin/sh"


@dataclass(frozen=True)
class Instance:
    """The result of the first boot."""

    instance_id: str
    hostname: str
    users: tuple[str, ...]
    shells: dict[str, str] = field(default_factory=dict, compare=False)

    def shell(self, user: str) -> str:
        """The user's login shell from the user data, if it is installed here."""
        wanted = self.shells.get(user, _SHELL)
        return wanted if os.access(wanted, os.X_OK) else _SHELL


def boot(disk: Path, vm: str, guestinfo: Mapping[str, str]) -> Instance:
    """Applies the user data, unless this disk has been booted with this instance id."""
    metadata = _mapping("metadata", _read(guestinfo, "metadata"))
    instance_id = str(metadata.get("instance-id", vm))
    record = disk / "cloud" / "instance.json"
    if record.exists():
        data = json.loads(record.read_text(encoding="utf-8"))
        users = tuple(data["users"])
        known = Instance(data["instance_id"], data["hostname"], users, data.get("shells", {}))
        if known.instance_id == instance_id:
            return known
    shells = _apply(disk / "home", _read(guestinfo, "userdata"))
    host = str(metadata.get("local-hostname", vm))
    instance = Instance(instance_id, host, tuple(shells), shells)
    record.parent.mkdir(exist_ok=True)
    record.write_text(json.dumps(vars(instance)), encoding="utf-8")
    return instance


def boot_commands(guestinfo: Mapping[str, str]) -> list[list[str]]:
    """Returns ``bootcmd``: a list is a program with its arguments, a string is for sh."""
    text = _read(guestinfo, "userdata")
    found = _mapping("user data", text).get("bootcmd") if text.startswith("#cloud-config") else None
    if not isinstance(found, list):
        return []
    return [
        [str(part) for part in command] if isinstance(command, list) else ["sh", "-c", str(command)]
        for command in found
    ]


def _read(guestinfo: Mapping[str, str], key: str) -> str:
    """Decodes a value with the encodings of cloud-init's VMware data source."""
    value = guestinfo.get(f"guestinfo.{key}", "")
    encoding = guestinfo.get(f"guestinfo.{key}.encoding", "").lower()
    try:
        if encoding in {"base64", "b64"}:
            return base64.b64decode(value).decode()
        if encoding in {"gzip+base64", "gz+b64"}:
            return gzip.decompress(base64.b64decode(value)).decode()
    except (ValueError, OSError, EOFError) as error:
        _LOG.error("guestinfo.%s is not %s: %s", key, encoding, error)
        return ""
    return value


def _apply(homes: Path, user_data: str) -> dict[str, str]:
    """Creates the users; returns their shells by user name."""
    if not user_data.startswith("#cloud-config"):
        _LOG.error("the user data is not a #cloud-config: no user is created")
        return {}
    config = _mapping("user data", user_data)
    ignored = sorted(set(config) - _SUPPORTED)
    if ignored:
        _LOG.info("the lab ignores these keys of the user data: %s", ", ".join(ignored))
    common_keys = list(config.get("ssh_authorized_keys") or [])
    users = config.get("users") or ["default"]
    return dict(_create_user(homes, user, common_keys) for user in users)


def _create_user(homes: Path, user: Any, more_keys: list[str]) -> tuple[str, str]:
    entry = user if isinstance(user, dict) else {}
    # Only the last part: a name with slashes would create a folder elsewhere.
    name = Path(str(entry.get("name", _DEFAULT_USER if user == "default" else user))).name
    keys = [*(entry.get("ssh_authorized_keys") or []), *more_keys]
    folder = homes / name / ".ssh"
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    file = folder / "authorized_keys"
    file.write_text("".join(f"{key.strip()}\n" for key in keys), encoding="utf-8")
    file.chmod(0o600)
    _LOG.info("created the user %s with %d SSH keys", name, len(keys))
    return name, str(entry.get("shell", _SHELL))


def _mapping(what: str, text: str) -> dict[str, Any]:
    try:
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        _LOG.error("the %s is not YAML: %s", what, error)
        return {}
    return data if isinstance(data, dict) else {}
