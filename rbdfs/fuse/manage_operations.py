"""Operations that make, remove and rename. What they raise, operations.py answers.

A server may die after it has made a change and before the kernel has its answer. The kernel sends
the request again, and the next server has to find out what was done: see begun_requests.py.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, NoReturn

import pyfuse3

from rbdfs.ceph.unfinished_changes import made_by
from rbdfs.errors import InUse, Missing, NotPermitted
from rbdfs.files.interplay import released, settled, trimmed
from rbdfs.fuse import trail
from rbdfs.fuse.begun_requests import CREATE, LINK, MKDIR, RENAME, RENAME2, RMDIR, UNLINK

if TYPE_CHECKING:
    from pyfuse3 import FileNameT, FlagT, InodeT, ModeT, RequestContext

    from rbdfs.fuse.begun_requests import BegunRequest
    from rbdfs.fuse.mounted import Mounted
    from rbdfs.model.entry import Entry


class ManageOperations(pyfuse3.Operations):
    """What `-o manage` allows, and is EPERM without it."""

    mounted: Mounted

    async def create(
        self, parent_inode: InodeT, name: FileNameT, mode: ModeT, flags: FlagT, ctx: RequestContext
    ) -> tuple[pyfuse3.FileInfo, pyfuse3.EntryAttributes]:
        inodes = self.mounted.inodes
        self.mounted.check_managed()
        with self.mounted.requests.request(parent_inode, ctx.pid, CREATE) as request:
            opened = await self.mounted.handles.opened_by(request.number)
            if opened is not None:
                # Nothing may fail before open(), which closes it then.
                entry = opened.entry
            else:
                parent = await self.mounted.entry(parent_inode)
                entry = await self._create(request, parent, name)
            inode = inodes.remember(entry)
            try:
                info = await self.mounted.open(inode, flags & ~os.O_TRUNC, request=request.number)
            except BaseException:
                inodes.forget(inode, 1)
                raise
        trail.leave(ctx, f"made {entry.spec}")
        return info, self.mounted.attributes(entry, inode)

    async def _create(self, request: BegunRequest, parent: Entry, name: bytes) -> Entry:
        if (made := await self._made_image(request, parent, name)) is not None:
            return made
        await self._clear_made(request, parent, name)
        return await self.mounted.check_managed().create(parent, name, request.begin)

    async def mkdir(
        self, parent_inode: InodeT, name: FileNameT, mode: ModeT, ctx: RequestContext
    ) -> pyfuse3.EntryAttributes:
        management, inodes = self.mounted.check_managed(), self.mounted.inodes
        with self.mounted.requests.request(parent_inode, ctx.pid, MKDIR) as request:
            parent = await self.mounted.entry(parent_inode)
            entry = await self._made(request, parent, name)
            if entry is None:
                entry = await management.make_namespace(parent, name, request.begin)
        trail.leave(ctx, f"made namespace {entry.spec}")
        return self.mounted.attributes(entry, inodes.remember(entry))

    async def link(
        self, inode: InodeT, new_parent_inode: InodeT, new_name: FileNameT, ctx: RequestContext
    ) -> pyfuse3.EntryAttributes:
        management, inodes = self.mounted.check_managed(), self.mounted.inodes
        with self.mounted.requests.request(new_parent_inode, ctx.pid, LINK) as request:
            parent = await self.mounted.entry(new_parent_inode)
            source = await self.mounted.entry(inode)
            # Nothing tells whose snapshot it is.
            made = self._made_image if source.is_snapshot else self._made
            entry = await made(request, parent, new_name)
            if source.is_snapshot:
                entry = await self._clone(request, source, parent, new_name, entry)
            elif entry is None:
                # A snapshot of what another client lets grow has its room.
                with contextlib.suppress(InUse):
                    await self._finish(source)
                async with trimmed(self.mounted.handles, source):
                    entry = await management.snapshot(source, parent, new_name, request.begin)
        trail.leave(ctx, f"made {entry.spec} of {source.spec}")
        return self.mounted.attributes(entry, inodes.remember(entry))

    async def _clone(
        self,
        request: BegunRequest,
        snap: Entry,
        parent: Entry,
        name: FileNameT,
        made: Entry | None,
    ) -> Entry:
        clones = self.mounted.clones
        if clones is None:
            raise NotPermitted(f"cloning {snap.spec}: not on this mount")
        if made is not None:
            await clones.check_made(made, snap)
            return made
        await self._clear_made(request, parent, name)
        # The snapshot may be protected for it, which with journaling takes the lock of its image.
        await settled(self.mounted.handles, snap)
        return await clones.clone(snap, parent, name, request.begin)

    async def unlink(self, parent_inode: InodeT, name: FileNameT, ctx: RequestContext) -> None:
        management, mounted = self.mounted.check_managed(), self.mounted
        with mounted.requests.request(parent_inode, ctx.pid, UNLINK) as request:
            parent = await mounted.entry(parent_inode)
            entry = await self._left(request, parent, name)
            if entry is not None:
                await settled(mounted.handles, entry)
                async with released(mounted.handles, entry):
                    request.begin(entry)
                    await management.unlink(entry)
        trail.leave(ctx, f"removed {_spec(entry, parent, name)}")

    async def rmdir(self, parent_inode: InodeT, name: FileNameT, ctx: RequestContext) -> None:
        management, mounted = self.mounted.check_managed(), self.mounted
        with mounted.requests.request(parent_inode, ctx.pid, RMDIR) as request:
            parent = await mounted.entry(parent_inode)
            entry = await self._left(request, parent, name)
            if entry is not None:
                request.begin(entry)
                await management.remove_namespace(entry)
        trail.leave(ctx, f"removed namespace {_spec(entry, parent, name)}")

    async def rename(
        self,
        parent_inode_old: InodeT,
        name_old: FileNameT,
        parent_inode_new: InodeT,
        name_new: FileNameT,
        flags: FlagT,
        ctx: RequestContext,
    ) -> None:
        management, mounted = self.mounted.check_managed(), self.mounted
        with mounted.requests.request(parent_inode_old, ctx.pid, RENAME, RENAME2) as request:
            old_parent = await mounted.entry(parent_inode_old)
            parent, moved = await mounted.entry(parent_inode_new), False
            try:
                entry = await self._left(request, old_parent, name_old)
            except Missing:
                # A server that is gone has begun a move and did not say.
                if mounted.moves is None:
                    raise
                inheritance, entry = mounted.moves.inheritance, None
                moved = await inheritance.was_made(old_parent, name_old, parent, name_new)
                if not moved:
                    # It may have been undone meanwhile.
                    entry = await self._left(request, old_parent, name_old)
            if entry is not None:
                async with management.trash.left(request.replaced):
                    await self._clear_renamed(request, parent, name_new)
                    await self._rename(request, entry, parent, name_new, flags)
            elif not moved:
                await self._clear_renamed(request, old_parent, name_old)
        old, new = _spec(entry, old_parent, name_old), _spec(None, parent, name_new)
        trail.leave(ctx, f"renamed {old} to {new}")

    async def _rename(
        self, request: BegunRequest, entry: Entry, parent: Entry, name: FileNameT, flags: FlagT
    ) -> None:
        management, mounted = self.mounted.check_managed(), self.mounted
        await settled(mounted.handles, entry)
        target = await management.destination(entry, parent, name, flags)
        if target is None:
            replaced = await management.replaced_by(entry, parent, name, flags)
            async with contextlib.AsyncExitStack() as stack:
                if replaced is not None:
                    await settled(mounted.handles, replaced)
                    await stack.enter_async_context(released(mounted.handles, replaced))
                request.begin(entry, replaced)
                renamed = await management.rename(entry, parent, name, flags, replaced)
            mounted.inodes.rename(renamed.image_key, renamed.image)
        elif mounted.moves is not None:
            # At its new place nobody knows the mark.
            await self._finish(entry)
            # The keeper is told of a move by itself, and the next server ends it.
            await mounted.moves.move(entry, target)

    async def _finish(self, entry: Entry) -> None:
        """Give the image of *entry* the length of its file, if that grew when its host crashed."""
        if self.mounted.unfinished is not None:
            await self.mounted.unfinished.finish_one(entry)

    async def mknod(
        self, parent_inode: InodeT, name: FileNameT, mode: ModeT, rdev: int, ctx: RequestContext
    ) -> NoReturn:
        self.mounted.check_managed()
        raise NotPermitted("images are made with open(2)")

    async def symlink(
        self, parent_inode: InodeT, name: FileNameT, target: FileNameT, ctx: RequestContext
    ) -> NoReturn:
        self.mounted.check_managed()
        raise NotPermitted("there are no symbolic links")

    async def _clear_made(self, request: BegunRequest, parent: Entry, name: FileNameT) -> None:
        """Remove what is left of *name* by a server that died while it made it for *request*."""
        if request.left is not None:
            half_made = self.mounted.check_managed().half_made
            await half_made.clear_made(parent, name, request.client)

    async def _clear_renamed(self, request: BegunRequest, parent: Entry, name: FileNameT) -> None:
        """Remove *name* where a server died while it renamed an image to it, or from it."""
        if request.entry is not None and request.entry.is_image:
            half_made = self.mounted.check_managed().half_made
            await half_made.clear_renamed(parent, name, request.entry)

    async def _made(self, request: BegunRequest, parent: Entry, name: FileNameT) -> Entry | None:
        """Return what a server that is gone has made for *request*; None where that is to do."""
        if request.left is None:
            return None
        try:
            return await self.mounted.catalog.find(parent, name)
        except Missing:
            return None

    async def _made_image(
        self, request: BegunRequest, parent: Entry, name: FileNameT
    ) -> Entry | None:
        """Return what _made() does; None for what somebody else has made meanwhile."""
        made = await self._made(request, parent, name)
        if made is None or made.image_id is None or not made_by(made.image_id, request.client):
            return None
        return made

    async def _left(self, request: BegunRequest, parent: Entry, name: FileNameT) -> Entry | None:
        """Return what *request* is to remove or rename; None where a server that is gone did it."""
        try:
            entry = await self.mounted.catalog.find(parent, name)
        except Missing:
            if request.left is None:
                raise
            return None
        return entry if request.was_of(entry.key) else None


def _spec(entry: Entry | None, parent: Entry, name: bytes) -> str:
    """Return what the log calls *entry*; None is what has, or had, *name* in *parent*."""
    # The spec of a directory ends with a slash.
    return f"{parent.spec}{ascii(os.fsdecode(name))[1:-1]}" if entry is None else entry.spec
