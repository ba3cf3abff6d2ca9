"""Every table, on terminals of several widths: names are whole, each on a line of its own width."""

import io
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import report_records
from healthy_site import SITE, TEMPLATE, gpu, host
from rich.console import Console

from gpuvm import planner, report
from gpuvm.cli import (
    compare,
    context,
    data,
    deployments,
    gpus,
    lab,
    output,
    passthrough,
    plan_output,
    provision,
    run_list,
    run_summary,
    runs,
    status,
    tables,
    teardown,
)
from gpuvm.cli.tables import Number, Prose, unbroken
from gpuvm.devices import Holder
from gpuvm.errors import Unplaceable
from gpuvm.inventory import VM, Deployment, Inventory
from gpuvm.lab.lab_status import LabGuest, LabStatus
from gpuvm.lifecycle import ApplyResult
from gpuvm.lifecycle.passthrough import SwitchResult
from gpuvm.lifecycle.result import Outcome
from gpuvm.ownership import OPERATOR_KEY
from gpuvm.settings import Context
from gpuvm.spec import ClusterSpec

WIDTHS = (60, 70, 80, 120)
NAMES = {
    "host": "esx-01.rack-07.datacentre-west.example.com",
    "other host": "esx-02.rack-07.datacentre-west.example.com",
    "deployment": "vision-team-training-cluster",
    "vm": "vision-team-training-cluster-01",
    "other vm": "vision-team-training-cluster-02",
    "foreign vm": "database server of the payroll",
    "gpu": "0000:3b:00.0",
    "run": "captioning-20261124-013000-ab12",
    "operator": "margarete.schwarzenberg@workstation-17",
    "address": "192.168.101.201",
    "vcenter": "https://vcenter-01.datacentre-west.example.com",
    "label": "reserved-for-training",
}
LONG_TEXT = (
    "created from a different spec than gpuvm.yaml: cpus 8, wanted 16; memory_gib 32, wanted 64"
)


def vm(key: str, index: int) -> VM:
    return VM(
        name=NAMES[key],
        moref=f"vm-{index}",
        host=NAMES["host"],
        powered_on=True,
        instance_uuid="",
        ownership="ours",
        deployment=NAMES["deployment"],
        index=index,
        addresses=(NAMES["address"],),
        extra_config={OPERATOR_KEY: NAMES["operator"]},
    )


VMS = (vm("vm", 1), vm("other vm", 2))


def site() -> Inventory:
    held = gpu(
        NAMES["host"],
        name="GP100GL [Tesla P100 PCIe 16GB]",
        label=NAMES["label"],
        holders=(Holder(NAMES["foreign vm"], powered_on=True, moref="vm-9"),),
    )
    hosts = (host(NAMES["host"], gpus=(held,)), host(NAMES["other host"]))
    return replace(SITE, hosts=hosts)


def show_gpus(_: Path) -> Sequence[str]:
    gpus._print_gpus(site())
    return "host", "other host", "gpu", "foreign vm", "label"


def show_plan(_: Path) -> Sequence[str]:
    spec = ClusterSpec(name=NAMES["deployment"], hosts=1, template=TEMPLATE.name)
    plan_output.show_plan(planner.plan(spec, site()))
    return "other host", "gpu", "vm"


def show_provisioned(_: Path) -> Sequence[str]:
    outcomes = tuple(
        Outcome(
            one.name, one.host, "ready", changed=True, address=one.address, gpus=(NAMES["gpu"],)
        )
        for one in VMS
    )
    provision.show_result(ApplyResult(outcomes))
    return "host", "vm", "other vm", "gpu", "address"


def show_status(_: Path) -> Sequence[str]:
    inside = status.Inside("1 GPU: Tesla P100-PCIE-16GB, driver 535.183.01")
    seen = tuple(status.Seen(one, (NAMES["gpu"],), inside, (LONG_TEXT,)) for one in VMS)
    found = status.Found(seen, hidden=(), missing=(), copies=())
    status._print_status(found, NAMES["deployment"], [])
    return "host", "vm", "other vm", "gpu", "address"


def show_teardown(_: Path) -> Sequence[str]:
    teardown._print_deployment(Deployment(VMS, (), ()), [], {}, NAMES["deployment"])
    return "host", "vm", "other vm", "address"


def show_deployments(_: Path) -> Sequence[str]:
    deployments._print(deployments.list_all(VMS))
    return "deployment", "vm", "other vm", "operator"


def show_passthrough(_: Path) -> Sequence[str]:
    switched = [SwitchResult(one, done=True, changed=True) for one in site().gpus]
    passthrough._print_results(switched, passthrough.SwitchOptions(), enabled=True)
    return "host", "other host", "gpu"


def show_runs(_: Path) -> Sequence[str]:
    row = {
        "run_id": NAMES["run"],
        "state": "succeeded",
        "workload": "captioning",
        "vms": [NAMES["vm"], NAMES["other vm"]],
        "accelerators": ["passthrough"],
        "started": None,
        "seconds": 12345.0,
        "score": {"title": "Exact match", "value": 0.762},
        "operator": NAMES["operator"],
        "line": "step 400/400  loss 0.1234  1234 examples/s",
    }
    runs._print(run_list.Listing([row], more=0), filtered=False)
    return "run", "vm", "other vm", "operator"


def show_contexts(_: Path) -> Sequence[str]:
    known = Context(vcenter=NAMES["vcenter"], user=NAMES["operator"], name=NAMES["deployment"])
    context._print([known], NAMES["deployment"])
    return "vcenter", "operator", "deployment"


def show_lab(folder: Path) -> Sequence[str]:
    guests = tuple(LabGuest(one.name, one.address, powered=True, pid=4194303) for one in VMS)
    lab._print_lab(LabStatus("lab", running=True, state_dir=folder, guests=guests))
    return "vm", "other vm", "address"


def show_data(_: Path) -> Sequence[str]:
    entry = {
        "workload": "captioning",
        "name": NAMES["deployment"],
        "size_mib": 12345,
        "state": "missing",
        "here": True,
        "for": "the weights of the encoder, for better captions than those of a random one",
        "without": "an encoder that is trained in some minutes",
    }
    data._print_entries([entry])
    return ("deployment",)


def report_of(folder: Path) -> report.ReportData:
    """Of a run on VMs with long names."""
    run = report_records.captioning_run(folder / "records", vms=2)
    for old, new in (("gpuvm-01", NAMES["vm"]), ("gpuvm-02", NAMES["other vm"])):
        shutil.move(run / old, run / new)
        for file in (run / "manifest.json", run / "events.jsonl"):
            file.write_text(file.read_text().replace(old, new))
    return report.build([run])


def compared(folder: Path) -> report.Comparison:
    """Of two runs with different settings."""
    first = report_records.captioning_run(folder / "records", vms=1)
    second = first.with_name("captioning-20261125-021500-cd34")
    shutil.copytree(first, second)
    file = second / "manifest.json"
    changed = file.read_text().replace(first.name, second.name).replace('"400"', '"800"')
    file.write_text(changed)
    return report.compare(report.build([first, second]).runs)


def show_report(folder: Path) -> Sequence[str]:
    built = report_of(folder)
    output.stdout.print(run_summary.of(built, output.stdout.width))
    return "vm", "other vm", "gpu"


def show_comparison(folder: Path) -> Sequence[str]:
    compare._print_comparison(compared(folder), ())
    return ()


def show_refusal(_: Path) -> Sequence[str]:
    rows = [(one.host, one.pci_address, one.name, one.state) for one in site().gpus]
    output._print_error(Unplaceable("1 more VM needed", table=rows, hint=None))
    return "host", "other host", "gpu"


SHOWN = (
    show_gpus,
    show_plan,
    show_provisioned,
    show_status,
    show_teardown,
    show_deployments,
    show_passthrough,
    show_runs,
    show_contexts,
    show_lab,
    show_data,
    show_report,
    show_comparison,
    show_refusal,
)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The lines of tables."""
    found: list[str] = []
    original = tables.draw

    def draw(*arguments: Any) -> Iterator[Any]:
        for line in original(*arguments):
            found.append(line.plain)
            yield line

    for module in (tables, run_summary):
        monkeypatch.setattr(module, "draw", draw)
    return found


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("show", SHOWN, ids=lambda show: show.__name__)
def test_names_are_whole(
    show: Callable[[Path], Sequence[str]],
    width: int,
    drawn: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    printed = io.StringIO()
    console = Console(file=printed, width=width, soft_wrap=True, highlight=False)
    monkeypatch.setattr(output, "stdout", console)
    monkeypatch.setattr(output, "stderr", console)
    names = show(tmp_path)
    assert drawn
    assert max(map(len, drawn)) <= width
    shown = printed.getvalue().splitlines()
    for line in drawn:
        assert line.rstrip() in (one.rstrip() for one in shown)
    for name in names:
        assert any(NAMES[name] in line for line in drawn), (name, drawn)


def lines(*arguments: Any) -> list[str]:
    return [line.plain for line in tables.draw(*arguments)]


def test_a_table_that_fits_is_not_folded() -> None:
    columns = ("VM", Prose("STATE"), Number("STEPS"))
    assert lines(columns, [("gpuvm-01", "it runs", "7")], 40) == [
        " VM        STATE    STEPS",
        " gpuvm-01  it runs      7",
    ]


def test_prose_is_folded_before_names() -> None:
    columns = ("VM", Prose("STATE"))
    row = ("gpuvm-01", "held by another virtual machine")
    assert lines(columns, [row], 30) == [
        " VM        STATE",
        " gpuvm-01  held by another",
        "           virtual machine",
    ]


def test_a_row_becomes_a_block_where_names_are_too_wide() -> None:
    rows = [("gpuvm-01", "esx-01.example.com", "on"), ("gpuvm-02", "esx-02.example.com", "")]
    assert lines(("VM", "HOST", Prose("POWER")), rows, 28) == [
        " VM     gpuvm-01",
        " HOST   esx-01.example.com",
        " POWER  on",
        "",
        " VM     gpuvm-02",
        " HOST   esx-02.example.com",
    ]


def test_a_name_wider_than_the_rest_of_the_line_is_below_its_heading() -> None:
    name = "esx-01.rack-07.example.com"
    assert lines(("VM", "HOSTED BY"), [("a", name)], 30) == [
        " VM         a",
        " HOSTED BY",
        f"   {name}",
    ]


def test_names_with_spaces_stay_whole_in_prose() -> None:
    state = f"held by {unbroken('the payroll')} (on)"
    assert lines(("VM", Prose("STATE")), [("gpuvm-01", state)], 26) == [
        " VM        STATE",
        " gpuvm-01  held by",
        "           the payroll",
        "           (on)",
    ]


def test_a_name_with_spaces_is_whole_in_a_block() -> None:
    name = "database server of the payroll"
    assert f"   {name}" in lines(("VM", "HELD BY"), [("gpuvm-01", name)], 36)


def test_what_comes_from_guests_is_escaped() -> None:
    (_, row) = lines(("VM", "LINE"), [("a\nb", "\x1b[2Jgone\x07")], 80)
    assert row == " a b  \\x1b[2Jgone\\x07"


def test_wide_characters_count_twice() -> None:
    assert lines(("VM", "N"), [("東京", "1"), ("abcd", "2")], 80)[1:] == [" 東京  1", " abcd  2"]
