"""The kernel connection: /dev/fuse opened and mounted without libfuse's help.

rbdfs holds the descriptor itself, so that it can stand between the kernel and libfuse, and so
that a mount can outlive the process that serves it.
"""

from __future__ import annotations

import array
import ctypes
import errno
import os
import socket
import stat
import subprocess
from pathlib import Path

FSTYPE = "fuse.rbdfs"

_MS_RDONLY = 1
_MS_NOSUID = 2
_MS_NODEV = 4
_MNT_DETACH = 2
_libc = ctypes.CDLL(None, use_errno=True)


def open_kernel(
    mountpoint: str,
    *,
    fsname: str,
    allow_other: bool = False,
    default_permissions: bool = False,
    read_only: bool = False,
) -> int:
    """Mount rbdfs on *mountpoint*, a directory or a regular file; return the descriptor.

    As root with mount(2), otherwise with ``fusermount3``. The mount is nosuid and nodev. The
    kernel sends FUSE_INIT at once, and lets nobody in before it is answered.

    Raises OSError with the errno of mount(2), or EPERM with what fusermount3 printed.
    """
    flags = [
        name
        for name, wanted in (
            ("allow_other", allow_other),
            ("default_permissions", default_permissions),
        )
        if wanted
    ]
    if os.geteuid() == 0:
        return _mount(mountpoint, fsname, flags, read_only=read_only)
    return _fusermount(mountpoint, fsname, flags, read_only=read_only)


def unmount(mountpoint: str, *, lazy: bool = False) -> None:
    """Unmount; *lazy* takes the mount point away at once, and open files stay usable.

    Raises OSError: EBUSY while files are open, unless *lazy*.
    """
    if os.geteuid() == 0:
        if _libc.umount2(os.fsencode(mountpoint), _MNT_DETACH if lazy else 0):
            raise _os_error(ctypes.get_errno(), mountpoint)
        return
    command = ["fusermount3", "-u", "-q", *(["-z"] if lazy else []), "--", mountpoint]
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode:
        # It has no exit code of its own for a busy mount, the only failure to be expected.
        raise OSError(errno.EBUSY, os.fsdecode(done.stderr).strip() or "busy", mountpoint)


def is_mounted(mountpoint: str) -> bool:
    """Tell whether something is mounted exactly on *mountpoint*, without touching it."""
    wanted = os.path.realpath(os.path.dirname(mountpoint))
    path = os.path.join(wanted, os.path.basename(mountpoint))
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as mounts:
        return any(_unescape(line.split(" ", 5)[4]) == path for line in mounts)


def _unescape(field: str) -> str:
    """Undo the octal escapes of /proc/self/mountinfo."""
    for char in " \t\n":
        field = field.replace(f"\\{ord(char):03o}", char)
    return field.replace(r"\134", "\\")


def _mount(mountpoint: str, fsname: str, flags: list[str], *, read_only: bool) -> int:
    root_mode = stat.S_IFMT(Path(mountpoint).stat().st_mode)
    descriptor = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    options = [
        f"fd={descriptor}",
        f"rootmode={root_mode:o}",
        f"user_id={os.getuid()}",
        f"group_id={os.getgid()}",
        *flags,
    ]
    mount_flags = _MS_NOSUID | _MS_NODEV | (_MS_RDONLY if read_only else 0)
    # mount(2) takes the name apart from the options: nothing in it can become an option.
    failed = _libc.mount(
        os.fsencode(fsname),
        os.fsencode(mountpoint),
        FSTYPE.encode(),
        ctypes.c_ulong(mount_flags),
        ",".join(options).encode(),
    )
    if failed:
        os.close(descriptor)
        raise _os_error(ctypes.get_errno(), mountpoint)
    return descriptor


def fusermount_options(fsname: str, flags: list[str], *, read_only: bool) -> str:
    r"""Return the ``-o`` argument of fusermount3; in a value it takes ``\,`` for a comma."""
    name = fsname.replace("\\", "\\\\").replace(",", "\\,")
    return ",".join(
        [f"fsname={name}", "subtype=rbdfs", *(["ro"] if read_only else []), *flags, "nosuid,nodev"]
    )


def _fusermount(mountpoint: str, fsname: str, flags: list[str], *, read_only: bool) -> int:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with ours, theirs:
        options = fusermount_options(fsname, flags, read_only=read_only)
        process = subprocess.Popen(
            ["fusermount3", "-o", options, "--", mountpoint],
            env=os.environ | {"_FUSE_COMMFD": str(theirs.fileno())},
            pass_fds=[theirs.fileno()],
            stderr=subprocess.PIPE,
        )
        theirs.close()
        ancillary = ours.recvmsg(1, socket.CMSG_SPACE(array.array("i").itemsize))[1]
        _, stderr = process.communicate()
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            descriptor = array.array("i", data)[0]
            os.set_inheritable(descriptor, False)
            return descriptor
    message = " ".join(os.fsdecode(stderr).split()) or "no descriptor came back"
    raise OSError(errno.EPERM, message.removeprefix("fusermount3: "), mountpoint)


def _os_error(code: int, path: str) -> OSError:
    return OSError(code, os.strerror(code), path)
