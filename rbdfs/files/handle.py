"""One open file: an image, a snapshot, or a partition of one."""

from __future__ import annotations

import contextlib
import enum
from typing import TYPE_CHECKING

from rbdfs.errors import NoSpace
from rbdfs.files.keeping import OpenFile

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rbdfs.ceph.image import Image
    from rbdfs.files.growth import Growth
    from rbdfs.files.shared_image import SharedImage
    from rbdfs.model.entry import Entry


class Use(enum.Enum):
    """What a user of an image may do with it."""

    READ = enum.auto()
    WRITE_WHOLE = enum.auto()
    WRITE_PARTITION = enum.auto()

    @classmethod
    def of(cls, entry: Entry, *, writable: bool) -> Use:
        """Return how a file on *entry* uses the image."""
        if not writable:
            return cls.READ
        return cls.WRITE_PARTITION if entry.key.partition else cls.WRITE_WHOLE


class Handle:
    """One open file: an image, a snapshot, or a partition of one.

    Attributes:
        fh: the number that the kernel knows it by.
        inode: the inode that it was opened by.
        entry: what was opened, as it was then.
        shared: the open image under it.
        grown: called with `fh` and the length when a write has made the file longer.
        sync: whether each write is flushed, as O_DSYNC wants it; the kernel leaves that to us
            where it does not use its page cache.
        direct_io: whether the kernel was told to use no page cache for this file; None where that
            is not known, of one that a server of an older version has opened.
        dirty: written to since its last flush.
        request: the kernel's number of the request that opened it, or 0 where nobody counts.
        abandoned: whether its caller never heard of it, so that nobody will ask for its end.
        doubt: why what was read by it may be wrong, if it may: for close(2) to tell.
    """

    def __init__(
        self,
        fh: int,
        inode: int,
        entry: Entry,
        shared: SharedImage,
        use: Use,
        grown: Callable[[int, int], None],
    ) -> None:
        self.fh = fh
        self.inode = inode
        self.entry = entry
        self.shared = shared
        self.use = use
        self.grown = grown
        self.sync = False
        self.direct_io: bool | None = None
        self.dirty = False
        self.request = 0
        self.abandoned = False
        self.doubt: OSError | None = None

    @classmethod
    def restored(
        cls, left: OpenFile, shared: SharedImage, use: Use, grown: Callable[[int, int], None]
    ) -> Handle:
        """Return the file that another server has *left*."""
        handle = cls(left.fh, left.inode, left.entry, shared, use, grown)
        handle.sync, handle.direct_io, handle.abandoned = left.sync, left.direct_io, left.abandoned
        # Should the request be sent again, it is to open a file that its caller hears of.
        handle.request = 0 if left.abandoned else left.request
        # A file that grew has room at its end to give back; what else was acknowledged is there.
        handle.dirty = left.length is not None
        return handle

    def left(self) -> OpenFile:
        """Return what another server needs to open this file again."""
        growth, error = self.shared.growth, self.shared.error
        return OpenFile(
            fh=self.fh,
            inode=self.inode,
            entry=self.entry,
            writable=self.writable,
            sync=self.sync,
            length=None if growth is None else growth.length,
            error=None if error is None else error.errno,
            volatile=None if self.shared.image is None else self.shared.image.volatile,
            request=self.request,
            direct_io=self.direct_io,
            abandoned=self.abandoned,
        )

    @property
    def writable(self) -> bool:
        return self.use is not Use.READ

    @property
    def trusted(self) -> bool:
        """Whether pages that the kernel has of this file stay true.

        Those of a snapshot do for ever; those of an image while nobody else can write to it, and
        not across opens: somebody may have, in between.
        """
        locked = self.shared.image is not None and self.shared.image.lock_held
        alone = self.writable and locked and not self.entry.key.partition
        return self.entry.is_snapshot or alone

    @property
    def growing(self) -> bool:
        """Whether writes past the end make the file longer."""
        return self.shared.growth is not None

    @property
    def length(self) -> int:
        """Bytes that the file has now."""
        if self.entry.key.partition:
            return min(self.entry.size, max(0, self.shared.length - self.entry.offset))
        return self.shared.length

    async def read(self, off: int, size: int) -> bytes:
        """Read as Image.read() does, up to the end of the file."""
        async with self.shared.using() as image:
            return await image.read(self.entry.offset + off, min(size, self.length - off))

    async def check(self) -> None:
        """Return when requests to the file go on; raise OSError where it is lost."""
        async with self.shared.using():
            pass

    def crosses_end(self, off: int, size: int) -> bool:
        """Tell whether a write of ``off~size`` would be short."""
        return not self.growing and off < self.length < off + size

    async def write(self, off: int, data: bytes) -> int:
        """Write as Image.write() does, and remember that there is something to flush."""
        written = await self._write(off, data)
        if self.sync:
            await self.flush()
        return written

    async def _write(self, off: int, data: bytes) -> int:
        async with self.shared.using() as image:
            return await self._write_to(image, off, data)

    async def _write_to(self, image: Image, off: int, data: bytes) -> int:
        # Before the write: a flush that runs beside it must not take the mark for its own.
        self.dirty = True
        growth = self.shared.growth
        if growth is not None:
            with self._telling(growth):
                async with growth.written_up_to(image, off + len(data)):
                    return await image.write(off, data)
        room = self.length - off
        if room <= 0:
            # As a block device does. librbd would report success for what straddles the end.
            raise NoSpace(f"{self.entry.spec}: write {off}~{len(data)}: past the end")
        return await image.write(self.entry.offset + off, data[:room])

    @contextlib.contextmanager
    def _telling(self, growth: Growth) -> Iterator[None]:
        """Have a successor know by how much the context makes a file longer.

        It is on record before whoever asked for it is answered.
        """
        before = growth.length
        yield
        if growth.length != before:
            self.grown(self.fh, growth.length)

    async def extend(self, end: int) -> None:
        """Make a file that grows at least *end* bytes long; any other is what it is."""
        growth = self.shared.growth
        if growth is not None:
            async with self.shared.using() as image:
                with self._telling(growth):
                    await growth.extend(image, end)

    async def write_zeroes(self, off: int, length: int) -> None:
        """Make ``off~length`` read as zeros, as far as it lies inside the file."""
        async with self.shared.using() as image:
            self.dirty = True
            length = min(length, self.length - off)
            if length > 0:
                if self.shared.growth is not None:
                    await self.shared.growth.emptying(image, off + length)
                await image.write_zeroes(self.entry.offset + off, length)
        if self.sync:
            await self.flush()

    async def flush(self) -> None:
        """Flush what this handle may have written; raise OSError, and stay dirty, if that fails."""
        async with self.shared.using() as image:
            self.dirty = False
            try:
                await image.flush()
            except BaseException:
                self.dirty = True
                raise

    async def closing(self) -> None:
        """Do what close(2) shall report: flush what was written, trim what has grown."""
        # A file that is trimmed is the data path's from then on, and whether it is dirty as well.
        dirty = self.dirty
        if self.writable:
            await self.shared.trim()
        if dirty or self.dirty:
            await self.flush()
