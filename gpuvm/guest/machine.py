"""Problems of a guest's system that affect runs: disk space, mount options, clock, sudo."""

import time
from collections.abc import Iterator
from dataclasses import dataclass

from gpuvm.guest import scripts
from gpuvm.guest.ssh import Guest

MIN_FREE_MIB = 100
"""A run's project and its logs go to the home folder."""
MAX_CLOCK_SKEW_S = 300
"""With a larger difference, certificates and time stamps become unreliable."""


@dataclass(frozen=True)
class Problem:
    """``blocking`` problems make runs impossible; others are warnings."""

    seen: str
    hint: str
    blocking: bool = False


def find_problems(guest: Guest, timeout_s: float) -> tuple[Problem, ...]:
    """Runs one command in the guest. Raises CommandFailed and GuestUnreachable."""
    done = guest.run(scripts.shell("machine"), timeout_s=timeout_s, what="check the system")
    now = time.time()
    return tuple(
        problem
        for line in done.stdout.splitlines()
        for problem in _problems(*line.partition(" ")[::2], now=now)
    )


def _problems(what: str, value: str, *, now: float) -> Iterator[Problem]:
    if what == "clock":
        yield from _clock(float(value) - now)
    elif what == "free":
        kib, _, home = value.partition(" ")
        if kib.isdecimal() and int(kib) < MIN_FREE_MIB * 1024:
            yield Problem(
                f"its home {home} has {int(kib) // 1024} MiB free",
                "runs are stored there: remove old ones, enlarge the VM template's disk, or set "
                "guest.work_dir in the context to a folder on another disk",
                blocking=True,
            )
    elif what == "unwritable":
        yield Problem(
            f"{value} is not writable",
            f"check its owner, and whether it is mounted read-only: findmnt -T {value}",
            blocking=True,
        )
    elif what == "noexec":
        yield Problem(
            f"{value} is mounted noexec: programs and compiled extensions cannot run there",
            f"sudo mount -o remount,exec {value}, and fix /etc/fstab in the VM template",
        )
    elif what == "requiretty":
        yield Problem(
            "sudo requires a terminal (requiretty), which commands of a run do not have",
            "remove requiretty from /etc/sudoers in the VM template, or add "
            "'Defaults:USER !requiretty' for the user of the context",
        )


def _clock(ahead_s: float) -> Iterator[Problem]:
    if abs(ahead_s) <= MAX_CLOCK_SKEW_S:
        return
    hours, direction = abs(ahead_s) / 3600, "ahead of" if ahead_s > 0 else "behind"
    yield Problem(
        f"its clock is {hours:.1f} h {direction} this machine's",
        "enable time synchronization in the VM template (sudo systemctl enable --now chronyd) or "
        "that of VMware Tools; certificates and time stamps depend on it",
    )
