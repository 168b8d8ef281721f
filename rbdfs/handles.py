"""The open-file table: file handles, and the librbd images that they share."""

from __future__ import annotations

import contextlib
import errno
import itertools
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import trio

from rbdfs.image import Image, open_image

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from rbdfs.cluster import Cluster
    from rbdfs.entries import Entry, Key

log = logging.getLogger(__name__)


@dataclass(slots=True)
class SharedImage:
    """One image or snapshot that files are open on.

    Attributes:
        entry: what is open, as it was at the first open.
        image: the open librbd image; it is replaced when a writer joins readers and when the
            last writer leaves them. Requests that run on the old one finish there.
        users, writers: file handles on it, and those of them that may write.
        changing: held while ``image`` is opened, replaced or closed, and by nobody else.
    """

    entry: Entry
    image: Image | None = None
    users: int = 0
    writers: int = 0
    changing: trio.Lock = field(default_factory=trio.Lock)


@dataclass(slots=True)
class Handle:
    """One open file.

    Attributes:
        dirty: written to since its last flush.
    """

    fh: int
    inode: int
    shared: SharedImage
    writable: bool
    dirty: bool = False

    @property
    def image(self) -> Image:
        """The open image; raises OSError EBADF once the handle is released."""
        if self.shared.image is None:
            raise OSError(errno.EBADF, f"{self.shared.entry.spec}: file is closed")
        return self.shared.image

    async def write(self, off: int, data: bytes) -> int:
        """Write as Image.write() does, and remember that there is something to flush."""
        # Before the write: a flush that runs beside it must not take the mark for its own.
        self.dirty = True
        return await self.image.write(off, data)

    async def flush(self) -> None:
        """Flush what this handle may have written; raise OSError, and stay dirty, if that fails."""
        self.dirty = False
        try:
            await self.image.flush()
        except BaseException:
            self.dirty = True
            raise


class HandleTable:
    """Open files by file handle, and the images under them by key."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._handles: dict[int, Handle] = {}
        self._shared: dict[Key, SharedImage] = {}
        self._numbers = itertools.count(1)

    def __getitem__(self, fh: int) -> Handle:
        """Return the open file *fh*; raise OSError EBADF where there is none."""
        try:
            return self._handles[fh]
        except KeyError:
            raise OSError(errno.EBADF, f"file handle {fh} is not open") from None

    def __len__(self) -> int:
        return len(self._handles)

    def image(self, key: Key) -> Image | None:
        """Return the open image of *key*, if files are open on it."""
        shared = self._shared.get(key)
        return None if shared is None else shared.image

    async def open(self, entry: Entry, inode: int, *, writable: bool) -> Handle:
        """Open a file on *entry*, opening or upgrading its image where that is needed.

        Raises OSError: EROFS where the client may not write, otherwise librbd's errno.
        """
        shared = await self._acquire(entry, writable=writable)
        handle = Handle(next(self._numbers), inode, shared, writable)
        self._handles[handle.fh] = handle
        return handle

    async def release(self, fh: int) -> Handle:
        """Close file *fh*, and its image if it was the last; return what was closed."""
        handle = self[fh]
        del self._handles[fh]
        await self._put(handle.shared, writable=handle.writable)
        return handle

    @contextlib.asynccontextmanager
    async def borrowed(self, entry: Entry, *, writable: bool) -> AsyncIterator[Image]:
        """Open the image of *entry*, as open() does, for one operation without a file."""
        shared = await self._acquire(entry, writable=writable)
        try:
            assert shared.image is not None
            yield shared.image
        finally:
            with trio.CancelScope(shield=True):
                await self._put(shared, writable=writable)

    async def close(self) -> None:
        """Flush and close everything that is open, all images at once. For the end of the mount."""
        async with trio.open_nursery() as nursery:
            for fh in list(self._handles):
                nursery.start_soon(self.release, fh)

    async def _acquire(self, entry: Entry, *, writable: bool) -> SharedImage:
        shared = self._shared.setdefault(entry.key, SharedImage(entry))
        shared.users += 1
        shared.writers += writable
        try:
            async with shared.changing:
                if shared.image is None or (writable and shared.image.read_only):
                    await self._reopen(shared, read_only=not writable)
        except BaseException:
            with trio.CancelScope(shield=True):
                await self._put(shared, writable=writable)
            raise
        return shared

    async def _put(self, shared: SharedImage, *, writable: bool) -> None:
        shared.users -= 1
        shared.writers -= writable
        async with shared.changing:
            if shared.users == 0:
                await self._close(shared)
            elif shared.writers == 0 and shared.image is not None and not shared.image.read_only:
                # Readers remain: give the watch and the lock up, as `rbd status` should tell.
                await self._reopen(shared, read_only=True)

    async def _close(self, shared: SharedImage) -> None:
        image, shared.image = shared.image, None
        if image is not None:
            await _close_image(image)
        # Somebody may be waiting to open it again: not before it is closed.
        if shared.users == 0:
            self._shared.pop(shared.entry.key, None)

    async def _reopen(self, shared: SharedImage, *, read_only: bool) -> None:
        entry = shared.entry
        ioctx = await self._cluster.ioctx(entry.pool, entry.namespace)
        try:
            image = await open_image(
                self._cluster.bridge,
                ioctx,
                entry.spec,
                name=entry.image if entry.image_id is None else None,
                image_id=entry.image_id,
                snap=entry.snap,
                read_only=read_only,
            )
        except OSError as exc:
            if not read_only and exc.errno in (errno.EPERM, errno.EACCES):
                raise OSError(errno.EROFS, f"{entry.spec}: no permission to write") from exc
            raise
        old, shared.image = shared.image, image
        if old is not None:
            await _close_image(old)


async def _close_image(image: Image) -> None:
    try:
        await image.close()
    except OSError:
        # close(2) has had its answer from FLUSH: nobody is left to tell.
        log.exception("closing %s failed", image.spec)
