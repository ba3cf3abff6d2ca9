"""One sees everything of gpuvm's in the vCenter: every deployment, who created it, and when."""

import getpass
from datetime import UTC, datetime
from typing import Any

import pytest
from commands import CommandLine as Lab

from gpuvm.cli.deployments import created, list_all
from gpuvm.inventory import VM


def vm(name: str, index: int = 1, ownership: Any = "ours", **extra_config: str) -> VM:
    keys = {f"gpuvm.{key}": value for key, value in extra_config.items()}
    return VM(
        f"{name}-{index:02d}",
        f"{name}-{index}",
        "esx-01",
        True,
        "u",
        ownership=ownership,
        deployment=name,
        index=index,
        extra_config=keys,
    )


def test_vms_are_grouped_and_copies_left_out() -> None:
    early, late = "2026-11-26T09:00:00+00:00", "2026-11-27T09:00:00+00:00"
    found = list_all(
        [
            vm("b", 2, operator="bob@desk", created=late),
            vm("b", 1, operator="alice@desk", created=early),
            vm("a"),
            vm("c", ownership="copy"),
        ]
    )
    assert [(one.name, [vm.name for vm in one.vms]) for one in found] == [
        ("a", ["a-01"]),
        ("b", ["b-01", "b-02"]),
    ]
    assert (found[0].operators, found[0].created) == ((), None), "an older gpuvm made it"
    assert found[1].operators == ("alice@desk", "bob@desk")
    assert found[1].created == datetime.fromisoformat(early)


@pytest.mark.parametrize(
    ("text", "when"),
    [
        ("2026-11-27T09:00:00", datetime(2026, 11, 27, 9, tzinfo=UTC)),
        ("yesterday", None),
        ("", None),
    ],
)
def test_a_time_that_somebody_changed_takes_no_command_down(
    text: str, when: datetime | None
) -> None:
    assert created(vm("a", created=text)) == when


def test_every_deployment_is_listed_with_its_creator(lab: Lab) -> None:
    assert "no deployment in this vCenter" in lab("deployments").stdout
    quick = ("--accelerator", "none", "--until", "powered-on")
    for name, hosts in (("cpu", "1"), ("two", "2")):
        done = lab("provision", "--name", name, "--hosts", hosts, *quick)
        assert done.exit_code == 0, done.stderr
    listed = lab("deployments", "--json").json["data"]["deployments"]
    assert [one["deployment"] for one in listed] == ["cpu", "two"]
    assert [vm["vm"] for vm in listed[1]["vms"]] == ["two-01", "two-02"]
    assert all(one["operators"][0].startswith(f"{getpass.getuser()}@") for one in listed)
    assert all(datetime.fromisoformat(one["created"]) <= datetime.now(UTC) for one in listed)
    by_status = lab("status", "--all", "--json").json
    assert (by_status["command"], by_status["data"]["deployments"]) == ("status", listed)
    shown = lab("status", "--all").stdout
    assert "two-01, two-02" in shown
    assert "2 of 2" in shown


def test_an_unknown_name_is_told_which_there_are(lab: Lab) -> None:
    done = lab("status", "--name", "tow")
    assert done.exit_code == 0
    assert "no VM of 'tow' exists" in done.stdout
    assert "cpu (1), two (2)" in done.stdout
    assert lab("status", "--name", "tow", "--json").json["data"]["deployments"] == ["cpu", "two"]


def test_all_excludes_a_name(lab: Lab) -> None:
    assert lab("status", "--all", "--name", "cpu").exit_code == 2


def test_the_file_names_its_vcenter(lab: Lab) -> None:
    """Without it the current context would be used, which is another one."""
    (file,) = lab.home.glob("**/contexts/lab.yaml")
    other = file.read_text().replace("name: lab", "name: other", 1)
    file.with_name("other.yaml").write_text(other)
    spec = lab.home / "two.yaml"
    spec.write_text("context: other\nname: two\nhosts: 2\n")
    done = lab("status", "-f", str(spec))
    assert "(context other)" in done.stdout
    assert "two-02" in done.stdout
    assert "(context lab)" in lab("status", "-f", str(spec), "-c", "lab").stdout
    stopped = lab("run", "mnist", "-f", str(spec), "--name", "tow")
    assert f"'gpuvm provision -f {spec} --name tow'" in stopped.stderr
