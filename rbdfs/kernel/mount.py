"""One mount, known by its device number: asked about, unmounted and detached as itself alone.

What stands on a path may be another mount by now, alive or hung. So nothing here goes by a path
alone, and nothing here asks a file system: statx(2) with AT_STATX_DONT_SYNC and
/proc/self/mountinfo tell what the kernel knows by itself.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import re
import struct
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rbdfs.kernel import connection, raw_requests
from rbdfs.model.record import known_fields

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

# The type of a mount of ours in /proc/self/mountinfo.
FILE_SYSTEM = "fuse.rbdfs"

# linux/fcntl.h, linux/stat.h
_AT_FDCWD, _AT_SYMLINK_NOFOLLOW, _AT_EMPTY_PATH = -100, 0x100, 0x1000
_AT_NO_AUTOMOUNT, _AT_STATX_DONT_SYNC = 0x800, 0x4000
_STATX_MNT_ID_UNIQUE = 0x4000
_STATX_ATTR_MOUNT_ROOT = 0x2000
# struct statx: stx_mask, stx_attributes; stx_dev_major, stx_dev_minor, stx_mnt_id.
_HEAD, _TAIL, _TAIL_AT, _STATX_BYTES = struct.Struct("=IIQ"), struct.Struct("=IIQ"), 136, 256

# Where the kernel has a directory for each FUSE connection, if somebody has mounted it.
_CONNECTIONS = Path("/sys/fs/fuse/connections")

_OCTAL = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a path leads, as the kernel knows without asking the file system there.

    Attributes:
        device: MAJOR:MINOR of the file system.
        mount_id: number of the mount in /proc/self/mountinfo, given anew once it is free.
        unique_id: number of the mount that no other one gets; 0 before Linux 6.8, and for the
            mount of another user who keeps it to himself.
        is_root: whether the path is the root of the mount: something is mounted exactly there.
    """

    device: str
    mount_id: int
    unique_id: int
    is_root: bool


def place(path: str | int, *, follow: bool = False) -> Place:
    """Return where *path*, or an open descriptor, leads; raise OSError where it leads nowhere."""
    # Without a wish for more, this much is told of another user's FUSE mount too.
    _, attributes, device, mount_id = _statx(path, 0, follow=follow)
    told = unique_id = 0
    with contextlib.suppress(PermissionError):
        told, _, _, unique_id = _statx(path, _STATX_MNT_ID_UNIQUE, follow=follow)
    return Place(
        device,
        mount_id,
        unique_id if told & _STATX_MNT_ID_UNIQUE else 0,
        bool(attributes & _STATX_ATTR_MOUNT_ROOT),
    )


def _statx(path: str | int, mask: int, *, follow: bool) -> tuple[int, int, str, int]:
    """Return stx_mask, stx_attributes, MAJOR:MINOR and stx_mnt_id."""
    flags = _AT_STATX_DONT_SYNC | _AT_NO_AUTOMOUNT
    descriptor, name = _AT_FDCWD, b""
    if isinstance(path, int):
        descriptor, flags = path, flags | _AT_EMPTY_PATH
    else:
        name, flags = os.fsencode(path), flags | (0 if follow else _AT_SYMLINK_NOFOLLOW)
    buffer = ctypes.create_string_buffer(_STATX_BYTES)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.statx(descriptor, name, flags, mask, buffer) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), path)
    told, _, attributes = _HEAD.unpack_from(buffer)
    major, minor, mount_id = _TAIL.unpack_from(buffer, _TAIL_AT)
    return told, attributes, f"{major}:{minor}", mount_id


@dataclass(frozen=True, slots=True)
class Entry:
    """A line of /proc/self/mountinfo.

    Attributes:
        owner: the user who mounted a FUSE file system, who may ask its server; None for others.
        shared: whether other users may use a FUSE file system (allow_other).
        source: what is mounted.
    """

    mount_id: int
    device: str
    mountpoint: str
    file_system: str
    owner: int | None
    shared: bool
    source: str


def entries() -> Iterator[Entry]:
    """Yield what is mounted in this mount namespace, visible or covered by something else."""
    # The kernel escapes a newline in a name, but no carriage return, which would end a line too.
    with open(
        "/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape", newline="\n"
    ) as mounts:
        for line in mounts:
            yield parsed_entry(line.rstrip("\n"))


def rbdfs_entries() -> Iterator[Entry]:
    """Yield those of entries() that are mounts of rbdfs."""
    return (entry for entry in entries() if entry.file_system == FILE_SYSTEM)


def parsed_entry(line: str) -> Entry:
    """Return what the kernel has written as *line*, which any user may have named a path in."""
    before, _, after = line.partition(" - ")
    mount_id, _, device, _, mountpoint, *_ = before.split(" ")
    file_system, source, options = after.split(" ", 2)
    owner = re.search(r"(?:^|,)user_id=(\d+)", options)
    return Entry(
        int(mount_id),
        device,
        _unescaped(mountpoint),
        file_system,
        int(owner[1]) if owner and file_system.startswith("fuse") else None,
        "allow_other" in options.split(","),
        _unescaped(source),
    )


def _unescaped(text: str) -> str:
    """Return *text* with what the kernel writes in octal: space, tab, newline, backslash, and #."""
    return _OCTAL.sub(lambda match: chr(int(match[1], 8)), text)


def entry_of(where: Place) -> Entry | None:
    """Return the line of the mount that *where* is in, None where it has gone meanwhile."""
    return next((entry for entry in entries() if entry.mount_id == where.mount_id), None)


@dataclass(frozen=True, slots=True)
class Mount:
    """A mount of rbdfs.

    Attributes:
        path: its mount point, which may have got another name since.
        device: MAJOR:MINOR of its file system; another one gets it when this one has gone.
        unique_id: what no other mount gets; 0 before Linux 6.8.
        mount_id: what no other mount has while it is there; 0 where a server did not tell.
        control: inode of the directory of its connection, which no other one gets; 0 without one.
    """

    path: str
    device: str
    unique_id: int
    mount_id: int = 0
    control: int = 0

    @classmethod
    def at(cls, path: str) -> Mount:
        """Return the mount of rbdfs on *path*; raise OSError EINVAL where there is none."""
        where = place(path, follow=True)
        entry = entry_of(where) if where.is_root else None
        if entry is None or entry.file_system != FILE_SYSTEM:
            raise OSError(errno.EINVAL, "no mount of rbdfs", path)
        control = _control_inode(where.device)
        return cls(entry.mountpoint, where.device, where.unique_id, where.mount_id, control)

    @classmethod
    def found(cls, path: str) -> Mount:
        """Return the mount on *path*, of which nobody has told; one that has gone where none is."""
        try:
            return cls.at(path)
        except OSError:
            return cls(path, "", 0)

    def record(self) -> dict[str, Any]:
        """Return it fit for JSON, for from_record()."""
        return asdict(self)

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> Mount:
        """Return the mount that record() has written, in this version or another one."""
        return cls(**known_fields(cls, record))

    def where(self, fuse: int | None = None) -> str | None:
        """Return its mount point; None where it has gone, or where something is mounted over it.

        What was detached lazily has gone, as has what lives on in another mount namespace. With
        *fuse*, its connection, None also where what is there may be another mount.
        """
        for entry in self._listed():
            with contextlib.suppress(OSError):
                found = place(entry.mountpoint)
                if found.is_root and self._is(found):
                    return None if self._may_be_another(fuse) else entry.mountpoint
        return None

    def unmount(self, fuse: int | None = None) -> None:
        """Unmount it; with *fuse*, its connection, nothing that may be another mount.

        Raises OSError EBUSY while it is in use, EINVAL where it has gone.
        """
        path = self.where(fuse)
        if path is None:
            raise OSError(errno.EINVAL, "not mounted any more", self.path)
        connection.unmount(path)

    def remount(self, flags: Iterable[str], *, read_only: bool) -> None:
        """Give it these flags, words of connection.MS_FLAGS, in the place of those that it has.

        Raises OSError EBUSY where it is to be read-only and files are open for writing, EINVAL
        where it has gone, EPERM for whoever is not root.
        """
        path = self.where()
        if path is None:
            raise OSError(errno.EINVAL, "not mounted any more", self.path)
        connection.remount(path, flags, read_only=read_only)

    def detach(self, fuse: int | None = None) -> None:
        """Take it from its mount point, if it is there; open files keep its server working.

        With *fuse*, its connection, nothing is taken that may be another mount. Raises OSError
        EBUSY where something else is mounted over it, which would go along.
        """
        path = self.where(fuse)
        if path is not None:
            connection.unmount(path, lazy=True)
            return
        covered = self._covered()
        if covered is not None and not self._may_be_another(fuse):
            raise OSError(errno.EBUSY, "something else is mounted over it", covered)

    def _is(self, found: Place) -> bool:
        """Tell whether *found* is in this mount, or in a later one that has got its numbers."""
        if (found.device, found.unique_id) != (self.device, self.unique_id):
            return False
        # A copy that was made with --bind has the same device.
        return bool(self.unique_id) or self.mount_id in (0, found.mount_id)

    def _may_be_another(self, fuse: int | None) -> bool:
        """Tell whether a mount that was seen just now with the numbers of this one may be another.

        Before Linux 6.8 that is to be feared: the kernel gives the lowest numbers that are free.
        But it ends the connection of a mount and removes its directory before it frees them.
        """
        if self.unique_id or fuse is None or not raw_requests.is_over(fuse):
            return False
        return not self.control or _control_inode(self.device) != self.control

    def _covered(self) -> str | None:
        """Return its mount point where something else is mounted over it."""
        for entry in self._listed():
            # A mount of rbdfs that has got the number since is seen at its own mount point.
            with contextlib.suppress(OSError):
                if place(entry.mountpoint).device != self.device:
                    return entry.mountpoint
        return None

    def _listed(self) -> list[Entry]:
        return [entry for entry in rbdfs_entries() if entry.device == self.device]


def control_directory(device: str) -> Path:
    """Return where the kernel tells of the FUSE connection of the mount with this MAJOR:MINOR."""
    return _CONNECTIONS / device.partition(":")[2]


def _control_inode(device: str) -> int:
    try:
        return control_directory(device).stat().st_ino
    except OSError:
        return 0
