"""A spec in other words with the same meaning changes nothing, on VMs read from a vCenter."""

from typing import Any

import pytest
from simulated_vcenter import Rig

from gpuvm.errors import PreflightRefused


def test_the_defaults_may_be_written_down(rig: Rig) -> None:
    with rig.connect() as connection:
        assert not rig.provision(connection, rig.plan(connection, hosts=2, name="plain")).failed
        written: dict[str, Any] = {
            "cluster": "/Lab/host/GPU-Cluster",
            "template": "/Lab/vm/centos7-tensorflow",
            "network": "VM Network",
            "folder": "/Lab/vm",
            "resource_pool": "/Lab/host/GPU-Cluster/Resources",
            "cpus": 8,
            "memory_gib": "32GiB",
            "accelerator": {"mode": "passthrough", "model": "P100"},
        }
        for one in ({key: value} for key, value in written.items()):
            assert not rig.plan(connection, hosts=2, name="plain", **one).changes, one
        assert not rig.plan(connection, hosts=2, name="plain", **written).changes
        with pytest.raises(PreflightRefused, match=r"a different spec: cpus not given, now 4$"):
            rig.plan(connection, hosts=2, name="plain", **written | {"cpus": 4})
    rig.teardown("plain")
