"""``python -m gpuvm.lab.guest FOLDER READY LIFELINE``: boots a guest and runs it until power-off.

READY and LIFELINE are inherited pipes. The guest writes a line of JSON to READY when SSH answers,
and another when a user shuts it down; READY is closed when it exits. When LIFELINE is closed, the
guest powers off. ``--probe FOLDER`` only tests whether a guest can have its own root here.
"""

import asyncio
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import asyncssh

from gpuvm.files import write_atomic
from gpuvm.lab import processes
from gpuvm.lab.guest import cloudinit, linux, root, sshd
from gpuvm.lab.guest.boot import Boot

_SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_LOG = logging.getLogger("gpuvm.lab.guest")


def main(arguments: list[str]) -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stdout)
    logging.getLogger("asyncssh").setLevel(logging.WARNING)
    if arguments[0] == "--probe":
        _probe(Path(arguments[1]))
    else:
        _boot(Path(arguments[0]), int(arguments[1]), int(arguments[2]))


def _probe(folder: Path) -> None:
    """Exits with status 0, or with the reason as the last line on standard error."""
    boot = Boot("probe", (), 0, isolated=True, gpus=(), guestinfo={}, hidden=())
    (folder / "disk").mkdir(exist_ok=True)
    try:
        root.enter(folder, boot, cloudinit.Instance("probe", "probe", ()))
        socket.sethostname("probe")
    except OSError as error:
        sys.exit(f"{error}")


def _boot(folder: Path, ready: int, lifeline: int) -> None:
    for inherited in (ready, lifeline):
        os.set_inheritable(inherited, False)
    boot = Boot.load(folder / "boot.json")
    disk = folder / "disk"
    (disk / "home").mkdir(parents=True, exist_ok=True)
    instance = cloudinit.boot(disk, boot.vm, boot.guestinfo)
    layout = _isolated(folder, boot, instance) if boot.isolated else _shared(folder, boot)
    _run_boot_commands(boot, layout)
    asyncio.run(_serve(boot, instance, layout, ready, lifeline))


def _run_boot_commands(boot: Boot, layout: "_Layout") -> None:
    commands = cloudinit.boot_commands(boot.guestinfo)
    if not boot.isolated:
        # They would act on this machine and not on the guest.
        _LOG.info("%d boot commands are not run without namespaces", len(commands))
        return
    environment = {"PATH": f"{layout.programs}:{_SYSTEM_PATH}", "LANG": "C.UTF-8"}
    for command in commands:
        try:
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, env=environment, cwd="/", check=False
            )
        except OSError as error:
            _LOG.error("bootcmd: %s", error)
            continue
        if done.returncode != 0:
            _LOG.error("bootcmd: %s: status %d", command[0], done.returncode)


@dataclass(frozen=True)
class _Layout:
    """The guest's paths as its own processes see them."""

    home: Path
    programs: Path
    environment: dict[str, str]
    host_key: bytes
    host_pid: int
    power_off: Callable[[], None]


def _isolated(folder: Path, boot: Boot, instance: cloudinit.Instance) -> _Layout:
    host_pid = int(Path("/proc/self").readlink().name)  # still the /proc of the lab's machine
    host_key = _host_key(folder / "disk")
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # so that `kill 1` in the guest does not end it
    root.enter(folder, boot, instance)
    socket.sethostname(instance.hostname)
    linux.forbid_new_privileges()
    try:
        linux.enter_user_namespace(root.USER_ID, root.USER_ID)
    except OSError as error:
        _LOG.info("the guest's user is user 0 without capabilities: %s", error)
        linux.drop_capabilities()
    return _Layout(
        Path("/home"), root.PROGRAMS / "bin", {}, host_key, host_pid, lambda: os._exit(0)
    )


def _shared(folder: Path, boot: Boot) -> _Layout:
    """Without namespaces: every process of the guest stays a descendant of this one."""
    linux.adopt_orphans()
    root.write_programs(folder / "opt", boot.gpus, boot.troubles, init=os.getpid())
    disk = folder / "disk"
    (disk / "tmp").mkdir(exist_ok=True)
    environment = {"TMPDIR": str(disk / "tmp")}
    bin_folder = folder / "opt/bin"
    host_key = _host_key(disk)
    return _Layout(disk / "home", bin_folder, environment, host_key, os.getpid(), _kill_descendants)


def _host_key(disk: Path) -> bytes:
    """Created at the first boot and kept on the disk, where the guest cannot see it."""
    file = disk / "ssh" / "ssh_host_ed25519_key"
    if not file.exists():
        file.parent.mkdir(mode=0o700, exist_ok=True)
        key = asyncssh.generate_private_key("ssh-ed25519")
        write_atomic(file, key.export_private_key("openssh"), 0o600)
    return file.read_bytes()


async def _serve(
    boot: Boot, instance: cloudinit.Instance, layout: _Layout, ready: int, lifeline: int
) -> None:
    loop = asyncio.get_running_loop()
    off = asyncio.Event()
    loop.add_reader(lifeline, off.set)
    if not boot.isolated:
        loop.add_signal_handler(signal.SIGTERM, off.set)
    # The supervisor then shuts the VM down in the vCenter, and with it this guest.
    loop.add_signal_handler(
        root.POWER_OFF, lambda: os.write(ready, b'{"shutdown": true}\n') and None
    )
    key = asyncssh.import_private_key(layout.host_key)
    config = sshd.ServerConfig(
        addresses=boot.addresses,
        port=boot.port,
        host_key=key,
        homes={user: layout.home / user for user in instance.users},
        shells={user: instance.shell(user) for user in instance.users},
        path=f"{layout.programs}:{_SYSTEM_PATH}",
        environment=layout.environment,
        session_program=layout.programs / "sshd-session",
        hangs_up="startups" in boot.troubles,
        shares_address="machine-id" in boot.troubles,
    )

    def report_ready() -> None:
        public = key.export_public_key("openssh").decode().strip()
        message = {"pid": layout.host_pid, "host_keys": [public]}
        os.write(ready, (json.dumps(message) + "\n").encode())

    await sshd.serve(config, report_ready, off.wait)
    layout.power_off()


def _kill_descendants() -> None:
    """Repeats until none is left: a process may fork while the list is read."""
    while True:
        for pid in processes.descendants(os.getpid()):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        try:
            while os.waitpid(-1, os.WNOHANG) != (0, 0):
                pass
        except ChildProcessError:
            os._exit(0)
        time.sleep(0.01)


if __name__ == "__main__":
    main(sys.argv[1:])
