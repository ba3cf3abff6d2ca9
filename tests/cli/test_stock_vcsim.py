"""Every command, twice, against govmomi's own simulator with several objects of each kind.

Two datacenters, one of them in a folder; in each two clusters, port groups, datastores, pools.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from commands import CommandLine
from stock_vcenter import TEMPLATE, TEMPLATE_ELSEWHERE, Stock, stock_vcenter

CLUSTER = "/DC0/host/DC0_C0"
STORE = "/DC0/datastore/LocalDS_1"
HERE = ("--cluster", CLUSTER)
WITHOUT_GPU = (*HERE, "--accelerator", "none", "--datastore", STORE)


@dataclass(frozen=True)
class Site:
    stock: Stock
    gpuvm: CommandLine

    def twice(self, *arguments: str, codes: tuple[int, int]) -> tuple[Any, Any]:
        """What the command answers with ``--json``, both times."""
        first, second = (self.gpuvm(*arguments, "--json") for _ in range(2))
        assert (first.exit_code, second.exit_code) == codes, first.stderr + second.stderr
        return first.json, second.json


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, simulator: None) -> Iterator[Site]:
    """`gpuvm init` has been run, and left its starter file as it is."""
    with stock_vcenter(tmp_path_factory.mktemp("stock")) as stock:
        command = CommandLine(tmp_path_factory.mktemp("home"))
        command.environment["GPUVM_PASSWORD"] = "any"
        init = ("init", "--vcenter", stock.url, "--user", "u", "--ca-file", stock.ca_file)
        made = command(*init)
        assert made.exit_code == 0, made.stderr
        yield Site(stock, command)


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (("gpus", *HERE), 0),
        (("status", *HERE), 0),
        (("status",), 0),
        (("status", "--all"), 0),
        (("deployments",), 0),
        (("doctor", *WITHOUT_GPU), 0),
        (("plan", *WITHOUT_GPU), 10),
        (("plan", *HERE), 3),
        (("plan",), 2),
        (("passthrough", "enable", "--all", "--yes", *HERE), 0),
        (("stop", "--yes"), 3),
        (("start", *HERE), 3),
        (("teardown", "--yes"), 0),
        (("context",), 0),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_a_command_that_changes_nothing_answers_the_same_twice(
    site: Site, command: tuple[str, ...], code: int
) -> None:
    first, second = site.twice(*command, codes=(code, code))
    assert first == second


def test_vms_are_created_stopped_started_and_removed_each_twice(site: Site) -> None:
    wanted = (*WITHOUT_GPU, "--hosts", "2", "--until", "powered-on", "--yes")
    made, again = site.twice("provision", *wanted, codes=(0, 0))
    assert [vm["changed"] for vm in made["data"]["vms"]] == [True, True]
    assert [vm["changed"] for vm in again["data"]["vms"]] == [False, False]

    # The starter file says nothing of how many there are, and the VMs know their cluster.
    status, _ = site.twice("status", codes=(0, 0))
    assert [(vm["vm"], vm["drift"]) for vm in status["data"]["vms"]] == [
        ("gpuvm-01", []),
        ("gpuvm-02", []),
    ]
    site.twice("stop", "--now", "--yes", codes=(0, 0))
    started, unchanged = site.twice("start", "--until", "powered-on", codes=(0, 0))
    assert [vm["changed"] for vm in started["data"]["vms"]] == [True, True]
    assert [vm["changed"] for vm in unchanged["data"]["vms"]] == [False, False]

    # Of the disk that somebody made, of our own clones and removals: none of them is in the way.
    site.stock.govc("datastore.disk.create", "-dc=DC0", "-ds=LocalDS_0", "-size=1M", "x.vmdk")
    gone, none = site.twice("teardown", "--yes", codes=(0, 0))
    assert [vm["state"] for vm in gone["data"]["vms"]] == ["removed", "removed"]
    assert none["data"]["vms"] == []


def test_options_define_how_many_vms_there_should_be(site: Site, tmp_path: Path) -> None:
    file = tmp_path / "two.yaml"
    file.write_text(f"hosts: 2\ncluster: {CLUSTER}\n")
    shown = site.gpuvm("status", "-f", str(file), "--json").json["data"]
    assert (shown["wanted"], shown["missing"]) == (2, ["gpuvm-01", "gpuvm-02"])
    assert site.gpuvm("status", *HERE, "--json").json["data"]["wanted"] is None


def test_template_of_another_datacenter_is_not_a_candidate(site: Site) -> None:
    plan = site.gpuvm("plan", *WITHOUT_GPU, "--json").json
    assert plan["data"]["template"] == TEMPLATE.rsplit("/", 1)[1]


def _without_next_step(shown: str) -> str:
    """It repeats the options as they were typed."""
    return shown.partition("next: ")[0]


def test_names_shown_by_a_plan_are_valid_options(site: Site) -> None:
    shown = _without_next_step(site.gpuvm("plan", *WITHOUT_GPU, "--network", "DC0_DVPG1").stdout)
    assert f"clone of {TEMPLATE} in {CLUSTER} on LocalDS_1 and DC0_DVPG1" in shown
    named = ("--template", TEMPLATE, "--network", "/DC0/network/DC0_DVPG1")
    assert _without_next_step(site.gpuvm("plan", *WITHOUT_GPU, *named).stdout) == shown


@pytest.mark.parametrize("name", [TEMPLATE_ELSEWHERE, TEMPLATE_ELSEWHERE.rsplit("/", 1)[1]])
def test_a_template_whose_network_no_host_has_is_refused(site: Site, name: str) -> None:
    refused = site.gpuvm("plan", *WITHOUT_GPU, "--template", name, "--json").json
    assert refused["exit_code"] == 3
    (error,) = refused["errors"]
    assert f"{TEMPLATE_ELSEWHERE}: none of these hosts has its network" in error["message"]
    assert "--network: DC0_DVPG0, DC0_DVPG1" in error["hint"]
    moved = site.gpuvm("plan", *WITHOUT_GPU, "--template", name, "--network", "DC0_DVPG1")
    assert moved.exit_code == 10, moved.stderr


def test_every_listed_choice_is_accepted(site: Site) -> None:
    refused = site.gpuvm("plan", "--accelerator", "none", "--json").json
    choices = refused["errors"][0]["message"].removeprefix("several clusters fit: ").split(", ")
    assert len(choices) == 4
    for cluster in choices:
        shown = json.loads(site.gpuvm("gpus", "--cluster", cluster, "--json").stdout)
        assert shown["exit_code"] == 0, cluster
