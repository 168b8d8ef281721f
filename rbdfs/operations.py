"""The file system's operations, as pyfuse3 calls them: check, clamp, one call, reply.

The kernel asks by inode and, for an open file, by file handle. What it was told of an inode it
may use for attributes.VALID_S seconds without asking again. A request is answered by returning or
by raising FUSEError; it runs beside all others, so every ``await`` lets other requests in.
"""

from __future__ import annotations

import errno
import functools
import itertools
import logging
import os
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import pyfuse3
import trio
from pyfuse3 import FUSEError

from rbdfs.attributes import entry_attributes, file_mode

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from pyfuse3 import FileHandleT, FileNameT, FlagT, InodeT, ModeT, RequestContext, XAttrNameT

    from rbdfs.catalog import Catalog
    from rbdfs.entries import Entry
    from rbdfs.handles import HandleTable
    from rbdfs.listing import Listing
    from rbdfs.options import MountOptions
    from rbdfs.tree import InodeTable

log = logging.getLogger(__name__)

Method = TypeVar("Method", bound="Callable[..., Awaitable[Any]]")

# Answers that a caller may well expect; everything else is worth a line in the log.
_EXPECTED = frozenset(
    {errno.ENOENT, errno.ENODATA, errno.EROFS, errno.EPERM, errno.ENOSPC, errno.EBUSY}
    | {errno.ENOTDIR, errno.ENAMETOOLONG, errno.ENXIO, errno.EOPNOTSUPP}
)


def replies_errno(method: Method) -> Method:
    """Answer the kernel with an errno, whatever *method* raises.

    pyfuse3 replies to FUSEError only; any other exception leaves the caller without an answer
    and takes the whole mount down.
    """

    @functools.wraps(method)
    async def bounded(*args: Any) -> Any:
        try:
            return await method(*args)
        except FUSEError:
            raise
        except OSError as exc:
            level = logging.DEBUG if exc.errno in _EXPECTED else logging.WARNING
            log.log(level, "%s: %s", method.__name__, exc)
            raise FUSEError(exc.errno or errno.EIO) from exc
        except Exception:
            log.exception("%s failed", method.__name__)
            raise FUSEError(errno.EIO) from None

    return bounded  # type: ignore[return-value]


class Operations(pyfuse3.Operations):
    """Images and snapshots as files.

    Attributes:
        ready: set when the kernel has opened the connection: from now on the mount answers.
        closing: set to refuse further opens while the mount is being ended.
    """

    def __init__(
        self, options: MountOptions, inodes: InodeTable, catalog: Catalog, handles: HandleTable
    ) -> None:
        super().__init__()
        self.ready = trio.Event()
        self.closing = False
        self._options = options
        self._inodes = inodes
        self._catalog = catalog
        self._handles = handles
        self._listings: dict[int, Listing] = {}
        self._listing_numbers = itertools.count(1)

    def init(self) -> None:
        self.ready.set()

    def _attributes(self, entry: Entry, inode: int) -> pyfuse3.EntryAttributes:
        image = self._handles.image(entry.key)
        # The kernel drops the pages of a file whose size changes: it is told the size that
        # reads and writes are clamped to, and no other.
        size = None if image is None else image.size
        return entry_attributes(entry, inode, self._options, size)

    # Names and inodes.

    @replies_errno
    async def lookup(
        self, parent_inode: InodeT, name: FileNameT, ctx: RequestContext
    ) -> pyfuse3.EntryAttributes:
        entry = await self._catalog.find(self._inodes.entry(parent_inode), name)
        return self._attributes(entry, self._inodes.remember(entry))

    async def forget(self, inode_list: Sequence[tuple[InodeT, int]]) -> None:
        for inode, count in inode_list:
            self._inodes.forget(inode, count)

    @replies_errno
    async def getattr(self, inode: InodeT, ctx: RequestContext) -> pyfuse3.EntryAttributes:
        entry = await self._catalog.current(self._inodes.entry(inode))
        self._inodes.refresh(entry)
        return self._attributes(entry, inode)

    @replies_errno
    async def setattr(
        self,
        inode: InodeT,
        attr: pyfuse3.EntryAttributes,
        fields: pyfuse3.SetattrFields,
        fh: FileHandleT | None,
        ctx: RequestContext,
    ) -> pyfuse3.EntryAttributes:
        entry = await self._catalog.current(self._inodes.entry(inode))
        known = self._attributes(entry, inode)
        if (
            (fields.update_mode and attr.st_mode != known.st_mode)
            or (fields.update_uid and attr.st_uid != known.st_uid)
            or (fields.update_gid and attr.st_gid != known.st_gid)
        ):
            raise FUSEError(errno.EPERM)
        if fields.update_size and attr.st_size != known.st_size:
            await self._resize(entry, attr.st_size)
            return self._attributes(await self._catalog.current(entry), inode)
        # Times are the cluster's: cp -p and touch succeed, and change nothing.
        return known

    async def _resize(self, entry: Entry, size: int) -> None:
        self._check_writable(entry)
        async with self._handles.borrowed(entry, writable=True) as image:
            if size < image.size:
                raise FUSEError(errno.EPERM)
            await image.resize(size)
        self._catalog.changed(entry)

    def _check_writable(self, entry: Entry) -> None:
        if entry.is_snapshot or self._options.read_only:
            raise FUSEError(errno.EROFS)

    @replies_errno
    async def access(self, inode: InodeT, mode: ModeT, ctx: RequestContext) -> bool:
        entry = self._inodes.entry(inode)
        if mode & os.W_OK:
            self._check_writable(entry)
        return not (mode & os.X_OK) or bool(file_mode(entry, self._options) & 0o111)

    @replies_errno
    async def statfs(self, ctx: RequestContext) -> pyfuse3.StatvfsData:
        used, available = await self._catalog.usage()
        stat = pyfuse3.StatvfsData()
        # Of librbd's discard granularity: a loop device takes its own from here.
        stat.f_bsize = stat.f_frsize = 64 * 1024
        stat.f_blocks = (used + available) // stat.f_frsize
        stat.f_bfree = stat.f_bavail = available // stat.f_frsize
        stat.f_namemax = 255
        return stat

    # Directories.

    @replies_errno
    async def opendir(self, inode: InodeT, ctx: RequestContext) -> FileHandleT:
        listing = self._catalog.listing(self._inodes.entry(inode))
        number = next(self._listing_numbers)
        self._listings[number] = listing
        return pyfuse3.FileHandleT(number)

    @replies_errno
    async def readdir(self, fh: FileHandleT, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        listing = self._listings[fh]
        if start_id == 0:
            listing.rewind()
        for index in itertools.count(start_id):
            item = await listing.item(index)
            if item is None:
                return
            name, entry = item
            attr = self._attributes(entry, self._inodes.number(entry.key))
            if not pyfuse3.readdir_reply(token, pyfuse3.FileNameT(name), attr, index + 1):
                return
            self._inodes.remember(entry)

    @replies_errno
    async def releasedir(self, fh: FileHandleT) -> None:
        del self._listings[fh]

    @replies_errno
    async def fsyncdir(self, fh: FileHandleT, datasync: bool) -> None:
        return None

    # Open files.

    @replies_errno
    async def open(self, inode: InodeT, flags: FlagT, ctx: RequestContext) -> pyfuse3.FileInfo:
        if self.closing:
            raise FUSEError(errno.ESHUTDOWN)
        entry = self._inodes.entry(inode)
        writable = flags & os.O_ACCMODE != os.O_RDONLY
        if writable or flags & os.O_TRUNC:
            self._check_writable(entry)
        if flags & os.O_TRUNC and (await self._catalog.current(entry)).size:
            raise FUSEError(errno.EPERM)
        handle = await self._handles.open(entry, inode, writable=writable)
        self._inodes.opened(inode)
        # The pages of a snapshot stay true for ever. Those of an image may be older than what
        # another client has written since.
        return pyfuse3.FileInfo(fh=pyfuse3.FileHandleT(handle.fh), keep_cache=entry.is_snapshot)

    @replies_errno
    async def read(self, fh: FileHandleT, off: int, size: int) -> bytes:
        return await self._handles[fh].image.read(off, size)

    @replies_errno
    async def write(self, fh: FileHandleT, off: int, buf: bytes) -> int:
        handle = self._handles[fh]
        if not handle.writable:
            raise FUSEError(errno.EBADF)
        return await handle.write(off, buf)

    @replies_errno
    async def fsync(self, fh: FileHandleT, datasync: bool) -> None:
        await self._handles[fh].flush()

    @replies_errno
    async def flush(self, fh: FileHandleT) -> None:
        handle = self._handles[fh]
        if handle.dirty:
            await handle.flush()

    @replies_errno
    async def release(self, fh: FileHandleT) -> None:
        handle = await self._handles.release(fh)
        self._inodes.released(handle.inode)

    # Extended attributes. Never ENOSYS: the kernel would turn the request off for the mount.

    @replies_errno
    async def getxattr(self, inode: InodeT, name: XAttrNameT, ctx: RequestContext) -> bytes:
        raise FUSEError(errno.ENODATA)

    @replies_errno
    async def listxattr(self, inode: InodeT, ctx: RequestContext) -> Sequence[XAttrNameT]:
        return []

    # What would create, remove or rename.

    def _refuse(self) -> NoReturn:
        raise FUSEError(errno.EROFS if self._options.read_only else errno.EPERM)

    @replies_errno
    async def create(self, *_args: Any) -> NoReturn:
        self._refuse()

    @replies_errno
    async def mknod(self, *_args: Any) -> NoReturn:
        self._refuse()

    @replies_errno
    async def mkdir(self, *_args: Any) -> NoReturn:
        self._refuse()

    @replies_errno
    async def symlink(self, *_args: Any) -> NoReturn:
        self._refuse()

    @replies_errno
    async def link(self, *_args: Any) -> NoReturn:
        self._refuse()

    @replies_errno
    async def unlink(self, *_args: Any) -> NoReturn:
        self._refuse()

    @replies_errno
    async def rmdir(self, *_args: Any) -> NoReturn:
        self._refuse()

    @replies_errno
    async def rename(self, *_args: Any) -> NoReturn:
        self._refuse()

    @replies_errno
    async def setxattr(self, *_args: Any) -> NoReturn:
        self._refuse()

    @replies_errno
    async def removexattr(self, *_args: Any) -> NoReturn:
        self._refuse()

    @replies_errno
    async def readlink(self, inode: InodeT, ctx: RequestContext) -> FileNameT:
        raise FUSEError(errno.EINVAL)
