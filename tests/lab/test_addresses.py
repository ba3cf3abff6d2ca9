"""Two labs never get the same addresses."""

import socket

import pytest

from gpuvm.errors import BadInput, LabError
from gpuvm.lab import addresses


def test_each_lab_gets_another_block_until_it_is_given_back() -> None:
    one, two = addresses.reserve(None), addresses.reserve(None)
    assert one.block != two.block
    with pytest.raises(LabError, match="another lab uses the addresses"):
        addresses.reserve(one.block)
    inherited = socket.socket(fileno=socket.dup(one.reservation.fileno()))
    one.reservation.close()
    with pytest.raises(LabError):
        addresses.reserve(one.block)
    inherited.close()
    again = addresses.reserve(one.block)
    assert again.block == one.block
    again.reservation.close()
    two.reservation.close()


@pytest.mark.parametrize(
    "block",
    [
        *("10.0.0.0/16", "127.77.0.0/24", "127.0.0.0/16", "127.300.0.0/16"),
        *("198.18.0.0/16", "198.18.1.0/22", "198.20.0.0/22"),
    ],
)
def test_only_blocks_that_are_nobody_s(block: str) -> None:
    with pytest.raises(BadInput, match="is not an address block"):
        addresses.reserve(block)


def test_used_port_is_skipped() -> None:
    block = addresses.reserve("127.89.0.0/16")
    with socket.socket() as other:
        other.bind(("127.89.0.1", block.free_port()))
        assert block.free_port() != other.getsockname()[1]
    block.reservation.close()


def test_guests_with_networks_of_their_own_have_port_22() -> None:
    block = addresses.reserve("198.19.252.0/22")
    assert addresses.network_of(block.block) == "namespaces"
    assert block.free_port() == 22
    block.reservation.close()
