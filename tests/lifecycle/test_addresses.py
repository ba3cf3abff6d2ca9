"""Fixed addresses: valid values in gpuvm.yaml, and the configuration for cloud-init."""

import base64
import json
from typing import Any

import pytest
from pydantic import ValidationError

from gpuvm import guest
from gpuvm.guest import Awaited
from gpuvm.settings import SSH
from gpuvm.spec import AddressRange

FIXED = guest.FixedAddress("10.0.0.5", 24, "10.0.0.1", ("10.0.0.2",), "lab.example")


@pytest.mark.parametrize(
    ("requested", "complaint"),
    [
        ({"first": "10.0.0.9", "last": "10.0.0.1", "prefix": 24}, "is lower than"),
        ({"first": "10.0.0.1", "last": "10.0.1.9", "prefix": 24}, "last 10.0.1.9 is outside"),
        ({"first": "10.0.0.1", "last": "10.0.0.9", "prefix": 32}, "leaves no addresses"),
        ({"first": "2001:db8::1", "last": "10.0.0.9", "prefix": 24}, "last 10.0.0.9 is not IPv6"),
        (
            {"first": "10.0.0.1", "last": "10.0.0.9", "prefix": 24, "gateway": "fe80::1"},
            "gateway fe80::1 is not IPv4",
        ),
        ({"first": "2001:db8::1", "last": "2001:db9::1", "prefix": 64}, "is outside"),
    ],
)
def test_impossible_range_is_refused(requested: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValidationError, match=complaint):
        AddressRange.model_validate(requested)


def test_the_third_vm_gets_the_third_address() -> None:
    requested = {"first": "2001:db8::fffe", "last": "2001:db8::1:9", "prefix": 64}
    chosen = AddressRange.model_validate(requested)
    assert (chosen.address(3), chosen.size) == ("2001:db8::1:0", 12)


def test_network_adapters_are_identified_by_mac() -> None:
    first_boot = guest.user_data(hostname="vm", instance_id="i-1", user="u", authorized_keys=())
    reports = guest.with_network(
        first_boot[guest.METADATA], ("00:50:56:AA:00:01", "00:50:56:aa:00:02"), FIXED
    )
    metadata = json.loads(base64.b64decode(reports))
    assert (metadata["instance-id"], metadata["local-hostname"]) == ("i-1", "vm")
    assert metadata["network.encoding"] == "base64"
    assert json.loads(base64.b64decode(metadata["network"])) == {
        "version": 2,
        "ethernets": {
            "id0": {
                "match": {"macaddress": "00:50:56:aa:00:01"},
                "set-name": "eth0",
                "dhcp4": False,
                "dhcp6": False,
                "addresses": ["10.0.0.5/24"],
                "nameservers": {"addresses": ["10.0.0.2"], "search": ["lab.example"]},
                "gateway4": "10.0.0.1",
            },
            "id1": {
                "match": {"macaddress": "00:50:56:aa:00:02"},
                "set-name": "eth1",
                "dhcp4": True,
            },
        },
    }
    assert guest.with_network(reports, ("00:50:56:aa:00:01", "00:50:56:aa:00:02"), FIXED) == reports


@pytest.mark.parametrize(
    ("awaited", "counts", "name"),
    [
        (Awaited(), ("10.0.0.5", "192.168.1.5", "2001:db8::5"), "an address"),
        (Awaited(FIXED), ("10.0.0.5",), "the address 10.0.0.5"),
        (
            Awaited(subnet=SSH.model_validate({"subnet": "192.168.0.0/16"}).subnet),
            ("192.168.1.5",),
            "an address in 192.168.0.0/16",
        ),
        (
            Awaited(subnet=SSH.model_validate({"subnet": "2001:db8::/32"}).subnet),
            ("2001:db8::5",),
            "an address in 2001:db8::/32",
        ),
    ],
)
def test_which_addresses_count(awaited: Awaited, counts: tuple[str, ...], name: str) -> None:
    reported = ("10.0.0.5", "192.168.1.5", "2001:db8::5")
    assert (awaited.among(reported), str(awaited)) == (counts, name)
