"""Descriptions of a lab: the reference deployment, others, and errors in a bad file."""

import json
from pathlib import Path
from typing import Any

import pytest

from gpuvm.errors import BadInput, NotFound
from gpuvm.lab.description import Description, describe, read_description
from gpuvm.lab.gpu_models import GPU_MODELS, model_of


def test_the_default_is_the_reference_deployment() -> None:
    lab = describe()
    assert [host.name for host in lab.hosts] == [f"esx-0{i}.lab.local" for i in range(1, 5)]
    for host in lab.hosts:
        assert (host.model, host.cpu_cores, host.memory_gib) == ("PowerEdge R730", 28, 256)
        (gpu,) = host.gpus
        assert (gpu.pci_address, gpu.device_id, gpu.memory_gib) == ("0000:3b:00.0", 0x15F8, 16)
    (template,) = lab.templates
    assert (template.name, template.firmware, template.hardware_version) == (
        "centos7-tensorflow",
        "efi",
        "vmx-17",
    )


def test_many_hosts_and_gpus() -> None:
    lab = describe(hosts=64, gpus_per_host=10, gpu="a100", vms=200)
    assert lab.gpu_count == 640
    assert len({gpu.pci_address for gpu in lab.hosts[0].gpus}) == 10
    assert lab.vms[0].count == 200


def test_nvswitches_are_no_gpus() -> None:
    (host,) = describe(hosts=1, gpus_per_host=2, gpu="a100").hosts
    switch = host.gpus[0].model_copy(update={"pci_address": "0000:c4:00.0", "class_id": 0x0680})
    board = host.model_copy(update={"gpus": (*host.gpus, switch)})
    assert describe().model_copy(update={"hosts": (board,)}).gpu_count == 2


def test_json_keeps_integers_and_omits_unset_fields() -> None:
    document = json.loads(describe().to_json())
    host = document["hosts"][0]
    assert isinstance(host["memory_gib"], int)
    assert "graphics_type" not in host
    assert Description.model_validate(document) == describe()


@pytest.mark.parametrize("counts", [{"hosts": 0}, {"gpus_per_host": -1}, {"vms": -1}])
def test_invalid_counts(counts: dict[str, Any]) -> None:
    with pytest.raises(BadInput):
        describe(**counts)


def test_too_many_gpus_for_one_host() -> None:
    with pytest.raises(BadInput, match="room for 39"):
        describe(gpus_per_host=40)
    assert len(describe(hosts=1, gpus_per_host=39).hosts[0].gpus) == 39


def test_an_unknown_gpu_lists_the_known_ones() -> None:
    with pytest.raises(NotFound, match="'k20'") as raised:
        describe(gpu="k20")
    assert raised.value.hint is not None
    assert "p100" in raised.value.hint


def test_the_catalogue_finds_a_card_by_its_ids() -> None:
    assert model_of(0x10DE, 0x1EB8) is GPU_MODELS["t4"]
    assert model_of(0x10DE, 0x0001) is None
    ids = [model.device_id for model in GPU_MODELS.values()]
    assert len(set(ids)) == len(ids)


def test_description_from_yaml(tmp_path: Path) -> None:
    file = tmp_path / "site.yaml"
    file.write_text(
        "hosts:\n- name: one\n  memory_gib: 64\n- name: two\n"
        "vms:\n- {name: 'old-{i}', count: 3, power: 'off', host: two}\n"
        "timings: {clone_s: 0.1}\n"
    )
    lab = read_description(file)
    assert [host.memory_gib for host in lab.hosts] == [64, 256]
    assert (lab.timings.clone_s, lab.timings.boot_s) == (0.1, 1)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("hosts:\n- name: one\n  memory: 64\n", r"site\.yaml:3: .*memory: unknown key"),
        ("hosts: []\n", r"site\.yaml:1: hosts: .*at least 1"),
        ("hosts:\n- {name: a}\n- {name: a}\n", "duplicate host 'a'"),
        ("hosts: [{name: a}]\nvms: [{host: b}]\n", "unknown host 'b'; known: a"),
        ("hosts: [{name: a}]\nusers: [{name: me}]\n", r"must contain administrator@lab\.local"),
        (
            "hosts: [{name: a}]\ntemplates: [{datastore: fast}]\n",
            "unknown datastore 'fast'; known: vsanDatastore",
        ),
    ],
)
def test_bad_description_is_reported_with_its_position(
    tmp_path: Path, text: str, complaint: str
) -> None:
    file = tmp_path / "site.yaml"
    file.write_text(text)
    with pytest.raises(BadInput, match=complaint):
        read_description(file)


def test_documented_example_and_models_are_correct(tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "docs" / "lab.md").read_text()
    file = tmp_path / "documented.yaml"
    file.write_text(text.split("```yaml\n")[1].split("```")[0])
    assert read_description(file).hosts[0].gpus[0].device_id == 0x15F8
    listed = text.split("GPU models: ")[1].split(".\n")[0]
    assert sorted(listed.split(", ")) == sorted(GPU_MODELS)
