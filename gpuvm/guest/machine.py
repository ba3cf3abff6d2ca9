"""What of a guest's machine gets in the way of runs: room, mount options, clock, sudo."""

import time
from collections.abc import Iterator
from dataclasses import dataclass

from gpuvm.guest import scripts
from gpuvm.guest.ssh import Guest

LEAST_FREE_MIB = 100
"""A run pushes its project into the home and writes its logs there."""
CLOCK_S = 300
"""So much the clocks may differ before certificates and time stamps begin to suffer."""


@dataclass(frozen=True)
class Trouble:
    """``prevents``: no run can work with it; others are warned of."""

    seen: str
    remedy: str
    prevents: bool = False


def troubles(guest: Guest, timeout_s: float) -> tuple[Trouble, ...]:
    """One command in the guest. Raises CommandFailed and GuestUnreachable."""
    done = guest.run(scripts.shell("machine"), timeout_s=timeout_s, what="look at the machine")
    now = time.time()
    return tuple(
        found
        for line in done.stdout.splitlines()
        for found in _found(*line.partition(" ")[::2], now=now)
    )


def _found(what: str, value: str, *, now: float) -> Iterator[Trouble]:
    if what == "clock":
        yield from _clock(float(value) - now)
    elif what == "free":
        kib, _, home = value.partition(" ")
        if kib.isdecimal() and int(kib) < LEAST_FREE_MIB * 1024:
            yield Trouble(
                f"its home {home} has {int(kib) // 1024} MiB free",
                "runs are kept there: remove old ones, give the VM template a larger disk, or set "
                "guest.work_dir in the context to a folder on another one",
                prevents=True,
            )
    elif what == "unwritable":
        yield Trouble(
            f"nothing can be written to {value}",
            f"look at its owner, and whether it is mounted read-only: findmnt -T {value}",
            prevents=True,
        )
    elif what == "noexec":
        yield Trouble(
            f"{value} is mounted noexec: no program or compiled extension there can be used",
            f"sudo mount -o remount,exec {value}, and the same in /etc/fstab of the VM template",
        )
    elif what == "requiretty":
        yield Trouble(
            "sudo asks for a terminal, and commands of a run have none",
            "remove requiretty from /etc/sudoers in the VM template, or add "
            "'Defaults:USER !requiretty' for the user of the context",
        )


def _clock(ahead_s: float) -> Iterator[Trouble]:
    if abs(ahead_s) <= CLOCK_S:
        return
    hours, way = abs(ahead_s) / 3600, "ahead of" if ahead_s > 0 else "behind"
    yield Trouble(
        f"its clock is {hours:.1f} h {way} this machine's",
        "switch time synchronization on in the VM template (sudo systemctl enable --now chronyd), "
        "or that of VMware Tools; certificates and time stamps depend on it",
    )
