"""What can go wrong, by name, each with the errno that the kernel is told.

Inner code tells failures apart by class. Only fuse/operations.py looks at the errno, to answer the
kernel with it. What librbd and librados raise gets its name at the storage edge, in ceph/errors.py;
messages have the image spec in them, and ``off~len`` where there is one.
"""

from __future__ import annotations

import errno
from typing import Any, ClassVar

EXIT_FAILURE = 1
EXIT_USAGE = 2

PASSING = frozenset({errno.ETIMEDOUT, errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE})
"""Errnos of a cluster that does not answer and of a host that has no room: of what passes."""


class UserError(Exception):
    """Something that the user can mend: told in one line, without a traceback.

    Attributes:
        exit_code: what the process exits with: EXIT_USAGE for a command line that
            cannot mean anything, EXIT_FAILURE for everything else.
        facts: what a program is told of it, beside the line (--json).
    """

    def __init__(
        self, message: str, exit_code: int = EXIT_FAILURE, facts: dict[str, Any] | None = None
    ) -> None:
        super().__init__(message)
        self.exit_code = exit_code
        self.facts = facts or {}


class ClusterAway(UserError):
    """No monitor answers; that may pass."""


class Failure(OSError):
    """Something that has gone wrong. Raised as it is only for an errno that has no name here.

    An exception object belongs to the task that it is raised in: ``copy.copy()`` makes another one
    for another task.

    Attributes:
        code: the errno of the class; an object may have a more exact one of its own.
    """

    code: ClassVar[int] = errno.EIO

    def __init__(self, message: str, code: int | None = None) -> None:
        super().__init__(code or self.code, message)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.strerror, self.errno)


class Missing(Failure, FileNotFoundError):
    """The cluster has no such object: an image without its header, most often."""

    code = errno.ENOENT


class NoSuchName(Missing):
    """Nothing below the mount point has this file name."""


class NoSuchPool(Missing):
    """There is no pool or namespace of this name or id."""


class Gone(Failure):
    """What was known, or is open, is there no more."""

    code = errno.ESTALE


class ImageGone(Gone):
    """The image was removed, or moved where its files cannot follow."""


class SnapshotGone(Gone):
    """The snapshot was removed."""


class PoolGone(Gone):
    """The pool was removed, though another one may have its name now."""


class InUse(Failure):
    """Somebody has the image open, locked, or on its way to another pool."""

    code = errno.EBUSY


class Outgrown(InUse):
    """What was to grow is larger by now: another client has resized it."""


class Exists(Failure, FileExistsError):
    """The name is taken."""

    code = errno.EEXIST


class NotEmpty(Failure):
    """The namespace has images, in its trash at least."""

    code = errno.ENOTEMPTY


class ReadOnly(Failure):
    """A snapshot, a mount, a mirrored image or a client that may not write."""

    code = errno.EROFS


class NotPermitted(Failure, PermissionError):
    """The client's capabilities, or the options of the mount, do not allow it."""

    code = errno.EPERM


class Interrupted(Failure, InterruptedError):
    """Nobody waits for it any more."""

    code = errno.EINTR


class NotSupported(Failure):
    """A request that rbdfs does not carry out. Never ENOSYS: the kernel would not ask again."""

    code = errno.EOPNOTSUPP


class NotUnderstood(Failure, ValueError):
    """What the cluster has says nothing that makes sense to us: damaged, or of a later version."""

    code = errno.EIO


class Incomplete(Failure):
    """librbd did less than it was asked to, without an error of its own."""

    code = errno.EIO


class Fenced(Failure):
    """This client is on the blocklist, or the mount is being ended: nothing is written any more."""

    code = errno.ESHUTDOWN


class TimedOut(Failure, TimeoutError):
    """The cluster did not answer in time (-o timeout). A write may still land later."""

    code = errno.ETIMEDOUT


class NoMemory(Failure):
    """The host has no memory, or no thread, for what was asked; that may pass."""

    code = errno.ENOMEM


class NoSpace(Failure):
    """Past the end of the image, or the pool is full."""

    code = errno.ENOSPC


class PastEnd(Failure):
    """A seek at or past the end, or for data where only a hole follows."""

    code = errno.ENXIO


class NotOpen(Failure):
    """There is no such file handle, or it is not open for this."""

    code = errno.EBADF


class Elsewhere(Failure):
    """The two names are not in one place, as link(2) and rename(2) want them."""

    code = errno.EXDEV


class BadArgument(Failure):
    """A request that cannot mean anything."""

    code = errno.EINVAL


class NameTooLong(Failure, ValueError):
    """A file name that would pass NAME_MAX bytes."""

    code = errno.ENAMETOOLONG


class NotADirectory(Failure, NotADirectoryError):
    """A name below what is no directory."""

    code = errno.ENOTDIR


class IsADirectory(Failure, IsADirectoryError):
    """A directory where a file is wanted."""

    code = errno.EISDIR


class NoAttribute(Failure):
    """The file has no such extended attribute."""

    code = errno.ENODATA


class TooLong(Failure):
    """A value that the kernel would not take."""

    code = errno.E2BIG


# Those that librbd, librados and the data path raise; one name an errno.
_KINDS: tuple[type[Failure], ...] = (
    *(Missing, Gone, InUse, Exists, NotEmpty, ReadOnly, NotPermitted, NotSupported),
    *(Fenced, TimedOut, NoMemory, NoSpace, NotOpen, BadArgument),
)
_NAMED = {kind.code: kind for kind in _KINDS} | {errno.EACCES: NotPermitted, errno.EDQUOT: NoSpace}


def failure(code: int, message: str) -> Failure:
    """Return the failure that errno *code* stands for, positive or negative, by its name."""
    code = abs(code)
    return _NAMED.get(code, Failure)(message, code)
