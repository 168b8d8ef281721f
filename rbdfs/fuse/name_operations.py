"""Operations on names, attributes and directories. What they raise, operations.py answers."""

from __future__ import annotations

import itertools
import os
from typing import TYPE_CHECKING

import pyfuse3

from rbdfs.errors import BadArgument, Gone, Missing
from rbdfs.files.interplay import settled
from rbdfs.fuse import ownership, resizing, trail
from rbdfs.fuse.begun_requests import (
    GETATTR,
    GETXATTR,
    LISTXATTR,
    LOOKUP,
    OPENDIR,
    READDIRPLUS,
    STATFS,
)
from rbdfs.fuse.stat import BLOCK_BYTES, file_mode
from rbdfs.model.file_report import ATTRIBUTE
from rbdfs.model.ownership import NOT_ASKED_FOR
from rbdfs.names.xattrs import check_user_attribute

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyfuse3 import FileHandleT, FileNameT, InodeT, ModeT, RequestContext, XAttrNameT

    from rbdfs.fuse.mounted import Mounted
    from rbdfs.model.entry import Entry


class NameOperations(pyfuse3.Operations):
    """Everything about a file but its content, and what makes and removes it."""

    mounted: Mounted

    async def lookup(
        self, parent_inode: InodeT, name: FileNameT, ctx: RequestContext
    ) -> pyfuse3.EntryAttributes:
        mounted = self.mounted
        with mounted.requests.constant(LOOKUP, parent_inode, ctx.pid):
            entry = await mounted.catalog.find(await mounted.entry(parent_inode), name, known=True)
            entry = await mounted.told(entry)
        return mounted.attributes(entry, mounted.inodes.remember(entry))

    async def forget(self, inode_list: Sequence[tuple[InodeT, int]]) -> None:
        for inode, count in inode_list:
            self.mounted.inodes.forget(inode, count)

    async def getattr(self, inode: InodeT, ctx: RequestContext) -> pyfuse3.EntryAttributes:
        with self.mounted.requests.constant(GETATTR, inode, ctx.pid):
            return await self._attributes(inode)

    async def _attributes(self, inode: InodeT) -> pyfuse3.EntryAttributes:
        entry = await self.mounted.catalog.current(await self.mounted.entry(inode), known=True)
        entry = await self.mounted.told(entry)
        self.mounted.inodes.refresh(entry)
        return self.mounted.attributes(entry, inode)

    async def setattr(
        self,
        inode: InodeT,
        attr: pyfuse3.EntryAttributes,
        fields: pyfuse3.SetattrFields,
        fh: FileHandleT | None,
        ctx: RequestContext,
    ) -> pyfuse3.EntryAttributes:
        entry = await self.mounted.catalog.current(await self.mounted.entry(inode))
        known = self.mounted.attributes(entry, inode)
        wanted = ownership.asked_for(known, attr, fields)
        changed = wanted != NOT_ASKED_FOR and await ownership.change(
            self.mounted, entry, known, wanted, ctx
        )
        # Times are the cluster's: cp -p and touch succeed, and change nothing.
        if not fields.update_size:
            return await self._attributes(inode) if changed else known
        handle = None if fh is None else await self.mounted.handles.ready(fh)
        if handle is not None:
            await handle.check()
        elif self.mounted.unfinished is not None:
            await self.mounted.unfinished.finish_one(entry)
        length = await resizing.length_now(self.mounted, entry)
        resized = attr.st_size != length
        # A server that died may have emptied the file, and not let it grow yet.
        if resized or (handle is not None and not attr.st_size):
            await resizing.set_length(self.mounted, entry, attr.st_size, handle)
            shared = self.mounted.handles.shared(entry)
            if resized and (shared is None or shared.growth is None):
                trail.leave(ctx, f"resized {entry.spec} from {length} bytes to {attr.st_size}")
        return await self._attributes(inode)

    async def access(self, inode: InodeT, mode: ModeT, ctx: RequestContext) -> bool:
        entry = await self.mounted.entry(inode)
        if mode & os.W_OK:
            self.mounted.check_writable(entry)
        return not (mode & os.X_OK) or bool(file_mode(entry, self.mounted.options) & 0o111)

    async def statfs(self, ctx: RequestContext) -> pyfuse3.StatvfsData:
        root = self.mounted.inodes.entry(pyfuse3.ROOT_INODE)
        with self.mounted.requests.constant(STATFS, pid=ctx.pid):
            used, available = await self.mounted.catalog.usage(root)
        stat = pyfuse3.StatvfsData()
        stat.f_bsize = stat.f_frsize = BLOCK_BYTES
        stat.f_blocks = (used + available) // BLOCK_BYTES
        stat.f_bfree = stat.f_bavail = available // BLOCK_BYTES
        stat.f_namemax = 255
        return stat

    async def readlink(self, inode: InodeT, ctx: RequestContext) -> FileNameT:
        raise BadArgument("there are no symbolic links")

    # Directories.

    async def opendir(self, inode: InodeT, ctx: RequestContext) -> FileHandleT:
        with self.mounted.requests.request(inode, ctx.pid, OPENDIR) as request:
            entry = await self.mounted.entry(inode)
            fh = self.mounted.directories.open(inode, entry, request.number)
        return pyfuse3.FileHandleT(fh)

    async def readdir(self, fh: FileHandleT, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        directory, names = self.mounted.directories.directory(fh), list[bytes]()
        try:
            with self.mounted.requests.constant(READDIRPLUS, fh):
                first = await directory.index(start_id)
                for index in itertools.count(first):
                    item = await directory.listing.item(index)
                    offset = directory.offset(index + 1)
                    if item is None or not await self._add(token, item, offset):
                        break
                    names.append(item[0])
        except Missing as exc:
            # The C library takes ENOENT for the end of a directory, and a mirror would take what
            # is gone with its pool for deleted.
            raise Gone(str(exc.strerror)) from exc
        self.mounted.directories.answered(fh, start_id, first, names)

    async def _add(
        self, token: pyfuse3.ReaddirToken, item: tuple[bytes, Entry], offset: int
    ) -> bool:
        """Add *item* of a directory to the answer; return whether it had room there."""
        name, entry = item
        entry = await self.mounted.told(entry)
        attr = self.mounted.attributes(entry, self.mounted.inodes.number(entry.key))
        if not pyfuse3.readdir_reply(token, pyfuse3.FileNameT(name), attr, offset):
            return False
        self.mounted.inodes.remember(entry)
        return True

    async def releasedir(self, fh: FileHandleT) -> None:
        self.mounted.directories.release(fh)

    async def fsyncdir(self, fh: FileHandleT, datasync: bool) -> None:
        return None

    # Extended attributes. Never ENOSYS: the kernel would turn the request off for the mount.

    async def getxattr(self, inode: InodeT, name: XAttrNameT, ctx: RequestContext) -> bytes:
        with self.mounted.requests.constant(GETXATTR, inode, ctx.pid):
            entry = await self.mounted.entry(inode)
            if name == ATTRIBUTE:
                return await self.mounted.reports.report(entry)
            return await self.mounted.xattrs.value(entry, name)

    async def listxattr(self, inode: InodeT, ctx: RequestContext) -> Sequence[XAttrNameT]:
        with self.mounted.requests.constant(LISTXATTR, inode, ctx.pid):
            names = await self.mounted.xattrs.names(await self.mounted.entry(inode))
        return [pyfuse3.XAttrNameT(name) for name in names]

    async def setxattr(
        self, inode: InodeT, name: XAttrNameT, value: bytes, ctx: RequestContext
    ) -> None:
        entry = await self.mounted.entry(inode)
        check_user_attribute(entry, name)
        self.mounted.check_managed()
        await settled(self.mounted.handles, entry)
        await self.mounted.xattrs.set(entry, name, value)
        trail.leave(ctx, f"set {ascii(os.fsdecode(name))} of {entry.spec}")

    async def removexattr(self, inode: InodeT, name: XAttrNameT, ctx: RequestContext) -> None:
        entry = await self.mounted.entry(inode)
        check_user_attribute(entry, name)
        self.mounted.check_managed()
        await settled(self.mounted.handles, entry)
        await self.mounted.xattrs.remove(entry, name)
        trail.leave(ctx, f"removed {ascii(os.fsdecode(name))} of {entry.spec}")
