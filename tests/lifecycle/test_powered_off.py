"""A VM that powers off by itself, as ESXi does when its 64-bit MMIO window is too small.

Broadcom article 323402: the power-on succeeds, and the VM drops about two seconds later.
"""

from simulated_vcenter import Rig, at, end

from gpuvm import lifecycle
from gpuvm.errors import PoweredOff
from gpuvm.events import Events
from gpuvm.lifecycle import Outcome


def test_it_is_detected_while_waiting_for_the_address(rig: Rig) -> None:
    """Not at the deadline, which is ten minutes."""
    rig.post("/vms/drop-01/drops")
    with rig.connect() as connection:
        plan = rig.plan(connection, hosts=1, name="drop")
        (outcome,) = rig.provision(connection, plan, until="address").failed
        _check(outcome, "its address")
        (vm,) = rig.own_vms(connection, "drop")
        assert not vm.powered_on, "it stays, to be looked at"
    rig.teardown("drop")


def test_it_is_detected_while_the_guest_is_checked(rig: Rig) -> None:
    with rig.connect() as connection, rig.connect() as other:

        def drop() -> None:
            (vm,) = rig.own_vms(other, "drop")
            end(other, vm.name, other.start_power_off(vm.moref))

        plan = rig.plan(connection, hosts=1, name="drop")
        events = at("ready", "start", drop)
        (outcome,) = lifecycle.provision(plan, connection, rig.context, events).failed
        _check(outcome, "its guest to be ready")
    rig.teardown("drop")


def test_events_that_may_not_be_read_hide_nothing_else(rig: Rig) -> None:
    rig.post("/vms/drop-01/drops")
    with rig.connect() as connection:
        plan = rig.plan(connection, hosts=1, name="drop")
        rig.fault("QueryEvents", "NoPermission")
        result = lifecycle.provision(plan, connection, rig.context, Events(), until="address")
        (outcome,) = result.failed
        assert isinstance(outcome.error, PoweredOff)
        assert not outcome.error.events
    rig.teardown("drop")


def _check(outcome: Outcome, waiting_for: str) -> None:
    assert isinstance(outcome.error, PoweredOff)
    assert outcome.left
    text, hint = str(outcome.error), outcome.error.hint or ""
    assert f"drop-01 powered off while gpuvm waited for {waiting_for}; its last events:" in text
    assert text.endswith("is powered off")
    causes = [hint.index(cause) for cause in ("mmio_gib", "above 4 GB", "vmkernel.log")]
    assert causes == sorted(causes)
