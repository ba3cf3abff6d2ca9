"""The GPUs that a guest sees are those of its VM's virtual hardware."""

import json

from gpuvm.devices import PassthroughDevice
from gpuvm.lab import guest_gpus
from gpuvm.lab.description import Description, describe


def device(
    device_id: str, system_id: str = "host-1", address: str = "0000:3b:00.0"
) -> PassthroughDevice:
    return PassthroughDevice(address, system_id, device_id, 0x10DE)


def test_known_cards_have_the_driver_s_name() -> None:
    first, second = guest_gpus.in_guest(describe(), [device("15f8"), device("1eb8")], "vm-1")
    assert (first.name, first.memory_mib, first.compute_cap) == (
        "Tesla P100-PCIE-16GB",
        16384,
        "6.0",
    )
    assert second.name == "Tesla T4"
    assert (first.bus_id, second.bus_id) == ("00000000:0B:00.0", "00000000:13:00.0")


def test_gpu_uuid_is_per_host_and_independent_of_the_vm() -> None:
    (one,) = guest_gpus.in_guest(describe(), [device("15f8")], "vm-1")
    _, same = guest_gpus.in_guest(describe(), [device("1eb8"), device("15f8")], "vm-1")
    (other,) = guest_gpus.in_guest(describe(), [device("15f8", system_id="host-2")], "vm-1")
    assert one.uuid == same.uuid != other.uuid


def test_gpu_known_only_from_the_description() -> None:
    document = json.loads(describe(hosts=1).to_json())
    document["hosts"][0]["gpus"][0] |= {"device_id": 0x2901, "name": "B200", "memory_gib": 180}
    (card,) = guest_gpus.in_guest(Description.model_validate(document), [device("2901")], "vm-1")
    assert (card.name, card.memory_mib) == ("B200", 180 * 1024)


def test_many_cards_have_many_bus_ids() -> None:
    shown = guest_gpus.in_guest(describe(), [device("15f8")] * 16, "vm-1")
    assert len({card.bus_id for card in shown}) == 16
