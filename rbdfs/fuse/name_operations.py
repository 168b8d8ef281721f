"""Operations on names, attributes and directories. What they raise, operations.py answers."""

from __future__ import annotations

import errno
import itertools
import os
from typing import TYPE_CHECKING, NoReturn

import pyfuse3

from rbdfs.fuse.stat import BLOCK_BYTES, file_mode

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyfuse3 import FileHandleT, FileNameT, FlagT, InodeT, ModeT, RequestContext, XAttrNameT

    from rbdfs.fuse.mounted import Served


class NameOperations(pyfuse3.Operations):
    """Everything about a file but its content."""

    served: Served

    async def lookup(
        self, parent_inode: InodeT, name: FileNameT, ctx: RequestContext
    ) -> pyfuse3.EntryAttributes:
        served = self.served
        entry = await served.catalog.find(await served.entry(parent_inode), name)
        return served.attributes(entry, served.inodes.remember(entry))

    async def forget(self, inode_list: Sequence[tuple[InodeT, int]]) -> None:
        for inode, count in inode_list:
            self.served.inodes.forget(inode, count)

    async def getattr(self, inode: InodeT, ctx: RequestContext) -> pyfuse3.EntryAttributes:
        entry = await self.served.catalog.current(await self.served.entry(inode))
        self.served.inodes.refresh(entry)
        return self.served.attributes(entry, inode)

    async def setattr(
        self,
        inode: InodeT,
        attr: pyfuse3.EntryAttributes,
        fields: pyfuse3.SetattrFields,
        fh: FileHandleT | None,
        ctx: RequestContext,
    ) -> pyfuse3.EntryAttributes:
        entry = await self.served.catalog.current(await self.served.entry(inode))
        known = self.served.attributes(entry, inode)
        if (
            (fields.update_mode and attr.st_mode != known.st_mode)
            or (fields.update_uid and attr.st_uid != known.st_uid)
            or (fields.update_gid and attr.st_gid != known.st_gid)
        ):
            raise OSError(errno.EPERM, "modes and owners are options of the mount")
        # Times are the cluster's: cp -p and touch succeed, and change nothing.
        if not fields.update_size or attr.st_size == known.st_size:
            return known
        await self.served.set_length(entry, attr.st_size)
        return await self.getattr(inode, ctx)

    async def access(self, inode: InodeT, mode: ModeT, ctx: RequestContext) -> bool:
        entry = await self.served.entry(inode)
        if mode & os.W_OK:
            self.served.check_writable(entry)
        return not (mode & os.X_OK) or bool(file_mode(entry, self.served.options) & 0o111)

    async def statfs(self, ctx: RequestContext) -> pyfuse3.StatvfsData:
        root = self.served.inodes.entry(pyfuse3.ROOT_INODE)
        used, available = await self.served.catalog.usage(root)
        stat = pyfuse3.StatvfsData()
        stat.f_bsize = stat.f_frsize = BLOCK_BYTES
        stat.f_blocks = (used + available) // BLOCK_BYTES
        stat.f_bfree = stat.f_bavail = available // BLOCK_BYTES
        stat.f_namemax = 255
        return stat

    async def readlink(self, inode: InodeT, ctx: RequestContext) -> FileNameT:
        raise OSError(errno.EINVAL, "there are no symbolic links")

    # Directories.

    async def opendir(self, inode: InodeT, ctx: RequestContext) -> FileHandleT:
        entry = await self.served.entry(inode)
        return pyfuse3.FileHandleT(self.served.directories.open(inode, entry))

    async def readdir(self, fh: FileHandleT, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        listing, inodes = self.served.directories.listing(fh), self.served.inodes
        if start_id == 0:
            listing.rewind()
        for index in itertools.count(start_id):
            try:
                item = await listing.item(index)
            except FileNotFoundError as exc:
                # The C library takes ENOENT for the end of a directory, and a mirror would take
                # what is gone with its pool for deleted.
                raise OSError(errno.ESTALE, str(exc)) from exc
            if item is None:
                return
            name, entry = item
            attr = self.served.attributes(entry, inodes.number(entry.key))
            if not pyfuse3.readdir_reply(token, pyfuse3.FileNameT(name), attr, index + 1):
                return
            inodes.remember(entry)

    async def releasedir(self, fh: FileHandleT) -> None:
        self.served.directories.release(fh)

    async def fsyncdir(self, fh: FileHandleT, datasync: bool) -> None:
        return None

    # Extended attributes. Never ENOSYS: the kernel would turn the request off for the mount.

    async def getxattr(self, inode: InodeT, name: XAttrNameT, ctx: RequestContext) -> bytes:
        return await self.served.xattrs.value(await self.served.entry(inode), name)

    async def listxattr(self, inode: InodeT, ctx: RequestContext) -> Sequence[XAttrNameT]:
        names = await self.served.xattrs.names(await self.served.entry(inode))
        return [pyfuse3.XAttrNameT(name) for name in names]

    async def setxattr(
        self, inode: InodeT, name: XAttrNameT, value: bytes, ctx: RequestContext
    ) -> None:
        self.served.check_managed()
        await self.served.xattrs.set(await self.served.entry(inode), name, value)

    async def removexattr(self, inode: InodeT, name: XAttrNameT, ctx: RequestContext) -> None:
        self.served.check_managed()
        await self.served.xattrs.remove(await self.served.entry(inode), name)

    # What makes, removes and renames.

    async def create(
        self, parent_inode: InodeT, name: FileNameT, mode: ModeT, flags: FlagT, ctx: RequestContext
    ) -> tuple[pyfuse3.FileInfo, pyfuse3.EntryAttributes]:
        administration, inodes = self.served.check_managed(), self.served.inodes
        entry = await administration.create(await self.served.entry(parent_inode), name)
        inode = inodes.remember(entry)
        try:
            info = await self.served.open(inode, flags, created=True)
        except BaseException:
            inodes.forget(inode, 1)
            raise
        return info, self.served.attributes(entry, inode)

    async def mkdir(
        self, parent_inode: InodeT, name: FileNameT, mode: ModeT, ctx: RequestContext
    ) -> pyfuse3.EntryAttributes:
        administration, inodes = self.served.check_managed(), self.served.inodes
        entry = await administration.make_namespace(await self.served.entry(parent_inode), name)
        return self.served.attributes(entry, inodes.remember(entry))

    async def link(
        self, inode: InodeT, new_parent_inode: InodeT, new_name: FileNameT, ctx: RequestContext
    ) -> pyfuse3.EntryAttributes:
        administration, inodes = self.served.check_managed(), self.served.inodes
        parent = await self.served.entry(new_parent_inode)
        entry = await administration.snapshot(await self.served.entry(inode), parent, new_name)
        return self.served.attributes(entry, inodes.remember(entry))

    async def unlink(self, parent_inode: InodeT, name: FileNameT, ctx: RequestContext) -> None:
        administration, served = self.served.check_managed(), self.served
        entry = await served.catalog.find(await served.entry(parent_inode), name)
        await served.handles.settled(entry)
        await administration.unlink(entry)

    async def rmdir(self, parent_inode: InodeT, name: FileNameT, ctx: RequestContext) -> None:
        administration, served = self.served.check_managed(), self.served
        entry = await served.catalog.find(await served.entry(parent_inode), name)
        await administration.remove_namespace(entry)

    async def rename(
        self,
        parent_inode_old: InodeT,
        name_old: FileNameT,
        parent_inode_new: InodeT,
        name_new: FileNameT,
        flags: FlagT,
        ctx: RequestContext,
    ) -> None:
        administration, served = self.served.check_managed(), self.served
        old_parent = await served.entry(parent_inode_old)
        parent = await served.entry(parent_inode_new)
        assert served.moves is not None
        try:
            entry = await served.catalog.find(old_parent, name_old)
        except FileNotFoundError:
            # The kernel asks again for what a server that is gone did, and did not say.
            if served.moves.was_made(old_parent, name_old, parent, name_new):
                return
            raise
        await served.handles.settled(entry)
        target = await administration.destination(entry, parent, name_new, flags)
        if target is None:
            await administration.rename(entry, parent, name_new, flags)
        else:
            await served.moves.move(entry, target)

    async def mknod(
        self, parent_inode: InodeT, name: FileNameT, mode: ModeT, rdev: int, ctx: RequestContext
    ) -> NoReturn:
        self.served.check_managed()
        raise OSError(errno.EPERM, "images are made with open(2)")

    async def symlink(
        self, parent_inode: InodeT, name: FileNameT, target: FileNameT, ctx: RequestContext
    ) -> NoReturn:
        self.served.check_managed()
        raise OSError(errno.EPERM, "there are no symbolic links")
