"""Takes away from this process what a program under test should not have: network, processes, files, privileges.

Every step that the system may refuse says whether it was granted. Linux calls that Python has no names for go through
ctypes. This file is read by a script that runs without the package; it imports the standard library alone.
"""

from __future__ import annotations

import ctypes
import os
import resource
import sys
from collections.abc import Mapping

_LIBC = ctypes.CDLL(None, use_errno=True)
_NEWNS, _NEWIPC, _NEWUSER, _NEWPID, _NEWNET = 0x20000, 0x8000000, 0x10000000, 0x20000000, 0x40000000
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_CHILD_SUBREAPER, _PR_SET_NO_NEW_PRIVS = 1, 4, 36, 38
_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_REC, _MS_PRIVATE = 1, 2, 4, 8, 0x4000, 0x40000
_SYS_MOUNT_SETATTR, _AT_FDCWD, _AT_RECURSIVE = 442, -100, 0x8000
_CAPSET = {"x86_64": 126, "aarch64": 91}
_IS_LINUX = sys.platform == "linux"
#: A user number that systems leave unused, where the process may change it.
_FIRST_UID, _NUM_UIDS = 62000, 1000


class _MountAttributes(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in ("set", "clear", "propagation", "userns")]


class _Capabilities(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint32) for name in ("effective", "permitted", "inheritable")]


def leave_network() -> bool:
    """Moves this process into a network of its own that has no interface; False where the system refuses."""
    return _unshare(_NEWNET)


def leave_processes() -> bool:
    """Gives children of this process a process tree, mounts and shared memory of their own; False where refused."""
    return _unshare(_NEWPID | _NEWNS | _NEWIPC)


def die_with_parent() -> None:
    """Has the kernel kill this process when its parent ends, and take over the children's orphans until then."""
    if _IS_LINUX:
        _LIBC.prctl(_PR_SET_PDEATHSIG, 9, 0, 0, 0)
        _LIBC.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def hide_memory() -> None:
    """Keeps other processes of this user from reading this one's memory."""
    if _IS_LINUX:
        _LIBC.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def freeze_files(workdir: str, size_bytes: int) -> bool:
    """Makes every mounted file system read-only and without devices, and mounts an empty one in memory at ``workdir``.

    Call it in a mount namespace of its own, from the first process of a process namespace: /proc shows that one.

    Returns:
        Whether all of it was granted; where not, nothing is read-only.
    """
    if not _IS_LINUX or _LIBC.mount(b"none", b"/", None, _MS_REC | _MS_PRIVATE, None):
        return False
    _LIBC.mount(b"proc", b"/proc", b"proc", _MS_RDONLY | _MS_NOSUID | _MS_NODEV | _MS_NOEXEC, None)
    attributes = _MountAttributes(_MS_RDONLY | _MS_NOSUID | _MS_NODEV, 0, 0, 0)
    size = ctypes.sizeof(attributes)
    if _LIBC.syscall(_SYS_MOUNT_SETATTR, _AT_FDCWD, b"/", _AT_RECURSIVE, ctypes.byref(attributes), size):
        return False
    options = f"size={size_bytes},mode=1777".encode()
    return not _LIBC.mount(b"tmpfs", os.fsencode(workdir), b"tmpfs", _MS_NOSUID | _MS_NODEV, options)


def set_limits(limits: Mapping[str, int]) -> None:
    """Sets the limits of this process and its children, hard ones, so that they can only be lowered.

    Args:
        limits: ``cpu_seconds``, ``memory_bytes``, ``file_bytes``, ``num_processes`` (in addition to what runs under
            this user already), ``num_files``.
    """
    processes = limits["num_processes"] + _tasks_of(os.getuid())
    for name, value in (
        (resource.RLIMIT_CPU, limits["cpu_seconds"]),
        (resource.RLIMIT_AS, limits["memory_bytes"]),
        (resource.RLIMIT_FSIZE, limits["file_bytes"]),
        (resource.RLIMIT_NPROC, processes),
        (resource.RLIMIT_NOFILE, limits["num_files"]),
        (resource.RLIMIT_CORE, 0),
    ):
        hard = resource.getrlimit(name)[1]
        most = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(name, (most, most))


def drop_privileges() -> bool:
    """Becomes a user without rights where that is possible, and gives up every capability.

    Root can change its user, but where Python itself lies in a folder that only root may enter it must stay root to
    import the standard library; without capabilities it is still the owner of root's files.

    Returns:
        Whether the process is not root now.
    """
    if os.geteuid() == 0 and _python_is_public():
        user = _FIRST_UID + os.getpid() % _NUM_UIDS
        try:
            os.setgroups([])
            os.setresgid(user, user, user)
            os.setresuid(user, user, user)
        except OSError:  # a container that maps no such user
            pass
    if _IS_LINUX:
        _LIBC.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        call = _CAPSET.get(os.uname().machine)
        if call is not None:
            header = (ctypes.c_uint32 * 2)(0x20080522, 0)
            _LIBC.syscall(call, ctypes.byref(header), ctypes.byref((_Capabilities * 2)()))
    return os.geteuid() != 0


def _unshare(flags: int) -> bool:
    if not _IS_LINUX:
        return False
    if _LIBC.unshare(flags) == 0:
        return True
    # Without privileges a user namespace is needed first, where the system allows one.
    user, group = os.geteuid(), os.getegid()
    if _LIBC.unshare(_NEWUSER | flags):
        return False
    for file, text in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
        with open(f"/proc/self/{file}", "w", encoding="ascii") as writer:
            writer.write(text)
    return True


def _python_is_public() -> bool:
    """Whether other users may enter every folder on the way to the standard library."""
    folder = os.path.dirname(os.path.realpath(os.__file__))
    while True:
        if not os.stat(folder).st_mode & 0o001:
            return False
        if folder == os.path.dirname(folder):
            return True
        folder = os.path.dirname(folder)


def _tasks_of(user: int) -> int:
    """Counts the threads that the kernel counts for a user already; 0 where there is no /proc to count them by."""
    count = 0
    try:
        numbers = [name for name in os.listdir("/proc") if name.isdigit()]
    except OSError:
        return 0
    for number in numbers:
        try:
            if os.stat(f"/proc/{number}").st_uid == user:
                count += len(os.listdir(f"/proc/{number}/task"))
        except OSError:  # it has ended meanwhile
            continue
    return count
