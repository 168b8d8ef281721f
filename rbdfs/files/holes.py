"""Where open files hold data, for SEEK_DATA and SEEK_HOLE: found out when somebody asks.

What is called a hole was one after the call: nothing that was acknowledged before it, to whoever,
is taken for zeros. So nothing is kept of an image that can be written: each call reads the part of
the object map that it needs, and the header before and after that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import trio

from rbdfs.errors import PastEnd
from rbdfs.metadata.data_finder import Data
from rbdfs.model.extents import ExtentMap

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from typing import TypeVar

    from rbdfs.ceph.image import Image
    from rbdfs.files.handle import Handle
    from rbdfs.files.shared_image import SharedImage
    from rbdfs.metadata.data_finder import DataFinder

    T = TypeVar("T")


class _Learnt:
    """What librbd has told of one open image."""

    def __init__(self) -> None:
        # One task learns at a time.
        self.learning = trio.Lock()
        self._extents: ExtentMap | None = None
        # The image that they are of, how large it was, and Image.changes before they were learnt.
        self._extents_of: tuple[Image, int, int] | None = None

    async def extents(self, image: Image, shared: SharedImage) -> ExtentMap | None:
        """Return where *image* holds data, learnt again when something was written since.

        None where librbd cannot tell quickly. Raises OSError.
        """
        entry = shared.entry
        async with self.learning:
            # Before the diff: what is complete after this is not in it, or may not be.
            state = (image, image.size, 0 if entry.is_snapshot else image.changes)
            if self._extents is None or self._extents_of != state:
                extents = await image.extents()
                if extents is None:
                    return None
                self._extents = ExtentMap(state[1], extents, granule=1 << entry.order)
                self._extents_of = state
            return self._extents


class Holes:
    """Finds data and holes of open files."""

    def __init__(self, finder: DataFinder) -> None:
        self._finder = finder
        self._learnt: WeakKeyDictionary[SharedImage, _Learnt] = WeakKeyDictionary()

    async def seek_data(self, handle: Handle, off: int) -> int:
        """Return the first offset at or after *off* with data; raise OSError ENXIO if none."""
        found = await self._seek(handle, off, Data.seek_data)
        if found is None:
            return off
        if found >= handle.length:
            raise PastEnd(f"{handle.entry.spec}: no data from {off}")
        return found

    async def seek_hole(self, handle: Handle, off: int) -> int:
        """Return the first offset at or after *off* in a hole; the end of the file is one."""
        found = await self._seek(handle, off, Data.seek_hole)
        return handle.length if found is None else min(found, handle.length)

    async def data_within(self, handle: Handle, off: int, length: int) -> list[tuple[int, int]]:
        """Return ``(start, end)`` of all that may be data in ``off~length``, in order."""
        begin = handle.entry.offset
        found = await self._find(handle, lambda data: data.within(begin + off, length))
        if found is None:
            return [(off, off + length)]
        return [(start - begin, end - begin) for start, end in found]

    async def _seek(
        self, handle: Handle, off: int, seek: Callable[[Data, int], Awaitable[int]]
    ) -> int | None:
        if off >= handle.length:
            raise PastEnd(f"{handle.entry.spec}: seek to {off} is past the end")
        begin = handle.entry.offset
        found = await self._find(handle, lambda data: seek(data, begin + off))
        return None if found is None else found - begin

    async def _find(self, handle: Handle, find: Callable[[Data], Awaitable[T]]) -> T | None:
        """Return what *find* finds in the image under *handle*; None where all may be data."""

        async def find_inside(data: Data) -> T | None:
            # An image that has grown may have data where the map ends.
            if data.size < handle.entry.offset + handle.length:
                return None
            return await find(data)

        shared, extents = handle.shared, None
        async with shared.using() as image:
            if shared.entry.is_snapshot:
                extents = await self._finder.snapshot(shared.entry)
            # What librbd keeps of acknowledged writes the object map does not know yet.
            elif not image.volatile:
                found = await self._finder.head(shared.entry, find_inside)
                if found is not None:
                    return found
            if extents is None and (shared.entry.is_snapshot or image.lock_held):
                extents = await self._learnt.setdefault(shared, _Learnt()).extents(image, shared)
            return None if extents is None else await find_inside(Data.known(extents))
