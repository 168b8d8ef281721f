"""Operations on open files. What they raise, operations.py answers."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

import pyfuse3
import trio

from rbdfs.errors import BadArgument, NoSpace, NotOpen, NotSupported
from rbdfs.files.holes import seek_in_data
from rbdfs.fuse import trail
from rbdfs.fuse.begun_requests import OPEN, unmarked
from rbdfs.kernel.extra_requests import (
    FALLOC_FL_KEEP_SIZE,
    FALLOC_FL_PUNCH_HOLE,
    FALLOC_FL_ZERO_RANGE,
    FH_DIRECT,
)

if TYPE_CHECKING:
    from pyfuse3 import FileHandleT, FlagT, InodeT, RequestContext

    from rbdfs.files.handle import Handle
    from rbdfs.fuse.mounted import Mounted

log = logging.getLogger(__name__)


class FileOperations(pyfuse3.Operations):
    """open, read, write, fsync, flush, release; and what pyfuse3 does not know."""

    mounted: Mounted

    async def open(self, inode: InodeT, flags: FlagT, ctx: RequestContext) -> pyfuse3.FileInfo:
        with self.mounted.requests.request(inode, ctx.pid, OPEN) as request:
            info = await self.mounted.open(inode, flags, request=request.number)
        if flags & os.O_TRUNC and self.mounted.management is not None:
            trail.leave(ctx, f"emptied {self.mounted.handles[info.fh].entry.spec}")
        return info

    async def read(self, fh: FileHandleT, off: int, size: int) -> bytes:
        return await (await self.mounted.handles.ready(fh)).read(off, size)

    async def write(self, fh: FileHandleT, off: int, buf: bytes) -> int:
        return await self._write(fh, off, buf)

    async def _write(self, fh: FileHandleT, off: int, buf: bytes) -> int:
        handle = await self.mounted.handles.ready(fh & ~FH_DIRECT)
        if not handle.writable:
            raise NotOpen(f"{handle.entry.spec} is not open for writing")
        if fh & FH_DIRECT and handle.direct_io is False and handle.crosses_end(off, len(buf)):
            # O_DIRECT came after the open, and so the kernel would make EIO of a short write. This
            # is what a disk says to direct I/O that does not fit: shred goes on without it.
            raise BadArgument(f"{handle.entry.spec}: write {off}~{len(buf)} crosses the end")
        return await handle.write(off, buf)

    async def fsync(self, fh: FileHandleT, datasync: bool) -> None:
        await self._flush(fh)

    async def _flush(self, fh: FileHandleT) -> None:
        handle = await self.mounted.handles.ready(fh)
        if self.mounted.options.cache == "unsafe":
            await handle.check()
        else:
            await handle.flush()

    async def flush(self, fh: FileHandleT) -> None:
        await self.mounted.handles.late.wait(fh)
        handle = self.mounted.handles[fh]
        # One that has nothing to flush has nothing to wait for.
        if handle.dirty:
            await self.mounted.handles.ready(fh)
        await handle.closing()
        if not handle.writable:
            await self.mounted.freshness.confirm(handle)

    async def write_durably(self, fh: FileHandleT, off: int, buf: bytes) -> int:
        """Write as write() does, and flush: O_DSYNC of one request alone; for the data path."""
        written = await self._write(fh, off, buf)
        await self._flush(pyfuse3.FileHandleT(fh & ~FH_DIRECT))
        return written

    async def fallocate(self, fh: int, mode: int, off: int, length: int) -> None:
        """Punch, zero or reserve ``off~length``, as fallocate(2); for the data path.

        Raises OSError: EOPNOTSUPP for a mode that an image cannot do, and with -o notrim.
        """
        handle = await self.mounted.handles.ready(fh)
        if not handle.writable:
            raise NotOpen(f"{handle.entry.spec} is not open for writing")
        if mode & ~(FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE):
            raise NotSupported(f"fallocate mode {mode:#x}")
        zeroes = mode & (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE)
        if zeroes and not self.mounted.options.trim:
            raise NotSupported("the mount was made with -o notrim")
        await handle.check()
        if handle.growing:
            if not mode & FALLOC_FL_KEEP_SIZE:
                await handle.extend(off + length)
        elif off + length > handle.length and not (zeroes and mode & FALLOC_FL_KEEP_SIZE):
            # Images are thin: there is nothing to reserve, and their size is not changed so.
            raise NoSpace(f"{handle.entry.spec}: {off}~{length} is past the end")
        if zeroes:
            await handle.write_zeroes(off, length)

    async def lseek(self, fh: int, off: int, whence: int) -> int:
        """Return where data or a hole begins at or after *off*, as lseek(2); for the data path.

        Raises OSError ENXIO at or past the end, and for SEEK_DATA where only a hole follows.
        """
        handle = await self.mounted.handles.ready(fh)
        await handle.check()
        if whence not in (os.SEEK_DATA, os.SEEK_HOLE):
            raise BadArgument(f"lseek whence {whence}")
        if not await self._write_back(handle):
            return seek_in_data(handle, off, whence)
        if whence == os.SEEK_DATA:
            return await self.mounted.holes.seek_data(handle, off)
        return await self.mounted.holes.seek_hole(handle, off)

    async def copy_file_range(
        self, fh_in: int, off_in: int, fh_out: int, off_out: int, length: int
    ) -> int:
        """Copy between two open files, as copy_file_range(2); return the bytes copied.

        Less than was asked for is normal: the caller goes on from there. For the data path.
        """
        source = await self.mounted.handles.ready(fh_in)
        target = await self.mounted.handles.ready(fh_out)
        if not target.writable:
            raise NotOpen(f"{target.entry.spec} is not open for writing")
        await source.check()
        await target.check()
        if not await self._write_back(source):
            # The kernel does it by itself then, from its pages.
            raise NotSupported(f"{source.entry.spec}: another server is to go on")
        return await self.mounted.copies.copy_range(source, off_in, target, off_out, length)

    async def _write_back(self, handle: Handle) -> bool:
        """Have the kernel write back what mmap(2) has made dirty in the image that *handle* is on.

        It does not so before it asks for holes, nor for what copy_file_range(2) copies. Returns
        False where it is not asked, as another server is to go on.
        """
        sharing = self.mounted.handles.sharing(handle.shared)
        if any(each.writable and not each.direct_io for each in sharing):
            return await self.mounted.pages.write_back(handle.entry)
        return True

    async def close_refused(self, unique: int) -> None:
        """Close what a server that is gone has opened for a request that is refused now.

        *unique* is the kernel's number of it. The kernel hears of no file handle, and so would
        never release it. For the data path.
        """
        directory = self.mounted.directories.opened_by(unmarked(unique))
        if directory is not None:
            self.mounted.directories.release(directory)
        handle = await self.mounted.handles.opened_by(unmarked(unique))
        if handle is not None:
            # Also when its caller is killed meanwhile.
            with trio.CancelScope(shield=True):
                await self.mounted.close_abandoned(handle.fh)

    async def abandon(self, unique: int) -> None:
        """Have nothing be left open by request *unique*, of which its caller never hears.

        What it has opened is closed; until then the keeper knows that the next server has to do
        it, which nobody would ask. For the data path.
        """
        directory = self.mounted.directories.opened_by(unmarked(unique))
        if directory is not None:
            self.mounted.directories.release(directory)
        self.mounted.handles.abandon(unmarked(unique))

    async def release(self, fh: FileHandleT) -> None:
        try:
            handle = await self.mounted.handles.release(fh)
        except NotOpen as exc:
            # A server that is gone has closed it, and the kernel asks again.
            log.debug("release: %s", exc)
            return
        self.mounted.inodes.released(handle.inode)
        if handle.writable:
            # Sizes and partition tables may be others now.
            self.mounted.catalog.changed(handle.entry)
