"""The file of `gpuvm doctor --report` describes a site without any of its names."""

import dataclasses
import json
from collections.abc import Iterator
from typing import Any

from simulated_vcenter import Rig

from gpuvm import doctor
from gpuvm.doctor import CheckInput
from gpuvm.spec import ClusterSpec

VOCABULARY = {"connected", "poweredOn", "efi", "passthrough", "ours", "8.0.3", "8.0.3.0", "15f8"}


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, one in value.items():
            yield from _texts(key)
            yield from _texts(one)
    elif isinstance(value, (list, tuple, set, frozenset)):
        for one in value:
            yield from _texts(one)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield from _texts(getattr(value, field.name))


def test_no_text_of_the_site_is_in_it(rig: Rig) -> None:
    with rig.connect() as connection:
        plan = rig.plan(connection, hosts=2, name="confidential")
        assert not rig.provision(connection, plan).failed
        inventory = connection.read_inventory()
        spec = ClusterSpec.model_validate(
            {"hosts": 9, "name": "confidential", "cluster": "GPU-Cluster"}
        )
        trial = doctor.make_trial_plan(spec, inventory)
        missing = {"group-v3": ("Global.CancelTask",)}
        given = CheckInput(spec, inventory, trial, missing, "ca", None)
        account = doctor.anonymous(given, doctor.run_checks(given))
        written = json.dumps(account)
        named = {t for t in _texts(inventory) if len(t) > 3} - VOCABULARY
        assert len(named) > 50, "the site has names that could leak"
        assert not [text for text in named if text in written]
        assert rig.context.user not in written
        shapes = account["cluster"]["gpus"]
        assert sum(shape["count"] for shape in shapes) == 6
        assert {shape["device_id"] for shape in shapes} == {"15f8"}
        assert account["vcenter"]["version"] == "8.0.3"
        assert account["spec"]["named"] == ["cluster"]
        assert account["privileges_missing"] == ["Global.CancelTask"]
        assert [refusal["kind"] for refusal in account["refusals"]] == ["Unplaceable"]
    rig.teardown("confidential")
