"""The failure table: lost answers, expired sessions, lost races, refusals; each VM alone."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from simulated_vcenter import Rig, at, clearing_faults, end, quick_site, repair, rig_of

from gpuvm import lifecycle, planner
from gpuvm.errors import Interrupted, NoPermission, PreflightRefused, TaskFailed, VSphereError
from gpuvm.events import Event, Events
from gpuvm.inventory import VM
from gpuvm.lifecycle import clone_request
from gpuvm.planner import Plan
from gpuvm.spec import ClusterSpec
from gpuvm.vsphere import VSphere


@pytest.fixture(scope="module")
def slow(home: Path) -> Iterator[Rig]:
    """Two hosts; a clone takes long enough for something to happen meanwhile."""
    with rig_of(home, "slow", quick_site(2, clone_s=1.5, power_on_s=1.0)) as rig:
        yield rig


no_faults = clearing_faults("rig", "slow")


@pytest.mark.parametrize("method", ["CloneVM_Task", "PowerOnVM_Task"])
@pytest.mark.parametrize("which", ["rig", "slow"])
@pytest.mark.usefixtures("simulator")
def test_lost_answer_is_looked_up(method: str, which: str, request: pytest.FixtureRequest) -> None:
    """On the slow one the task still runs when it is looked for, on the other it has ended."""
    rig = request.getfixturevalue(which)
    with rig.connect() as connection:
        plan = rig.plan(connection, hosts=2, name="lost")
        rig.drop_after(method)
        rig.reset_calls()
        result = rig.provision(connection, plan)
        assert not result.failed, result
        assert rig.calls()[method] == 2, "nothing was submitted twice"
        assert [vm.name for vm in rig.own_vms(connection, "lost")] == ["lost-01", "lost-02"]
    rig.teardown("lost")


def test_reconfigure_with_a_lost_answer_is_looked_up(rig: Rig) -> None:
    option = {"sched.cpu.latencySensitivity": "high"}
    with rig.connect() as connection:
        plan = rig.plan(connection, hosts=1, name="mended", extra_config=option)
        rig.provision(connection, plan)
        (vm,) = rig.own_vms(connection, "mended")
        lifecycle.stop([vm], connection, Events())
        _set(rig, connection, plan, vm, {"sched.cpu.latencySensitivity": "low"})
        rig.drop_after("ReconfigVM_Task")
        (stopped,) = rig.own_vms(connection, "mended")
        start = planner.plan_start(
            [stopped], ClusterSpec(name="mended"), connection.read_inventory()
        )
        assert not rig.provision(connection, start).failed
        (again,) = rig.own_vms(connection, "mended")
        assert again.extra_config.items() >= option.items()
    rig.teardown("mended")


def _set(rig: Rig, connection: VSphere, plan: Plan, vm: VM, options: dict[str, str]) -> None:
    """As with a manual change in the vSphere Client."""
    request = clone_request.clone_request(
        plan, replace(plan.steps[0], vm=vm), rig.context, "ssh-ed25519 A"
    )
    assert repair(connection, vm, replace(request, extra_config=options)).error is None


def test_an_expired_session_is_renewed_while_waiting(slow: Rig) -> None:
    with slow.connect() as connection:
        plan = slow.plan(connection, hosts=2, name="renewed")
        expired: list[Event] = []

        def expire(event: Event) -> None:
            if event.name == "power_on" and not expired:
                expired.append(event)
                slow.post("/sessions/expire")

        result = lifecycle.provision(
            plan, connection, slow.context, Events(expire), until="powered-on"
        )
        assert expired
        assert not result.failed, result
    slow.teardown("renewed")


def test_a_session_that_expired_before_is_renewed(rig: Rig) -> None:
    with rig.connect() as connection:
        rig.post("/sessions/expire")
        assert connection.read_inventory().hosts


def test_reads_are_repeated_when_the_connection_breaks(rig: Rig) -> None:
    with rig.connect() as connection:
        rig.drop_after("RetrievePropertiesEx", 2)
        assert connection.read_inventory().hosts


def test_one_vms_failure_is_its_own(rig: Rig) -> None:
    with rig.connect() as connection:
        plan = rig.plan(connection, hosts=3, name="three")
        rig.fault("CloneVM_Task", "NoDiskSpace", object="three-02", where="task")
        result = rig.provision(connection, plan)
        assert [o.state for o in result.outcomes] == ["powered-on", "failed", "powered-on"]
        assert int(result.exit_code) == 4
        error = result.failed[0].error
        assert isinstance(error, TaskFailed)
        assert error.fault == "NoDiskSpace"
        assert "--datastore" in (error.hint or "")
        again = rig.provision(connection, rig.plan(connection, hosts=3, name="three"))
        assert not again.failed
    rig.teardown("three")


@pytest.mark.parametrize("before", ["configure", "power_on"])
def test_refused_read_fails_only_the_vms_that_need_it(rig: Rig, before: str) -> None:
    """Between two stages all VMs are read in one call."""
    ended = {"configure": "clone", "power_on": "configure"}[before]
    with rig.connect() as connection:
        plan = rig.plan(connection, hosts=2, name="unread")
        refusal = at(ended, "end", lambda: rig.fault("RetrievePropertiesEx", "RuntimeFault"))
        result = lifecycle.provision(plan, connection, rig.context, refusal, until="powered-on")
        assert len(result.outcomes) == 2
        assert result.failed
        assert all("reading properties" in str(o.error) for o in result.failed)
        assert not any(o.left for o in result.failed)
        failed = {o.name for o in result.failed}
        assert not failed & {vm.name for vm in rig.own_vms(connection, "unread")}, "removed again"
    rig.teardown("unread")


def test_refused_lookup_after_a_lost_race_fails_one_vm(rig: Rig) -> None:
    """The power-on fails, and so does the look at who holds the GPU: the other VM runs."""
    with rig.connect() as connection:
        plan = rig.plan(connection, hosts=2, name="blind")
        rig.fault("PowerOnVM_Task", "GenericVmConfigFault", object="blind-02", where="task")
        refusal = at("power_on", "start", lambda: rig.fault("CreateContainerView", "RuntimeFault"))
        result = lifecycle.provision(plan, connection, rig.context, refusal, until="powered-on")
        assert [o.state for o in result.outcomes] == ["powered-on", "failed"]
        (outcome,) = result.failed
        assert isinstance(outcome.error, TaskFailed)
        assert outcome.error.fault == "GenericVmConfigFault"
        assert [vm.name for vm in rig.own_vms(connection, "blind")] == ["blind-01"], "removed again"
    rig.teardown("blind")


def test_after_an_interruption_the_command_that_continues_is_shown(slow: Rig) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    with slow.connect() as connection:
        plan = slow.plan(connection, hosts=2)
        events = at("clone", "start", interrupt)
        with pytest.raises(Interrupted) as caught:
            lifecycle.provision(plan, connection, slow.context, events)
    assert caught.value.hint == (
        "continue with 'gpuvm provision', or remove them with 'gpuvm teardown'"
    )


@pytest.mark.parametrize(
    ("fault", "hint"),
    [
        ("InsufficientHostMemoryCapacityFault", "unreserved memory"),
        ("InsufficientMemoryResourcesFault", "resource pool"),
        ("InsufficientFailoverResourcesFault", "admission control"),
        ("InsufficientGraphicsResourcesFault", "gpuvm gpus"),
        ("NoCompatibleHost", "gpuvm gpus"),
        ("HostNotConnected", "gpuvm doctor"),
    ],
)
def test_refused_power_on_removes_the_new_vm(rig: Rig, fault: str, hint: str) -> None:
    with rig.connect() as connection:
        plan = rig.plan(connection, hosts=1, name="refused")
        rig.fault("PowerOnVM_Task", fault, where="task", count=3)
        (outcome,) = rig.provision(connection, plan).failed
        assert isinstance(outcome.error, TaskFailed)
        assert outcome.error.fault == fault
        assert hint in (outcome.error.hint or "")
        assert not rig.own_vms(connection, "refused")


def test_unknown_text_is_shown_unchanged(rig: Rig) -> None:
    with rig.connect() as connection:
        plan = rig.plan(connection, hosts=1, name="unheard")
        text = "an unheard-of reason"
        rig.fault("PowerOnVM_Task", "GenericVmConfigFault", where="task", message=text)
        (outcome,) = rig.provision(connection, plan).failed
        assert text in str(outcome.error)
        assert not rig.own_vms(connection, "unheard")


def test_keep_failed_keeps_it(rig: Rig) -> None:
    with rig.connect() as connection:
        plan = rig.plan(connection, hosts=1, name="kept")
        rig.fault("PowerOnVM_Task", "InvalidState", where="task")
        result = lifecycle.provision(
            plan, connection, rig.context, Events(), until="powered-on", keep_failed=True
        )
        assert result.failed[0].left
        assert len(rig.own_vms(connection, "kept")) == 1
    rig.teardown("kept")


def test_a_missing_privilege_is_named(rig: Rig) -> None:
    weak = rig.as_user("nodevices@lab.local")
    with rig.connect() as strong, weak.connect() as connection:
        plan = weak.plan(connection, hosts=1, name="weak")
        (outcome,) = weak.provision(connection, plan).failed
        assert isinstance(outcome.error, NoPermission)
        assert outcome.error.privilege == "VirtualMachine.Config.AddRemoveDevice"
        assert not rig.own_vms(strong, "weak")


def test_a_disconnected_host_is_left_out(slow: Rig) -> None:
    slow.post("/hosts/esx-02.lab.local/disconnect")
    try:
        with slow.connect() as connection:
            plan = slow.plan(connection, hosts=1, name="other")
            assert plan.steps[0].host.name == "esx-01.lab.local"
            assert "esx-02.lab.local is left out: disconnected" in plan.findings[0].text
    finally:
        slow.post("/hosts/esx-02.lab.local/reconnect")


def test_disconnected_host_fails_only_its_own_clone(slow: Rig) -> None:
    with slow.connect() as connection:
        plan = slow.plan(connection, hosts=2, name="away")
        gone: list[Event] = []

        def disconnect(event: Event) -> None:
            if event.kind == "progress" and event.name == "clone" and not gone:
                gone.append(event)
                slow.post("/hosts/esx-02.lab.local/disconnect")

        result = lifecycle.provision(
            plan, connection, slow.context, Events(disconnect), until="powered-on"
        )
        slow.post("/hosts/esx-02.lab.local/reconnect")
        assert [o.name for o in result.failed] == ["away-02"]
        error = result.failed[0].error
        assert isinstance(error, TaskFailed)
        assert "Host" in error.fault
    slow.teardown("away")


def test_name_taken_meanwhile_by_another_vm_is_refused(rig: Rig) -> None:
    with rig.connect() as connection:
        plan = rig.plan(connection, hosts=1, name="wanted")
        rig.add(name="wanted-01", power="off")
        (outcome,) = rig.provision(connection, plan).failed
        assert isinstance(outcome.error, PreflightRefused)
        assert "is not managed by gpuvm" in str(outcome.error)
        folder = plan.cluster.vm_folder
        unrelated = connection.find_in_folder(folder, "wanted-01")
        assert unrelated, "it was not touched"
        end(connection, "wanted-01", connection.start_destroy(unrelated))


def test_vm_removed_meanwhile_counts_as_gone(rig: Rig) -> None:
    with rig.connect() as connection:
        rig.provision(connection, rig.plan(connection, hosts=1, name="vanished"))
        (vm,) = rig.own_vms(connection, "vanished")
        lifecycle.stop([vm], connection, Events())
        end(connection, "vanished", connection.start_destroy(vm.moref))
        assert not lifecycle.teardown([vm], connection, Events()).failed
        with pytest.raises(VSphereError, match="does not exist any more"):
            connection.start_power_on(vm.moref)


def test_two_operators_with_one_name_make_each_vm_once(slow: Rig) -> None:
    """Both plans are made before either begins; the second adopts what the first has made."""
    with slow.connect() as one, slow.connect() as two:
        first, second = (slow.plan(c, hosts=2, name="both") for c in (one, two))
        results = _at_once(slow, (one, first), (two, second))
        assert not [o for result in results for o in result.failed], results
        own = slow.own_vms(one, "both")
        assert [vm.name for vm in own] == ["both-01", "both-02"]
        assert all(vm.powered_on and vm.ownership == "ours" for vm in own)
    slow.teardown("both")


def test_two_operators_with_two_names_never_share_a_gpu(slow: Rig) -> None:
    with slow.connect() as one, slow.connect() as two:
        first, second = slow.plan(one, hosts=2, name="left"), slow.plan(two, hosts=2, name="right")
        results = _at_once(slow, (one, first), (two, second))
        running = [
            vm for name in ("left", "right") for vm in slow.own_vms(one, name) if vm.powered_on
        ]
        assert len(running) == 2
        assert len({vm.host for vm in running}) == 2
        losers = [o for result in results for o in result.failed]
        assert len(losers) == 2
        assert all("is held by" in str(o.error) for o in losers), losers
        assert len([*slow.own_vms(one, "left"), *slow.own_vms(one, "right")]) == 2, (
            "losers are removed"
        )
    slow.teardown("left")
    slow.teardown("right")


def _at_once(rig: Rig, *work: tuple[VSphere, Plan]) -> list[lifecycle.ApplyResult]:
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(len(work)) as pool:
        return list(pool.map(lambda each: rig.provision(*each), work))


@pytest.mark.parametrize(
    "fault", ["HostCommunication", "HostNotReachable", "HostNotConnected", "SystemError"]
)
def test_host_that_does_not_answer_is_skipped_by_name(rig: Rig, fault: str) -> None:
    """A host agent that hangs answers with runtime faults; the other hosts are as they were."""
    with rig.connect() as connection:
        sick = rig.plan(connection, hosts=1).created[0].host.name
        rig.fault("QueryConfigTarget", fault)
        plan = rig.plan(connection, hosts=2)
        assert sick not in {step.host.name for step in plan.created}
        assert len(plan.created) == 2
        (finding,) = [f.text for f in plan.findings if "left out" in f.text]
        assert sick in finding
        assert fault in finding
