"""The file system's operations, as pyfuse3 calls them: check, clamp, one call, reply.

The kernel asks by inode and, for an open file, by file handle. What it was told of an inode it
may use for stat.VALID_S seconds without asking again. A request is answered by returning or
by raising FUSEError; it runs beside all others, so every ``await`` lets other requests in.
"""

from __future__ import annotations

import errno
import functools
import inspect
import logging
from typing import TYPE_CHECKING, Any, TypeVar

import pyfuse3
import trio
from pyfuse3 import FUSEError

from rbdfs.config.logging_setup import repeats
from rbdfs.fuse.answers import answered
from rbdfs.fuse.file_operations import FileOperations
from rbdfs.fuse.manage_operations import ManageOperations
from rbdfs.fuse.name_operations import NameOperations
from rbdfs.fuse.running_requests import RunningRequests, watched

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from rbdfs.files.keeping import Keeping
    from rbdfs.fuse.mounted import Mounted

    AnswersWithErrno = TypeVar("AnswersWithErrno", bound=type[pyfuse3.Operations])

log = logging.getLogger(__name__)

Method = TypeVar("Method", bound="Callable[..., Awaitable[Any]]")

# Answers that a caller may well expect; everything else is worth a line in the log.
_EXPECTED = frozenset(
    {errno.ENOENT, errno.ENODATA, errno.EROFS, errno.EPERM, errno.ENOSPC, errno.EBUSY}
    | {errno.ENOTDIR, errno.ENAMETOOLONG, errno.ENXIO, errno.EOPNOTSUPP, errno.EEXIST}
    | {errno.ENOTEMPTY, errno.EXDEV, errno.EINVAL, errno.EISDIR, errno.E2BIG, errno.EINTR}
)


def replies_errno(method: Method) -> Method:
    """Answer the kernel with an errno, whatever *method* raises.

    pyfuse3 replies to FUSEError only; any other exception leaves the caller without an answer
    and takes the whole mount down.
    """

    @functools.wraps(method)
    async def bounded(*args: Any, **kwargs: Any) -> Any:
        try:
            return await method(*args, **kwargs)
        except FUSEError as exc:
            if answered(method.__name__, exc.errno) == exc.errno:
                raise
            raise FUSEError(errno.EIO) from exc
        except OSError as exc:
            code = answered(method.__name__, exc.errno)
            level = logging.DEBUG if code in _EXPECTED else logging.WARNING
            log.log(level, "%s: %s", method.__name__, exc, extra=repeats(exc))
            raise FUSEError(code) from exc
        except Exception:
            log.exception("%s failed", method.__name__)
            raise FUSEError(errno.EIO) from None

    return bounded  # type: ignore[return-value]


def replies_when_kept(method: Method) -> Method:
    """Answer only when the keeper has what *method* has told it.

    Before the kernel hears of a change, a server after this one has to be able to know of it.
    """

    @functools.wraps(method)
    async def kept(self: Operations, *args: Any, **kwargs: Any) -> Any:
        told = self.keeping.told
        answer = await method(self, *args, **kwargs)
        if self.keeping.told != told:
            await self.keeping.delivered()
        return answer

    return kept  # type: ignore[return-value]


def replies_nothing(method: Method) -> Method:
    """Log whatever *method* raises: the kernel waits for no answer, and pyfuse3 catches nothing."""

    @functools.wraps(method)
    async def bounded(*args: Any, **kwargs: Any) -> None:
        try:
            await method(*args, **kwargs)
        except Exception:
            log.exception("%s failed", method.__name__)

    return bounded  # type: ignore[return-value]


def answers_with_errno(operations: AnswersWithErrno) -> AnswersWithErrno:
    """Put replies_errno() around every operation of a class, inherited ones included.

    It is the outermost: also what watches the operations may fail.
    """
    for name, method in inspect.getmembers(operations, inspect.iscoroutinefunction):
        # What they call among themselves keeps its errors' names.
        if name == "forget":
            setattr(operations, name, replies_nothing(watched(method)))
        elif not name.startswith("_"):
            setattr(operations, name, replies_errno(watched(replies_when_kept(method))))
    return operations


@answers_with_errno
class Operations(NameOperations, ManageOperations, FileOperations):
    """Images and snapshots as files.

    Attributes:
        mounted: what the operations work on.
        ready: set when the kernel has opened the connection: from now on the mount answers.
        running: the requests that are under way.
        keeping: who remembers what they change, for a server after this one.
    """

    def __init__(self, mounted: Mounted, keeping: Keeping) -> None:
        super().__init__()
        self.mounted = mounted
        self.running = RunningRequests(mounted)
        self.keeping = keeping
        self.ready = trio.Event()

    def init(self) -> None:
        self.ready.set()
