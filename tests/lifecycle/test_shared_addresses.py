"""Two VMs with one address are named at once, with the remedy; no command connects to either."""

import re

from simulated_vcenter import Rig
from typer.testing import CliRunner, Result

from gpuvm.cli import main
from gpuvm.errors import SharedAddress
from gpuvm.lifecycle import ApplyResult


def provisioned(rig: Rig, name: str, hosts: int) -> ApplyResult:
    with rig.connect() as connection:
        return rig.provision(connection, rig.plan(connection, hosts=hosts, name=name), "address")


def shared_by(result: ApplyResult, vm: str) -> SharedAddress:
    (error,) = [outcome.error for outcome in result.outcomes if outcome.name == vm]
    assert isinstance(error, SharedAddress)
    return error


def test_two_of_three(rig: Rig) -> None:
    """The third is ready; the two stay, to be looked at, and are named again the next time."""
    for name in ("twin-01", "twin-02"):
        rig.post(f"/vms/{name}/machine-id")
    for result in (provisioned(rig, "twin", 3), provisioned(rig, "twin", 3)):
        assert [outcome.state for outcome in result.outcomes] == ["failed", "failed", "address"]
        assert (int(result.exit_code), [o.left for o in result.failed]) == (4, [True, True])
        one, two = (shared_by(result, f"twin-0{number}") for number in (1, 2))
        assert (one.others, two.others) == (("twin-02",), ("twin-01",))
        assert one.address == two.address
        assert str(two) == (
            f"twin-02 has the address {two.address}, and twin-01 has it too: gpuvm connects to "
            "none of them"
        )
        assert "machine-id" in str(one.hint)
        assert "docs/template.md" in str(one.hint)
    check_commands(rig)
    rig.teardown("twin")


def check_commands(rig: Rig) -> None:
    for command in (["exec", "--all", "--", "true"], ["run", "mnist"], ["ssh", "twin-01"]):
        refused = gpuvm(rig, *command)
        assert refused.exit_code == 3, refused.output
        assert re.search("twin-0. has the address .* and twin-0. has it too", refused.output)
        assert "gpuvm-seal" in refused.output
    status = gpuvm(rig, "status")
    assert status.exit_code == 0, status.output
    assert status.output.count("not asked: its address is not its own") == 2
    assert "gpuvm-seal" in status.output
    doctor = gpuvm(rig, "doctor")
    assert "twin-01 has the address" in doctor.output


def gpuvm(rig: Rig, command: str, *arguments: str) -> Result:
    options = ["-c", rig.context.name, "--name", "twin"]
    return CliRunner().invoke(main.app, [command, *options, *arguments])


def test_a_vm_of_somebody_else(rig: Rig) -> None:
    for name in ("lone-01", "squatter"):
        rig.post(f"/vms/{name}/machine-id")
    rig.add(name="squatter", count=1)
    result = provisioned(rig, "lone", 1)
    assert shared_by(result, "lone-01").others == ("squatter",)
    assert int(result.exit_code) == 1
    rig.teardown("lone")


def test_clones_of_a_template_that_was_not_sealed(rig: Rig) -> None:
    """Both guests answer at the address: a login could end on either."""
    troubles = {"guestinfo.lab.troubles": "machine-id"}
    with rig.connect() as connection:
        plan = rig.plan(connection, hosts=2, name="clones", extra_config=troubles)
        result = rig.provision(connection, plan, "ready")
    assert int(result.exit_code) == 1
    assert shared_by(result, "clones-01").others == ("clones-02",)
    rig.teardown("clones")
