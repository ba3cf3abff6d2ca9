"""The vCenter that the variables of govc, Terraform and Ansible name, with its account.

A password among them belongs to the host that the same variables name, and to no other.
"""

import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from pydantic import SecretStr

NAMES = (
    "GOVC_URL",
    "GOVC_USERNAME",
    "GOVC_PASSWORD",
    "GOVC_INSECURE",
    "GOVC_TLS_CA_CERTS",
    "VSPHERE_SERVER",
    "VSPHERE_USER",
    "VSPHERE_PASSWORD",
    "VSPHERE_ALLOW_UNVERIFIED_SSL",
    "VMWARE_HOST",
    "VMWARE_PORT",
    "VMWARE_USER",
    "VMWARE_PASSWORD",
    "VMWARE_VALIDATE_CERTS",
)
"""Every variable that is read here."""
_URL = re.compile(r"(?P<scheme>https?://)?(?:(?P<user>[^@:/]*)(?::(?P<password>[^@/]*))?@)?(.*)")


@dataclass(frozen=True)
class NamedVCenter:
    """``named_by`` and ``password_variable`` are the variables that say so."""

    named_by: str
    vcenter: str
    user: str | None
    password: SecretStr | None
    password_variable: str
    user_variable: str
    insecure: bool = False
    ca_file: Path | None = None


def named_vcenters(variables: Mapping[str, str] | None = None) -> list[NamedVCenter]:
    """Return what govc's, Terraform's and Ansible's variables name, in this order."""
    given = {name: text for name, text in (variables or os.environ).items() if text.strip()}
    return [one for read in _READERS for one in read(given)]


def _of_govc(given: Mapping[str, str]) -> Iterator[NamedVCenter]:
    """GOVC_URL may have user and password in it; variables of their own come first, as in govc."""
    match = _URL.fullmatch(given.get("GOVC_URL", "").strip())
    if match is None or not match[4]:
        return
    url_password = match["password"]
    separate = given.get("GOVC_PASSWORD")
    password = separate or (unquote(url_password) if url_password else None)
    ca_files = given.get("GOVC_TLS_CA_CERTS", "").split(os.pathsep)
    yield NamedVCenter(
        "GOVC_URL",
        (match["scheme"] or "") + match[4],
        given.get("GOVC_USERNAME") or unquote(match["user"] or "") or None,
        SecretStr(password) if password else None,
        "GOVC_PASSWORD" if separate else "GOVC_URL",
        "GOVC_USERNAME",
        _is_true(given.get("GOVC_INSECURE", "")),
        Path(ca_files[0]) if ca_files[0] else None,
    )


def _of_terraform(given: Mapping[str, str]) -> Iterator[NamedVCenter]:
    if "VSPHERE_SERVER" in given:
        yield NamedVCenter(
            "VSPHERE_SERVER",
            given["VSPHERE_SERVER"].strip(),
            given.get("VSPHERE_USER"),
            _secret(given, "VSPHERE_PASSWORD"),
            "VSPHERE_PASSWORD",
            "VSPHERE_USER",
            _is_true(given.get("VSPHERE_ALLOW_UNVERIFIED_SSL", "")),
        )


def _of_ansible(given: Mapping[str, str]) -> Iterator[NamedVCenter]:
    if "VMWARE_HOST" in given:
        port = given.get("VMWARE_PORT", "").strip()
        yield NamedVCenter(
            "VMWARE_HOST",
            given["VMWARE_HOST"].strip() + (f":{port}" if port else ""),
            given.get("VMWARE_USER"),
            _secret(given, "VMWARE_PASSWORD"),
            "VMWARE_PASSWORD",
            "VMWARE_USER",
            given.get("VMWARE_VALIDATE_CERTS", "").strip().lower() in ("0", "f", "false", "no"),
        )


_READERS: tuple[Callable[[Mapping[str, str]], Iterator[NamedVCenter]], ...] = (
    _of_govc,
    _of_terraform,
    _of_ansible,
)


def _secret(given: Mapping[str, str], name: str) -> SecretStr | None:
    return SecretStr(given[name]) if name in given else None


def _is_true(text: str) -> bool:
    """As Go reads it; anything that is not clearly true leaves the verification on."""
    return text.strip().lower() in ("1", "t", "true", "yes")
