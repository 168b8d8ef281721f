"""Where open files hold data, for SEEK_DATA and SEEK_HOLE: found out when somebody asks.

What is called a hole was one after the call: nothing that was acknowledged before it, to whoever,
is taken for zeros. So each call reads the part of the object map that it needs, and the header
before and after that. What was read is kept for the calls that follow only where nobody can have
written since: this mount has the lock, and has completed no change.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import trio

from rbdfs.errors import PastEnd
from rbdfs.metadata.data_finder import Data
from rbdfs.metadata.map_search import NotRead
from rbdfs.model.extents import ExtentMap

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from typing import TypeVar

    from rbdfs.ceph.image import Image
    from rbdfs.files.handle import Handle
    from rbdfs.files.shared_image import SharedImage
    from rbdfs.metadata.data_finder import DataFinder

    T = TypeVar("T")
    _State = tuple[Image, int, int]


class _Kept:
    """Data of an image, as it was in one state of that."""

    def __init__(self) -> None:
        self._data: Data | None = None
        # The image that it is of, how large it was, and Image.changes before it was learnt.
        self._data_of: _State | None = None

    def recall(self, state: _State) -> Data | None:
        """Return what was kept in this *state* of the image."""
        return self._data if self._data_of == state else None

    def keep(self, state: _State, data: Data) -> None:
        data.seal()
        self._data, self._data_of = data, state


class _Learnt:
    """What is known of the data of one open image.

    Attributes:
        part: what was read of its object map.
        whole: what librbd has told of it.
    """

    def __init__(self) -> None:
        self.part, self.whole = _Kept(), _Kept()
        # One task learns at a time.
        self.learning = trio.Lock()

    async def extents(self, image: Image, state: _State, granule: int) -> Data | None:
        """Return what librbd tells of *image*, or has told of it in this *state*.

        None where librbd cannot tell quickly. Raises OSError.
        """
        async with self.learning:
            data = self.whole.recall(state)
            if data is None:
                extents = await image.extents()
                if extents is None:
                    return None
                data = Data.known(ExtentMap(state[1], extents, granule=granule))
                self.whole.keep(state, data)
            return data


def _state_of(image: Image, *, fixed: bool) -> _State:
    # What is complete after this is not in what is learnt after it, or may not be.
    return image, image.size, 0 if fixed else image.changes


def seek_in_data(handle: Handle, off: int, whence: int) -> int:
    """Return what a seek finds in a file of which nobody can tell but that all may be data."""
    if off >= handle.length:
        raise PastEnd(f"{handle.entry.spec}: seek to {off} is past the end")
    return off if whence == os.SEEK_DATA else handle.length


class Holes:
    """Finds data and holes of open files.

    Attributes:
        finder: finds those of images and snapshots.
    """

    def __init__(self, finder: DataFinder) -> None:
        self.finder = finder
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
            asked.append(data)
            # An image that has grown may have data where the map ends.
            if data.size < handle.entry.offset + handle.length:
                return None
            return await find(data)

        asked: list[Data] = []
        shared = handle.shared
        async with shared.using() as image:
            entry, learnt = shared.entry, self._learnt.setdefault(shared, _Learnt())
            state = _state_of(image, fixed=entry.is_snapshot)
            unshared = entry.is_snapshot or image.lock_held
            for kept in (learnt.whole, learnt.part) if unshared else ():
                if (known := kept.recall(state)) is not None:
                    with contextlib.suppress(NotRead):
                        return await find_inside(known)
            if entry.is_snapshot:
                extents = await self.finder.snapshot(entry)
                if extents is not None:
                    return await find_inside(Data.known(extents))
            # What librbd keeps of acknowledged writes the object map does not know yet.
            elif not image.volatile:
                found = await self.finder.head(entry, find_inside)
                if found is not None:
                    if unshared:
                        learnt.part.keep(state, asked[-1])
                    return found
            # Of an image that is open for writing, librbd's diff takes the lock where it is free:
            # it is asked only where that is ours.
            data = await learnt.extents(image, state, 1 << entry.order) if unshared else None
            return None if data is None else await find_inside(data)
