"""Guests that shut down by themselves when nobody has used them for long: ``idle_shutdown``.

problem = shut_down_when_idle(guest, python, work_dir, timedelta(hours=2))
state = idle_state(guest, work_dir)
"""

import json
import shlex
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from gpuvm.errors import CommandFailed
from gpuvm.guest import scripts
from gpuvm.guest.ssh import Guest
from gpuvm.text import one_line

LOOK_S = 60.0
AT_BOOT = ".gpuvm/at-boot"
"""Below the home; what templates/user-data.yaml.j2 runs at each boot."""


@dataclass(frozen=True)
class IdleState:
    """At its watcher's last look; ``problem`` is why the guest did not shut down when it should."""

    idle_s: float
    limit_s: float
    in_use: str | None
    problem: str | None


def shut_down_when_idle(
    guest: Guest, python: str, work_dir: str, limit: timedelta | None, *, look_s: float = LOOK_S
) -> str | None:
    """Let the guest shut down when it has been idle for so long; None: no longer.

    It goes on after a reboot of the guest. Returns why the guest may not shut down, if so.
    """
    folder = _folder(work_dir)
    if limit is None:
        remove = shlex.join(["rm", "-rf", AT_BOOT, folder])
        # The watcher may write once more meanwhile: a second time the folder is empty for good.
        guest.run(f"{remove} 2>/dev/null || {remove}", timeout_s=60, what="idle")
        return None
    task = {
        "source": scripts.source("idle"),
        "limit_s": limit.total_seconds(),
        "look_s": look_s,
        "work": work_dir,
    }
    command = scripts.command(python, "idle", "install", folder)
    done = guest.run(command, timeout_s=60, stdin=json.dumps(task).encode(), what="idle")
    return _text(json.loads(done.stdout)["problem"])


def idle_state(guest: Guest, work_dir: str) -> IdleState | None:
    """None where the guest does not shut down by itself."""
    try:
        done = guest.run(["cat", f"{_folder(work_dir)}/state"], timeout_s=20, what="idle")
        state = json.loads(done.stdout)
        return IdleState(
            idle_s=float(state["idle_s"]),
            limit_s=float(state["limit_s"]),
            in_use=_text(state["in_use"]),
            problem=_text(state["problem"]),
        )
    except (CommandFailed, ValueError, TypeError, KeyError):
        return None


def _text(said: object) -> str | None:
    return None if said is None else one_line(str(said), longest=200)


def _folder(work_dir: str) -> str:
    return str(Path(work_dir) / "idle")
