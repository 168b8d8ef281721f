"""The connection to the kernel: /dev/fuse, mounted by mount(2) as root, by fusermount3 as a user.

A mount point is a directory, or a regular file, which then is the file system's only file.  Nothing
here knows what is served on the connection.
"""

from __future__ import annotations

import array
import ctypes
import errno
import os
import shutil
import socket
import stat
import subprocess
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_REMOUNT = 1, 2, 4, 32
# By the words of mount(8), linux/mount.h.
MS_FLAGS = {
    "noexec": 8,
    "sync": 16,
    "dirsync": 128,
    "nosymfollow": 256,
    "noatime": 1024,
    "nodiratime": 2048,
    "relatime": 1 << 21,
    "strictatime": 1 << 24,
    "lazytime": 1 << 25,
}
# Of these fusermount3 knows the first, and is not to be told the second, which is the default.
_FUSERMOUNT_FLAGS, _DEFAULT_FLAGS = ("noexec", "sync", "dirsync", "noatime"), ("relatime",)
MNT_DETACH, UMOUNT_NOFOLLOW = 2, 8
FUSERMOUNT_TIMEOUT_S = 30.0

SO_SNDBUFFORCE = 32  # Linux; not in the socket module
MAX_REQUEST = 1 << 20
# The headers around a request's data, with room to spare.
MESSAGE_OVERHEAD = 4096


@dataclass(frozen=True)
class MountOptions:
    """What the kernel is told of a mount.  `fsname` is what mount(8) shows as its source.

    *flags* are words of MS_FLAGS.
    """

    fsname: str = "rbdfs"
    subtype: str = "rbdfs"
    read_only: bool = False
    flags: tuple[str, ...] = ()
    allow_other: bool = False
    default_permissions: bool = False
    max_read: int = 0  # bytes; 0: the kernel's own limit


def open_kernel(
    mountpoint: str, options: MountOptions | None = None, *, descriptor: int | None = None
) -> int:
    """Mount, and return the descriptor of the kernel's end.

    *descriptor*, where it is given, is the mount point, opened with O_PATH: root mounts on that,
    whatever the path means by now. fusermount3 takes a path only, and checks it as the user.

    Raises OSError: from stat of the mount point (ENOTCONN: a dead mount is there), from mount(2),
    or with fusermount3's message.
    """
    options = options or MountOptions()
    target = mountpoint if descriptor is None else f"/proc/self/fd/{descriptor}"
    mode = os.stat(target).st_mode
    if not (stat.S_ISDIR(mode) or stat.S_ISREG(mode)):
        raise OSError(errno.ENOTDIR, "neither a directory nor a regular file", mountpoint)
    if os.geteuid() == 0:
        try:
            return _mount(target, stat.S_IFMT(mode), options)
        except PermissionError:
            # Root without CAP_SYS_ADMIN, in a container say: fusermount3 may be allowed to.
            if shutil.which("fusermount3") is None:
                raise
    return _fusermount(mountpoint, options)


def ms_flags(words: Iterable[str], *, read_only: bool) -> int:
    """The flags argument of mount(2)."""
    flags = MS_NOSUID | MS_NODEV | (MS_RDONLY if read_only else 0)
    for word in words:
        flags |= MS_FLAGS[word]
    return flags


def kernel_options(options: MountOptions, *, fd: int, file_type: int) -> str:
    """The data argument of mount(2).  Nothing in it is free text."""
    words = [
        f"fd={fd}",
        f"rootmode={file_type:o}",
        f"user_id={os.getuid()}",
        f"group_id={os.getgid()}",
        *_permissions(options),
    ]
    return ",".join(words)


def fusermount_options(options: MountOptions) -> str:
    """The argument of `fusermount3 -o`.  A backslash protects a comma in fsname and subtype."""
    words = [
        "ro" if options.read_only else "rw",
        "nosuid",
        "nodev",
        *(flag for flag in options.flags if flag not in _DEFAULT_FLAGS),
        *_permissions(options),
        f"fsname={_escaped(options.fsname)}",
        f"subtype={_escaped(options.subtype)}",
    ]
    return ",".join(words)


def _permissions(options: MountOptions) -> list[str]:
    words = []
    if options.default_permissions:
        words.append("default_permissions")
    if options.allow_other:
        words.append("allow_other")
    if options.max_read:
        words.append(f"max_read={options.max_read}")
    return words


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace(",", "\\,")


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _c_string(text: str) -> bytes:
    data = os.fsencode(text)
    if b"\0" in data:
        raise OSError(errno.EINVAL, "NUL in a string", text)
    return data


def _mount(mountpoint: str, file_type: int, options: MountOptions) -> int:
    flags = ms_flags(options.flags, read_only=options.read_only)
    source, target = _c_string(options.fsname), _c_string(mountpoint)
    fs_type = _c_string(f"fuse.{options.subtype}")
    fd = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    data = kernel_options(options, fd=fd, file_type=file_type).encode()
    if _libc().mount(source, target, fs_type, ctypes.c_ulong(flags), data) != 0:
        code = ctypes.get_errno()
        os.close(fd)
        raise OSError(code, os.strerror(code), mountpoint)
    return fd


def _fusermount(mountpoint: str, options: MountOptions) -> int:
    for flag in options.flags:
        if flag not in (*_FUSERMOUNT_FLAGS, *_DEFAULT_FLAGS):
            raise OSError(errno.EPERM, f"{flag} is root's to ask for: fusermount3 does not know it")
    words = fusermount_options(options)
    with ExitStack() as stack:
        ours, theirs = (stack.enter_context(end) for end in socket.socketpair())
        _run_fusermount(["-o", words, "--", mountpoint], mountpoint, theirs.fileno())
        theirs.close()
        # It has ended: what it sent is here.
        _, ancillary, _, _ = ours.recvmsg(1, socket.CMSG_SPACE(4), socket.MSG_CMSG_CLOEXEC)
    fds = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    if not fds:
        raise OSError(errno.EIO, "fusermount3 sent no descriptor", mountpoint)
    return fds[0]


def _run_fusermount(arguments: list[str], mountpoint: str, comm_fd: int | None = None) -> None:
    program = shutil.which("fusermount3")
    if program is None:
        raise OSError(errno.ENOENT, "fusermount3 is not installed")
    # Its messages end with the text of an errno, in English then.
    environment = {**os.environ, "LC_ALL": "C"}
    fds: tuple[int, ...] = ()
    if comm_fd is not None:
        environment["_FUSE_COMMFD"], fds = str(comm_fd), (comm_fd,)
    try:
        done = subprocess.run(
            [program, *arguments],
            env=environment,
            pass_fds=fds,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=FUSERMOUNT_TIMEOUT_S,
        )
    except subprocess.TimeoutExpired as exc:
        raise OSError(errno.ETIMEDOUT, "fusermount3 does not end", mountpoint) from exc
    if done.returncode:
        message = os.fsdecode(done.stderr).strip() or f"fusermount3: exit code {done.returncode}"
        raise OSError(_errno_of(message), message, mountpoint)


def _errno_of(message: str) -> int:
    """The errno whose text ends a message of fusermount3; EPERM for its own refusals."""
    known = {os.strerror(code): code for code in errno.errorcode}
    return known.get(message.rpartition(": ")[2], errno.EPERM)


def remount(mountpoint: str, words: Iterable[str], *, read_only: bool) -> None:
    """Give a mount these flags in the place of those that it has.

    Raises OSError: EBUSY where files are open for writing and it is to be read-only, EPERM for
    whoever is not root (fusermount3 cannot).
    """
    flags = ctypes.c_ulong(MS_REMOUNT | ms_flags(words, read_only=read_only))
    if _libc().mount(None, _c_string(mountpoint), None, flags, None) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), mountpoint)


def unmount(mountpoint: str, *, lazy: bool = False) -> None:
    """Unmount.  EBUSY while it is in use; with `lazy` it goes when it is no longer.

    EINVAL if nothing is mounted there.  Works on a dead mount.
    """
    if os.geteuid() == 0:
        flags = UMOUNT_NOFOLLOW | (MNT_DETACH if lazy else 0)
        if _libc().umount2(_c_string(mountpoint), flags) == 0:
            return
        code = ctypes.get_errno()
        if code != errno.EPERM:
            raise OSError(code, os.strerror(code), mountpoint)
    _run_fusermount(["-u", *(["-z"] if lazy else []), "--", mountpoint], mountpoint)


class SocketPair(NamedTuple):
    """A connection that carries FUSE messages, one in a packet."""

    ours: socket.socket  # the data path's end
    theirs: socket.socket  # pyfuse3's, as /dev/fd/N
    max_request: int  # bytes of data that a request may have, so that it fits in a packet


def socket_pair() -> SocketPair:
    """A pair whose packets hold a request of 1 MiB.

    A user may not set a buffer above net.core.wmem_max (208 KiB by default), and a packet must fit
    in it: requests are smaller then, a multiple of 64 KiB.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    room = min(_send_buffer(ours), _send_buffer(theirs))
    fits = min(room - MESSAGE_OVERHEAD, MAX_REQUEST)
    return SocketPair(ours, theirs, fits // 65536 * 65536 or fits // 4096 * 4096)


def _send_buffer(end: socket.socket) -> int:
    """Set a send buffer for the largest message and some small ones: its bytes."""
    # The kernel doubles the number, for its own overhead.
    size = MAX_REQUEST + 16 * MESSAGE_OVERHEAD
    try:
        end.setsockopt(socket.SOL_SOCKET, SO_SNDBUFFORCE, size)
    except PermissionError:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, size)
    return end.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
