"""A guest's root file system: the machine's system folders read-only, the VM's disk writable.

It has only the system's folders, the Python that has TensorFlow, and this VM's disk; none of the
operator's files. The caller is process 1 of a new PID and mount namespace.
"""

import os
import shutil
import signal
import site
import sys
from collections.abc import Collection, Iterable
from dataclasses import asdict
from json import dumps
from pathlib import Path
from shlex import quote

from gpuvm.lab.guest import linux, nvidia_smi
from gpuvm.lab.guest.boot import Boot, SimulatedGPU
from gpuvm.lab.guest.cloudinit import Instance

USER_ID = 1000
PROGRAMS = Path("/opt/gpuvm-lab")
POWER_OFF = signal.SIGRTMIN + 4
"""systemd's signal for power-off (systemd(1), "Signals")."""

_SYSTEM = ("usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32", "nix/store", "gnu/store")
# Not all of /etc: it has keys and passwords that the lab's owner may be able to read.
_ETC = (
    "alternatives",
    "crypto-policies",
    "fonts",
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "localtime",
    "mime.types",
    "os-release",
    "pki/ca-trust",
    "pki/tls/certs",
    "protocols",
    "services",
    "ssl/certs",
    "ssl/openssl.cnf",
    "terminfo",
)
_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
_LINKS = {"fd": "/proc/self/fd", "stdin": "fd/0", "stdout": "fd/1", "stderr": "fd/2"}


def enter(folder: Path, boot: Boot, instance: Instance) -> None:
    """Builds the root at ``folder/root`` and makes it ``/``.

    Raises OSError, with the call and the path, where the kernel refuses.
    """
    root = folder / "root"
    root.mkdir(exist_ok=True)
    linux.mount("tmpfs", root, linux.MS_NOSUID | linux.MS_NODEV, "mode=755")
    _mount_disk(root, folder / "disk", boot.troubles)
    bound = _bind_system(root)
    _write_etc(root / "etc", boot, instance)
    _bind_devices(root / "dev")
    write_programs(root / PROGRAMS.relative_to("/"), boot.gpus, boot.troubles)
    _hide(root, bound, [Path(path) for path in boot.hidden])
    (root / "proc").mkdir()
    linux.mount("proc", root / "proc", linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC)
    linux.make_read_only(root, below=False)
    linux.change_root(root)


def write_programs(
    folder: Path, gpus: Iterable[SimulatedGPU], troubles: Collection[str] = (), *, init: int = 1
) -> None:
    """Writes ``bin/``, first in the guest's PATH: python3, nvidia-smi, sudo, shutdown and others.

    ``init`` is the process that powers the guest off on the signal POWER_OFF. python3 is a script,
    since Python finds its virtual environment by the path that it was started with.
    """
    programs = folder / "bin"
    programs.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(Path(nvidia_smi.__file__), folder / "nvidia_smi.py")
    listed = [asdict(gpu) for gpu in gpus]
    (folder / "gpus.json").write_text(dumps(listed), encoding="utf-8")
    (folder / "troubles.json").write_text(dumps(sorted(troubles)), encoding="utf-8")
    more = f"PYTHONPATH={quote(os.pathsep.join(_user_packages()))} " * bool(_user_packages())
    python = quote(sys.executable)
    for name in ("python3", "python"):
        _script(programs / name, f'{more}exec {python} "$@"')
    for name in ("lsmod", "date"):
        (programs / name).unlink(missing_ok=True)  # from a fault that is no longer simulated
    _script(programs / "nvidia-smi", f'exec {python} -IS "${{0%/bin/*}}/nvidia_smi.py" "$@"')
    _script(programs / "sudo", 'while [ "${1#-}" != "$1" ]; do shift; done\nexec "$@"')
    # The guest has one user, whichever name it is called by.
    _script(programs / "runuser", 'while [ "$1" != -- ]; do shift; done\nshift\nexec "$@"')
    session = programs / "sshd-session"
    session.unlink(missing_ok=True)
    session.symlink_to("/bin/sh")
    (folder / "init.pid").write_text(str(init), encoding="ascii")
    for name in ("shutdown", "poweroff"):
        _script(programs / name, f'exec /bin/kill -{POWER_OFF} "$(cat "${{0%/bin/*}}/init.pid")"')
    for trouble in troubles:
        if trouble in _TROUBLED:
            name, command = _TROUBLED[trouble]
            _script(programs / name, command)


_TROUBLED = {
    "nouveau": ("lsmod", "echo 'Module                  Size  Used by'; echo 'nouveau 2334720  1'"),
    "clock": ("date", "exec /usr/bin/date -d '+1 day' \"$@\""),
    "requiretty": ("sudo", "echo 'sudo: sorry, you must have a tty to run sudo' >&2; exit 1"),
}
"""Programs that simulate faults, by trouble."""


def _mount_disk(root: Path, disk: Path, troubles: Collection[str]) -> None:
    for name, mode in (("home", 0o755), ("tmp", 0o1777)):
        (disk / name).mkdir(exist_ok=True)
        (disk / name).chmod(mode)
        (root / name).mkdir()
        linux.bind(disk / name, root / name)
        for trouble, size in ((f"{name}-full", "64k"), (f"{name}-small", "4m")):
            if trouble in troubles:
                _fill(disk / name, root / name, size)
        if f"{name}-noexec" in troubles:
            linux.forbid_programs(root / name)
    for name in ("root", "run", "var", "etc", "dev"):
        (root / name).mkdir()
    (root / "var/tmp").symlink_to("/tmp")  # noqa: S108 - the guest's own


def _fill(disk: Path, target: Path, size: str) -> None:
    """The same files in a file system without room for more; nothing written there stays."""
    linux.mount("tmpfs", target, linux.MS_NOSUID | linux.MS_NODEV, f"size={size},mode=1777")
    shutil.copytree(disk, target, dirs_exist_ok=True)


def _bind_system(root: Path) -> list[Path]:
    """Binds the system's and the interpreter's folders read-only; returns those that exist."""
    system = [Path("/") / name for name in _SYSTEM]
    wanted = [*system, *(Path("/etc") / name for name in _ETC), *_interpreter()]
    bound: list[Path] = []
    for path in wanted:
        inside = root / path.relative_to("/")
        if path in system and path.is_symlink():
            inside.symlink_to(path.readlink())
        elif path.exists() and not any(path.is_relative_to(other) for other in bound):
            _bind_read_only(path, inside)
            bound.append(path)
    return bound


def _interpreter() -> list[Path]:
    """The folders that ``sys.executable`` needs, outermost first, without ``/``."""
    places = {sys.prefix, sys.exec_prefix, sys.base_prefix, sys.base_exec_prefix}
    hop = Path(sys.executable)
    while True:
        places.add(str(hop.parent.parent))
        if not hop.is_symlink():
            break
        hop = hop.parent / hop.readlink()
    places.update(_user_packages())
    paths = {Path(os.path.normpath(place)) for place in places}
    paths |= {path.resolve() for path in paths}
    return sorted(paths - {Path("/")})


def _user_packages() -> list[str]:
    """The operator's user site-packages, if gpuvm is installed there (``pip install --user``)."""
    own = site.getusersitepackages()
    return [own] if own in sys.path else []


def _bind_read_only(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        target.mkdir(exist_ok=True)
    else:
        target.touch()
    linux.bind(source, target)
    linux.make_read_only(target)


def _write_etc(etc: Path, boot: Boot, instance: Instance) -> None:
    """Lists each user twice: without a user namespace its uid is 0."""
    users = "".join(
        f"{name}:x:{number}:{number}::/home/{name}:{instance.shell(name)}\n"
        for number in (USER_ID, 0)
        for name in instance.users
    )
    groups = "".join(f"{name}:x:{USER_ID}:\n" for name in instance.users)
    own = "".join(f"{address} {instance.hostname}\n" for address in boot.addresses)
    files = {
        "passwd": f"{users}root:x:0:0::/root:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n",
        "group": f"{groups}root:x:0:\nnogroup:x:65534:\n",
        "hosts": f"127.0.0.1 localhost\n{own}",
        "hostname": f"{instance.hostname}\n",
        "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
    }
    for name, text in files.items():
        (etc / name).write_text(text, encoding="utf-8")


def _bind_devices(dev: Path) -> None:
    for name in _DEVICES:
        (dev / name).touch()
        linux.bind(Path("/dev") / name, dev / name)
    for name, target in _LINKS.items():
        (dev / name).symlink_to(target)
    (dev / "pts").mkdir()
    linux.mount("devpts", dev / "pts", linux.MS_NOSUID, "newinstance,ptmxmode=0666,mode=620")
    (dev / "ptmx").symlink_to("pts/ptmx")
    (dev / "shm").mkdir()
    linux.mount("tmpfs", dev / "shm", linux.MS_NOSUID | linux.MS_NODEV, "mode=1777")


def _hide(root: Path, bound: Iterable[Path], hidden: Iterable[Path]) -> None:
    """Masks gpuvm's folders that lie in a bound folder, such as the interpreter's prefix."""
    shown = list(bound)
    for path in hidden:
        inside = root / path.relative_to("/")
        if any(path.is_relative_to(folder) for folder in shown) and inside.is_dir():
            linux.mount("tmpfs", inside, linux.MS_RDONLY)


def _script(file: Path, command: str) -> None:
    file.write_text(f"#!/bin/sh\n{command}\n", encoding="utf-8")
    file.chmod(0o755)
