"""The open-file table: file handles, and the librbd images that they share."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import trio

from rbdfs.errors import failure
from rbdfs.files.claim import Claims
from rbdfs.files.growth import unmarked
from rbdfs.files.handle import Handle, Use
from rbdfs.files.keeping import fresh_numbers
from rbdfs.files.lost_images import LostImages, failure_of, tell
from rbdfs.files.open_files import OpenFiles
from rbdfs.files.relocations import Relocations
from rbdfs.files.reopening import Latecomers, Reopenings
from rbdfs.files.shared_image import SharedImage
from rbdfs.files.timestamps import Timestamps

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from rbdfs.files.data_path import DataPath
    from rbdfs.files.growth import Mark
    from rbdfs.files.keeping import Keeping, OpenFile
    from rbdfs.files.reopening import Checks, Failed
    from rbdfs.metadata.lineage import Lineages
    from rbdfs.model.entry import Entry, Key
    from rbdfs.model.relocation import Relocation


class HandleTable:
    """Open files by file handle, and the images under them by key."""

    def __init__(
        self,
        data_path: DataPath,
        keeping: Keeping,
        lineages: Lineages | None = None,
        timestamps: Timestamps | None = None,
        outdated: Callable[[Entry], None] = lambda _entry: None,
        mark: Mark = unmarked,
        *,
        lock_mode: int | None,
    ) -> None:
        """*outdated* is called when what the header told of an image may be old."""
        self.claims = Claims(data_path.opener, keeping, lock_mode=lock_mode)
        self._lineages, self._mark = lineages, mark
        self._timestamps, self._outdated = timestamps or Timestamps(None), outdated
        self._data_path, self._keeping = data_path, keeping
        self._handles, self._numbers = OpenFiles(), fresh_numbers()
        self._shared: dict[Key, SharedImage] = {}
        self._reopenings, self.late = Reopenings(self._reopened), Latecomers()
        self.lost, self.relocations = LostImages(self.claims), Relocations()

    def __getitem__(self, fh: int) -> Handle:
        """Return the open file *fh*; raise OSError EBADF where there is none."""
        return self._handles[fh]

    def __len__(self) -> int:
        return len(self._handles)

    def __iter__(self) -> Iterator[Handle]:
        return iter(self._handles)

    def sharing(self, shared: SharedImage) -> list[Handle]:
        """Return the open files of *shared*."""
        return self._handles.sharing(shared)

    def images(self) -> list[SharedImage]:
        """Return the images that are open."""
        return list(self._shared.values())

    def shared(self, entry: Entry) -> SharedImage | None:
        """Return the image of *entry*, if files are open on it."""
        return self._shared.get(entry.whole_key)

    def length(self, entry: Entry) -> int | None:
        """Return how long the file of *entry* is, if its image is open: what I/O is clamped to."""
        shared = self._shared.get(entry.whole_key)
        if shared is None or entry.key.partition:
            return None
        return self._reopenings.length(shared)

    async def ready(self, fh: int) -> Handle:
        """Return the open file *fh* once its image is open, or known to be lost; as [] does."""
        await self.late.wait(fh)
        handle = self[fh]
        await self._reopenings.over(handle.shared)
        return handle

    async def open(
        self,
        entry: Entry,
        inode: int,
        *,
        writable: bool,
        sync: bool = False,
        direct_io: bool = False,
        request: int = 0,
    ) -> Handle:
        """Open a file on *entry*, opening or upgrading its image where that is needed.

        Of one that is *sync* each write is flushed. Without *direct_io* the kernel's page cache is
        used where it can be trusted. *request* is the kernel's number of this.

        Raises OSError: EROFS where the client may not write, EBUSY where the image is in use by
        another client, or by a partition of it or the whole of it; otherwise librbd's errno.
        """
        entry, use, shared = await self._acquire(entry, writable=writable)
        handle = Handle(next(self._numbers), inode, entry, shared, use, self._keeping.grown)
        handle.sync, handle.request = sync, request
        handle.direct_io = direct_io or not handle.trusted
        self._handles.add(handle)
        # Before the kernel hears of it: what it knows, a successor has to know.
        self._keeping.opened(handle)
        self._data_path.serve(handle)
        return handle

    async def opened_by(self, request: int) -> Handle | None:
        """Return the file that this request has opened already, if any; it may not be ready().

        Its server was gone before its answer. Whoever gets it releases it, or tells the kernel.
        """
        await self.late.wait_for_opened(request)
        return self._handles.opened_by(request)

    def abandon(self, request: int) -> None:
        """Have the next server close what this request has opened, if anything."""
        if (handle := self._handles.opened_by(request)) is not None:
            handle.abandoned = True
            self._keeping.opened(handle)

    def restore(self, left: OpenFile, error: OSError | None) -> None:
        """Have a file open as it was *left* by another server, under its old number.

        Its image is opened by reopen(). One for which *error* is given is lost: it answers every
        request with that error, until it is closed.
        """
        entry, use = left.entry, Use.of(left.entry, writable=left.writable)
        # Until it is open, or lost, the keeper knows of it what was *left*.
        if left.error is not None:
            error = failure(left.error, f"{entry.spec} was lost to the server before")
        shared = (None if error else self.shared(entry)) or self._new_shared(entry)
        shared.expect(use)
        handle = Handle.restored(left, shared, use, self._keeping.grown)
        self._handles.add(handle)
        if error is None:
            self._shared[entry.whole_key] = shared
            self._reopenings.add(handle, left.length)
        else:
            # What was lost before, the server before has told.
            shared.told = left.error is not None or self.lost.has(entry.whole_key, error)
            self.lose(shared, error)

    async def reopen(self, nursery: trio.Nursery, checks: Checks) -> None:
        """Have *nursery* open the images of the restored files; requests wait by ready().

        The files of an image that does not pass the *checks* are lost.
        """
        await self._reopenings.run(nursery, checks)

    async def _reopened(
        self, shared: SharedImage, error: OSError | None, failed: list[Failed]
    ) -> None:
        if error is not None:
            self.lose(shared, error)
            return
        # Before the data path hears that the image is open.
        lost = [use for some in failed for use in self._lose_some(some)]
        self.lost.reopened(shared)
        self._timestamps.suspect(shared)
        self._changed(shared)
        if lost:
            await self._put(shared, *lost)

    def _lose_some(self, failed: Failed) -> list[Use]:
        """Have files be lost, and no other of their image; return how they used that."""
        lost = self._new_shared(failed.handles[0].entry)
        uses = self._handles.move(failed.handles, lost)
        if uses:
            self.lose(lost, failed.error)
        return uses

    def lose(self, shared: SharedImage, error: OSError) -> None:
        """Refuse all that is asked of the files of *shared*, until they are opened anew."""
        tell(shared, error)
        # Whoever opens the file from now on has nothing to do with it.
        if self._shared.get(shared.entry.whole_key) is shared:
            del self._shared[shared.entry.whole_key]
        for handle in self.sharing(shared):
            # So that close(2) says it too.
            handle.dirty = handle.writable
        self.lost.add(shared)
        shared.fail(error)

    def _new_shared(self, entry: Entry) -> SharedImage:
        shares = (self.claims, entry.whole, self._lineages, self._mark)
        return SharedImage(*shares, changed=self._changed)

    async def release(self, fh: int) -> Handle:
        """Close file *fh*, and its image if it was the last; return what was closed."""
        await self.late.wait(fh)
        handle = self[fh]
        await self._close([handle])
        return handle

    async def _close(self, handles: list[Handle]) -> None:
        """Close files of one image, and it with the last one."""
        for handle in handles:
            self._data_path.forget(handle)
            self._handles.remove(handle)
        # Whoever gives up waiting must not leave the image open, of which nobody would know.
        with trio.CancelScope(shield=True):
            shared = handles[0].shared
            await self._put(shared, *(handle.use for handle in handles))
            if shared.growth is not None:
                # What they have made it longer by is on record with them alone.
                for handle in self.sharing(shared):
                    self._keeping.opened(handle)
            for handle in handles:
                self._keeping.released(handle.fh)

    @contextlib.asynccontextmanager
    async def borrowed(self, entry: Entry, *, writable: bool) -> AsyncIterator[SharedImage]:
        """Open the image of *entry*, as open() does, for one operation without a file."""
        _, use, shared = await self._acquire(entry, writable=writable)
        try:
            yield shared
        finally:
            with trio.CancelScope(shield=True):
                await self._put(shared, use)

    def relocate(self, relocation: Relocation) -> None:
        """Have the open files of a quiesced image be open where it has gone, or come back to."""
        for key, shared in list(self._shared.items()):
            if key._replace(snap_id=0) == relocation.source:
                shared.entry = relocation.follow(shared.entry)
                self._shared[shared.entry.whole_key] = self._shared.pop(key)
        for handle in self:
            if relocation.covers(handle.entry):
                handle.entry = relocation.follow(handle.entry)
                self._keeping.opened(handle)
        self.relocations.add(relocation)

    async def close(self) -> None:
        """Flush and close everything that is open, all images at once: the end of the mount."""
        async with trio.open_nursery() as nursery:
            for shared in self._handles.images():
                nursery.start_soon(self._close_all, shared)

    async def _close_all(self, shared: SharedImage) -> None:
        for handle in self.sharing(shared):
            await self.late.wait(handle.fh)
        # At once: a task for each of 18,000 files on an image took Trio half a second.
        if handles := self.sharing(shared):
            await self._close(handles)

    async def close_lost(self, entry: Entry) -> None:
        """Return when the image of *entry* that was lost, or is found to be, is closed."""
        if (known := self.shared(entry)) and (error := failure_of(known)):
            self.lose(known, error)
        await self.lost.closed(entry.whole_key)

    async def _acquire(self, entry: Entry, *, writable: bool) -> tuple[Entry, Use, SharedImage]:
        # Before it is found by others: who is cancelled would take it from those who wait as well.
        entry = await self.relocations.where_once(entry, self.close_lost)
        use = Use.of(entry, writable=writable)
        shared = self._shared.setdefault(entry.whole_key, self._new_shared(entry))
        try:
            await shared.acquire(use)
        except BaseException:
            self._drop_unused(shared)
            raise
        return entry, use, shared

    async def _put(self, shared: SharedImage, *uses: Use) -> None:
        if any(use is not Use.READ for use in uses):
            # Nobody does it later. Where the cluster does not answer, closing waits for it as well.
            await self._timestamps.catch_up(shared, patience_s=float("inf"))
        await shared.put(*uses)
        self._drop_unused(shared)

    def _changed(self, shared: SharedImage) -> None:
        if shared in self._reopenings:
            return
        self._timestamps.opened(shared)
        # When nobody has it open any more, its size is asked of the header again.
        self._outdated(shared.entry)
        for handle in self.sharing(shared):
            self._keeping.opened(handle)
            self._data_path.serve(handle)

    def _drop_unused(self, shared: SharedImage) -> None:
        if shared.unused and not shared.leaving:
            self.lost.forget(shared)
            if self._shared.get(shared.entry.whole_key) is shared:
                del self._shared[shared.entry.whole_key]
