"""The command line, killed by SIGKILL at a chosen step of a run in a guest.

    python killed_run.py STEP before|sent|after -- run mine/wait.py

STEP is the program that gpuvm runs in the guest (gpuvm/guest/scripts): ``receive``, ``launch``,
``follow``. ``before`` it is sent, once it was ``sent`` (it is run, nobody reads the answer), or
``after`` its answer came: of ``follow``, the first piece.
"""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from gpuvm.guest import ssh

STEP, MOMENT = sys.argv[1], sys.argv[2]
_script, _ask = ssh.Guest.script, ssh.HeldCommand.ask
_open, _stream = ssh.Guest.open, ssh.Guest.stream


def main() -> None:
    for owner, name, wrapper in (
        (ssh.Guest, "script", script),
        (ssh.HeldCommand, "ask", ask),
        (ssh.Guest, "open", opened),
        (ssh.Guest, "stream", stream),
    ):
        setattr(owner, name, wrapper)
    sys.argv = ["gpuvm", *sys.argv[4:]]
    from gpuvm.cli.main import app

    app()


def script(guest: ssh.Guest, python: str, program: str, *arguments: str, **options: Any) -> Any:
    mine = STEP in (program, *arguments[:1])
    die_if(mine and MOMENT == "before")
    done = _script(guest, python, program, *arguments, **options)
    die_if(mine)
    return done


def ask(served: ssh.HeldCommand, line: str, timeout_s: float) -> str:
    if MOMENT == "sent" and f'"{STEP}"' in line:
        served.line = die  # type: ignore[method-assign]  # the answer is never read
    return _ask(served, line, timeout_s)


@contextmanager
def opened(guest: ssh.Guest, command: Any, **options: Any) -> Iterator[Any]:
    mine = command[2].startswith(f'"""{STEP}')
    die_if(mine and MOMENT == "before")
    with _open(guest, command, **options) as stream:
        yield stream
    die_if(mine)


def stream(guest: ssh.Guest, command: Any, *, idle_timeout_s: float) -> Iterator[str]:
    mine = STEP in command
    die_if(mine and MOMENT == "before")
    for line in _stream(guest, command, idle_timeout_s=idle_timeout_s):
        yield line
        die_if(mine)


def die_if(condition: bool) -> None:
    if condition:
        die()


def die() -> NoReturn:
    sys.stdout.flush()
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("SIGKILL cannot be survived")


if __name__ == "__main__":
    main()
