"""One mount, for its operations: how files are opened (EROFS, O_TRUNC, page cache)."""

from __future__ import annotations

import contextlib
import logging
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pyfuse3
import trio

from rbdfs.errors import Fenced, Gone, InUse, Missing, NotOpen, NotPermitted, ReadOnly
from rbdfs.files.freshness import Freshness
from rbdfs.files.reopening import Failed
from rbdfs.fuse import resizing
from rbdfs.fuse.copy_range import RangeCopies
from rbdfs.fuse.page_cache import PageCache
from rbdfs.fuse.stat import entry_attributes
from rbdfs.model.metering import Metering

if TYPE_CHECKING:
    from rbdfs.ceph.image import Image
    from rbdfs.config.mount_options import MountOptions
    from rbdfs.files.handle import Handle
    from rbdfs.files.holes import Holes
    from rbdfs.files.shared_image import SharedImage
    from rbdfs.files.table import HandleTable
    from rbdfs.files.timestamps import Timestamps
    from rbdfs.files.unfinished import UnfinishedFiles
    from rbdfs.fuse.begun_requests import BegunRequests
    from rbdfs.fuse.directory_handles import OpenDirectories
    from rbdfs.fuse.file_reports import FileReports
    from rbdfs.fuse.inherited_inodes import InheritedInodes
    from rbdfs.metadata.lineage import Lineages
    from rbdfs.metadata.stamps import HeaderStamps
    from rbdfs.model.entry import Entry, Key
    from rbdfs.model.inode_table import InodeTable
    from rbdfs.moves.moves import Moves
    from rbdfs.names.catalog import Catalog
    from rbdfs.names.clones import Clones
    from rbdfs.names.manage import Management
    from rbdfs.names.xattrs import Xattrs

log = logging.getLogger(__name__)

# How often a size is asked for that changes as fast as it is read.
_LOOKS = 3
# What a QEMU copy-on-write image of version 2 or 3 begins with.
_QCOW2 = b"QFI\xfb"


@dataclass(slots=True)
class Mounted:
    """One mount.

    Attributes:
        reports: what `rbdfs stat` is told.
        requests: those that must not run twice.
        stamps: writes owners and modes.
        holes: finds data and holes of what is open.
        management: makes, removes and renames; None unless the mount was asked to.
        clones: makes those; None as management.
        moves: takes images to other pools; None as management.
        unfinished: gives files their lengths that grew when their host crashed; None as management.
        inherited: finds inodes that the kernel knows from another server; None without one.
        metering: counts what is asked of files.
        closing: set while the mount is being ended: nothing is opened any more.
        freshness: looks after what is open.
        warned: images of which was said that a crash may lose writes to them.
        copies: copies between files of the mount.
        pages: the kernel's page cache.
    """

    options: MountOptions
    inodes: InodeTable
    catalog: Catalog
    handles: HandleTable
    directories: OpenDirectories
    xattrs: Xattrs
    reports: FileReports
    lineages: Lineages
    requests: BegunRequests
    stamps: HeaderStamps
    timestamps: Timestamps
    holes: Holes
    management: Management | None = None
    clones: Clones | None = None
    moves: Moves | None = None
    unfinished: UnfinishedFiles | None = None
    inherited: InheritedInodes | None = None
    metering: Metering = field(default_factory=Metering.unread)
    closing: bool = False
    freshness: Freshness = field(init=False)
    copies: RangeCopies = field(init=False)
    pages: PageCache = field(init=False)
    warned: set[Key] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.pages = PageCache(self.inodes)
        self.freshness = Freshness(
            self.catalog, self.lineages, self.handles, self.pages.drop, self.timestamps
        )
        self.copies = RangeCopies(self.holes)

    async def entry(self, inode: int) -> Entry:
        """Return what *inode* stands for; raise OSError ESTALE where nothing does (any more)."""
        if self.inherited is None:
            return self.inodes.entry(inode)
        return await self.inherited.entry(inode)

    async def told(self, entry: Entry) -> Entry:
        """Return *entry*, looked at again if it does not tell yet of what was written here.

        What was read while a file grew would have the kernel believe in the size of its image
        after its last close.
        """
        shared = self.handles.shared(entry)
        if shared is None:
            return await self._latest(entry)
        if self.timestamps.behind(shared):
            await self.timestamps.catch_up(shared)
            with contextlib.suppress(Gone):
                entry = await self.catalog.current(entry, known=True)
        return entry

    async def _latest(self, entry: Entry) -> Entry:
        with contextlib.suppress(Gone):
            for _ in range(_LOOKS):
                if self.catalog.is_latest(entry):
                    break
                entry = await self.catalog.current(entry, known=True)
        return entry

    def attributes(self, entry: Entry, inode: int) -> pyfuse3.EntryAttributes:
        """Return what the kernel is told of *entry*.

        It drops the pages of a file whose size changes: of an open file it is told the size that
        reads and writes are clamped to, and no other.
        """
        return entry_attributes(entry, inode, self.options, self.handles.length(entry))

    def check_writable(self, entry: Entry) -> None:
        """Raise OSError EROFS for a snapshot, and for everything in a read-only mount."""
        if entry.is_snapshot or self.options.read_only:
            raise ReadOnly(f"{entry.spec} is read-only")

    def check_managed(self) -> Management:
        """Return what makes, removes and renames; raise OSError EPERM where nothing may."""
        if self.options.read_only:
            raise ReadOnly("the mount is read-only")
        if self.management is None:
            raise NotPermitted("the mount was not made with -o manage")
        return self.management

    async def open(self, inode: int, flags: int, *, request: int = 0) -> pyfuse3.FileInfo:
        """Open the file of *inode* as open(2) *flags* say; return what the kernel is told.

        What *request*, the kernel's number of it, has opened already is not opened again.
        """
        if self.closing:
            raise Fenced("the mount is being ended")
        handle = await self.handles.opened_by(request)
        if handle is None:
            handle = await self._open(inode, flags, request)
        try:
            await self.handles.ready(handle.fh)
            await self._check_place(handle)
            if flags & os.O_TRUNC:
                await resizing.set_length(self, handle.entry, 0, handle)
            if handle.writable and not handle.entry.key.partition:
                await self.let_grow(handle.shared)
            async with handle.shared.using() as image:
                self._warn_of_cache(handle.entry, image)
                return self._file_info(handle, flags)
        except BaseException:
            # The kernel hears of no file handle, and so would never release it.
            with trio.CancelScope(shield=True):
                await self.close_abandoned(handle.fh)
            raise

    async def _open(self, inode: int, flags: int, request: int) -> Handle:
        entry = await self.entry(inode)
        writable = flags & os.O_ACCMODE != os.O_RDONLY
        if writable or flags & os.O_TRUNC:
            self.check_writable(entry)
        if flags & os.O_TRUNC:
            await resizing.check_emptying(self, entry)
        if (writable or flags & os.O_TRUNC) and self.unfinished is not None:
            await self.unfinished.finish_one(entry)
        await self._check_copied(entry)
        sync = bool(flags & os.O_DSYNC)
        handle = await self.handles.open(
            entry,
            inode,
            writable=writable,
            sync=sync,
            direct_io=self._direct_io(flags),
            request=request,
        )
        self.inodes.opened(inode, entry)
        return handle

    async def _check_place(self, handle: Handle) -> None:
        """Raise OSError ESTALE for a partition that was moved: open(2) looks it up anew then.

        Not before it is open: until then somebody may change the table.
        """
        if (tables := self.catalog.partition_tables) is None:
            return
        async with handle.shared.using() as image:
            try:
                await tables.check_place(handle.entry, image)
            except Gone:
                # For who opens it by another way than its name.
                with contextlib.suppress(OSError):
                    self.inodes.refresh(await self.catalog.current(handle.entry))
                raise

    async def check_places(self, handles: list[Handle]) -> list[Failed]:
        """Return those of one image's *handles* that are to write to a partition that was moved."""
        by_place: dict[tuple[Key, int, int], list[Handle]] = {}
        for handle in handles:
            if handle.writable:
                entry = handle.entry
                by_place.setdefault((entry.key, entry.offset, entry.size), []).append(handle)
        failed = []
        for some in by_place.values():
            try:
                await self._check_place(some[0])
            except Missing:
                # The image is gone, and not a partition of it.
                raise
            except OSError as exc:
                failed.append(Failed(some, exc))
        return failed

    async def let_grow(self, shared: SharedImage) -> None:
        """Let a file grow as it is written that is empty, or whose format needs it.

        Only in a managed mount, where `touch` and `cp` make files; else nothing grows by accident.
        An empty one is new to whoever opens it. qemu-img writes a qcow2 in several opens.
        """
        if self.management is None or shared.growth is not None:
            return
        async with shared.using() as image:
            if image.size and await image.read(0, len(_QCOW2)) != _QCOW2:
                return
        shared.start_growth()

    async def _check_copied(self, entry: Entry) -> None:
        """Raise OSError EBUSY for what librbd would not read right, until a move is over."""
        # A move of this mount's own is waited for.
        entry = await self.handles.relocations.where(entry)
        if not (await self.lineages.of(entry)).copied:
            raise InUse(f"{entry.spec}, or what it was cloned from, is being moved")

    def _warn_of_cache(self, entry: Entry, image: Image) -> None:
        """Say once where librbd keeps writes in memory against the options of the mount."""
        if image.read_only or not image.volatile or self.options.volatile:
            return
        if entry.image_key not in self.warned:
            self.warned.add(entry.image_key)
            log.warning(
                "%s: a crash of rbdfs may lose acknowledged writes: the image or its pool has"
                " rbd_cache or rbd_plugins set (rbd config image ls, rbd config pool ls)",
                entry.spec,
            )

    def _file_info(self, handle: Handle, flags: int) -> pyfuse3.FileInfo:
        # As it is by now, also of one that a server before this has opened, and not answered.
        handle.direct_io = self._direct_io(flags) or not handle.trusted
        return pyfuse3.FileInfo(
            fh=pyfuse3.FileHandleT(handle.fh),
            direct_io=handle.direct_io,
            keep_cache=handle.entry.is_snapshot,
        )

    async def close_abandoned(self, fh: int) -> None:
        """Close a file of which the kernel knows nothing: its open has failed."""
        try:
            # Its image, opened again, takes the lock of the server that is gone, and gives it up.
            await self.handles.ready(fh)
            handle = await self.handles.release(fh)
        except NotOpen:
            log.debug("the end of the mount has closed file %d", fh)
        except OSError:
            log.exception("a file that nobody has open stays open")
        else:
            self.inodes.released(handle.inode)

    def _direct_io(self, flags: int) -> bool:
        # For O_DIRECT, too: its writes go in parallel then, and one across the end is short.
        return self.options.direct_io or bool(flags & os.O_DIRECT)
