"""The health of a guest's GPUs, from nvidia-smi's XML and the kernel's log."""

from typing import Any

import pytest

from gpuvm import guest
from gpuvm.guest import GPUs, Guest, read_gpu_health

Machine = Any  # tests/support/ssh_servers.py

GPU = """<gpu id="00000000:0B:00.0"><product_name>Tesla P100-PCIE-16GB</product_name>
<uuid>GPU-1</uuid>{}</gpu>"""
PASCAL_ECC = """<ecc_errors><volatile><single_bit><total>7</total></single_bit>
<double_bit><device_memory>2</device_memory><total>2</total></double_bit></volatile>
<aggregate><double_bit><total>9</total></double_bit></aggregate></ecc_errors>"""
AMPERE_ECC = """<ecc_errors><volatile><sram_correctable>4</sram_correctable>
<sram_uncorrectable>1</sram_uncorrectable><dram_uncorrectable>2</dram_uncorrectable></volatile>
</ecc_errors>"""
NO_ECC = """<ecc_errors><volatile><double_bit><total>N/A</total></double_bit>
</volatile></ecc_errors>"""


@pytest.fixture
def one(machine: Machine) -> Any:
    for log in ("journalctl", "dmesg"):
        machine.program(log, "exit 1")
    with guest.connect(machine.endpoint) as connection:
        yield connection


def smi(machine: Machine, *gpus: str, processes: str = "") -> None:
    inner = "".join(GPU.format(gpu + processes) for gpu in gpus)
    (machine.home / "smi.xml").write_text(f"<nvidia_smi_log>{inner}</nvidia_smi_log>")
    machine.program("nvidia-smi", f'test "$*" = "-q -x" && cat {machine.home}/smi.xml')


def problems(one: Guest) -> list[str]:
    gpus = read_gpu_health(one, "python3")
    return [problem for gpu in gpus.health for problem in gpu.problems]


def throttled(kind: str, *names: str) -> str:
    inner = "".join(
        f"<clocks_{kind}_reason_{name}>Active</clocks_{kind}_reason_{name}>" for name in names
    )
    return f"<clocks_{kind}_reasons>{inner}</clocks_{kind}_reasons>"


@pytest.mark.parametrize(
    ("xml", "seen"),
    [
        ("", []),
        (NO_ECC, []),
        (PASCAL_ECC, ["2 uncorrectable memory errors since the driver was loaded"]),
        (AMPERE_ECC, ["3 uncorrectable memory errors since the driver was loaded"]),
        (
            "<retired_pages><pending_retirement>Yes</pending_retirement></retired_pages>",
            ["page retirement is pending: reboot the VM"],
        ),
        (
            (
                "<remapped_rows><remapped_row_pending>No</remapped_row_pending>"
                "<remapped_row_failure>Yes</remapped_row_failure></remapped_rows>"
            ),
            ["row remapping failed: replace the GPU"],
        ),
        (throttled("throttle", "gpu_idle", "sw_power_cap"), []),
        (
            throttled("throttle", "hw_slowdown", "hw_thermal_slowdown"),
            ["hardware slowdown: too hot"],
        ),
        (
            throttled("event", "hw_power_brake_slowdown"),
            ["hardware slowdown: power brake"],
        ),
    ],
)
def test_what_nvidia_smi_says(machine: Machine, one: Guest, xml: str, seen: list[str]) -> None:
    smi(machine, xml)
    assert problems(one) == seen


def test_xids_are_those_of_the_card(machine: Machine, one: Guest) -> None:
    """A program's own, such as 13 and 31, are no illness."""
    machine.program(
        "dmesg",
        "echo 'NVRM: Xid (PCI:0000:0b:00): 79, pid=1, GPU has fallen off the bus.';"
        "echo 'NVRM: Xid (PCI:0000:0b:00): 31, pid=2, MMU Fault';"
        "echo 'NVRM: Xid (PCI:0000:13:00): 48, pid=3, DBE'",
    )
    smi(machine, "")
    assert problems(one) == ["Xid 79: the GPU has fallen off the bus"]


def test_processes_on_the_gpus(machine: Machine, one: Guest) -> None:
    smi(
        machine,
        "",
        processes="<processes><process_info><pid>999999999</pid><process_name>jupyter"
        "</process_name><used_memory>300 MiB</used_memory></process_info></processes>",
    )
    users = read_gpu_health(one, "python3").processes
    assert [(user.pid, user.name, user.memory, user.run) for user in users] == [
        (999999999, "jupyter", "300 MiB", None)
    ]


def test_guest_without_nvidia_smi_reports_no_health(machine: Machine, one: Guest) -> None:
    machine.program("nvidia-smi", "echo 'No devices were found'; exit 6")
    assert read_gpu_health(one, "python3") == GPUs()
    machine.program("nvidia-smi", "echo '<nvidia_smi_log>'")
    assert read_gpu_health(one, "python3") == GPUs()
