"""Linux calls that Python's standard library lacks. See mount(2), prctl(2)."""

import ctypes
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

_libc = ctypes.CDLL(None, use_errno=True)

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC = 1, 2, 4, 8
_MS_REMOUNT, _MS_BIND, _MS_REC = 32, 4096, 16384
_MNT_DETACH = 2
_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000
_PR_CAPBSET_DROP, _PR_SET_CHILD_SUBREAPER, _PR_SET_NO_NEW_PRIVS = 24, 36, 38

# statvfs(3) flag -> mount(2) flag; a remount has to repeat the flags that are set.
_KEPT_FLAGS = {
    os.ST_NOSUID: MS_NOSUID,
    os.ST_NODEV: MS_NODEV,
    os.ST_NOEXEC: MS_NOEXEC,
    os.ST_NOATIME: 1024,
    os.ST_NODIRATIME: 2048,
    os.ST_RELATIME: 1 << 21,
}


def mount(kind: str, target: Path, flags: int = 0, options: str = "") -> None:
    """Mounts a new file system of that kind, such as ``tmpfs``."""
    _mount(kind, target, kind, flags, options)


def bind(source: Path, target: Path) -> None:
    """Mounts ``source``, with what is mounted below it, at ``target`` too."""
    _mount(str(source), target, "", _MS_BIND | _MS_REC)


def make_read_only(target: Path, *, below: bool = True) -> None:
    """Makes ``target`` and the mounts below it read-only; a user namespace cannot undo it."""
    for point in [target, *(_mounts_below(target) if below else ())]:
        set_flags = os.statvfs(point).f_flag
        kept = sum(flag for stat_flag, flag in _KEPT_FLAGS.items() if set_flags & stat_flag)
        _mount("none", point, "", _MS_REMOUNT | _MS_BIND | MS_RDONLY | MS_NOSUID | kept)


def forbid_programs(target: Path) -> None:
    """Remounts ``target`` noexec."""
    _mount("none", target, "", _MS_REMOUNT | _MS_BIND | MS_NOEXEC | MS_NOSUID)


def change_root(root: Path) -> None:
    """Makes the mount point ``root`` the root; the old root is unmounted."""
    os.chdir(root)
    _check(_libc.pivot_root(b".", b"."), "pivot_root", root)
    # The old root now lies above the new one at the same place: see pivot_root(2), NOTES.
    _check(_libc.umount2(b".", _MNT_DETACH), "umount2", root)
    os.chdir("/")


def enter_user_namespace(uid: int, gid: int) -> None:
    """Continues as ``uid``, without capabilities outside the namespace."""
    outer_uid, outer_gid = os.geteuid(), os.getegid()
    _check(_libc.unshare(_CLONE_NEWUSER), "unshare", "user namespace")
    own = Path("/proc/self")
    (own / "setgroups").write_text("deny", encoding="ascii")
    (own / "uid_map").write_text(f"{uid} {outer_uid} 1", encoding="ascii")
    (own / "gid_map").write_text(f"{gid} {outer_gid} 1", encoding="ascii")


def new_network_namespace() -> int:
    """Returns the open file of a new network namespace, which lasts until it is closed.

    A namespace belongs to a thread, and this one's thread ends at once.
    """
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(_new_network_namespace).result()


def _new_network_namespace() -> int:
    _check(_libc.unshare(_CLONE_NEWNET), "unshare", "network namespace")
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY)


def drop_capabilities() -> None:
    """Child processes have no capabilities, even as user 0."""
    last = int(Path("/proc/sys/kernel/cap_last_cap").read_text(encoding="ascii"))
    for capability in range(last + 1):
        _prctl(_PR_CAPBSET_DROP, capability)


def forbid_new_privileges() -> None:
    """Set-user-ID programs have no effect from here on."""
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)


def adopt_orphans() -> None:
    """Orphaned descendants become children of this process instead of init's."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def _mount(source: str, target: Path, kind: str, flags: int, options: str = "") -> None:
    result = _libc.mount(
        os.fsencode(source),
        os.fsencode(target),
        kind.encode(),
        ctypes.c_ulong(flags),
        options.encode(),
    )
    _check(result, f"mount {source}", target)


def _prctl(option: int, value: int) -> None:
    unused = ctypes.c_ulong(0)
    result = _libc.prctl(option, ctypes.c_ulong(value), unused, unused, unused)
    _check(result, "prctl", option)


def _check(result: int, call: str, on: object) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{call}: {os.strerror(number)}", str(on))


def _mounts_below(target: Path) -> Iterable[Path]:
    for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines():
        point = Path(_unescape(line.split()[4]))
        if target in point.parents:
            yield point


def _unescape(text: str) -> str:
    """The kernel escapes a space as a backslash and its octal code."""
    return text.encode("latin-1", "backslashreplace").decode("unicode_escape")
