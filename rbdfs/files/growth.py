"""Files that grow as they are written: images that were made or emptied through the mount."""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING

import trio

from rbdfs.errors import Outgrown
from rbdfs.model.growth_mark import GrowthMark

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    from rbdfs.ceph.image import Image
    from rbdfs.model.entry import Entry

    Mark = Callable[[Entry, Image, GrowthMark | None], Awaitable[None]]

log = logging.getLogger(__name__)

# A resize costs tens of milliseconds, and an image is thin: grow ahead, in steps that keep
# their number small for a large copy.
_FIRST_STEP = 64 << 20
_LAST_STEP = 64 << 30


async def unmarked(_entry: Entry, _image: Image, _mark: GrowthMark | None) -> None:
    """Mark nothing."""


class Growth:
    """The true length of a file whose image is larger, for as long as somebody writes it.

    *resized* is called when the image has another size, *mark* with what is known of the file
    before the image is longer than that, and with None when it is no more.

    Attributes:
        length: bytes, as a file system would have it: the end of the last write, or what
            truncate(2) said.
    """

    def __init__(
        self,
        size: int,
        length: int | None,
        resized: Callable[[], None],
        mark: Callable[[Image, GrowthMark | None], Awaitable[None]],
    ) -> None:
        """The image has *size* bytes, and as many as its file where that has no *length*."""
        self.length = size if length is None else length
        self._resized = resized
        self._mark = mark
        # Of one that another server let grow nobody here knows.
        self._marked = length is not None
        # What the mark says of the length; less than that where it is not known.
        self._covered = 0
        # Whether the image may have another size than it says, after a resize that has failed.
        self._unsure = False
        # Where the writes end that are under way: no resize may cut below them, for what librbd
        # has acknowledged up to there is the file's before written_up_to() has come to its end.
        self._ends: list[int] = []
        # Taken while the image is resized or the mark is written. What holds all the time is that
        # after a crash of the host the mark or the last byte of data tells the length.
        self._resizing = trio.Lock()

    @property
    def being_written(self) -> bool:
        """Whether a write is under way."""
        return bool(self._ends)

    def fits(self, image: Image) -> bool:
        """Tell whether *image* is known to be exactly as long as the file."""
        return not self._unsure and image.size == self.length

    @contextlib.asynccontextmanager
    async def written_up_to(self, image: Image, end: int) -> AsyncIterator[None]:
        """Have *image* at least *end* bytes long, for a write that the context makes.

        When the context ends without an exception the file is so long. Raises OSError where librbd
        cannot resize.
        """
        with self._ending(end):
            async with self._resizing:
                await self._make_room(image, end)
            yield
            self.length = max(self.length, end)

    async def extend(self, image: Image, end: int) -> None:
        """Make the file at least *end* bytes long, without data; raises as written_up_to()."""
        with self._ending(end):
            async with self._resizing:
                if end > self.length:
                    await self._make_room(image, end)
                    await self._cover(image, end)
                    self.length = max(self.length, end)

    async def emptying(self, image: Image, end: int) -> None:
        """Know that there may be no data any more before *end*: it tells no length then."""
        async with self._resizing:
            if end >= self.length:
                await self._settle(image)
                await self._cover(image, self.length)

    async def truncate(self, image: Image, length: int) -> None:
        """Make the file *length* bytes long, as ftruncate(2): what is cut off is gone for good."""
        async with self._resizing:
            await self._settle(image)
            if self._marked and length < self.length:
                # It may be one of the sizes in the mark that is there, with less than that.
                await self._set_mark(image, GrowthMark(self.length, image.size, length))
            await self._resize(image, length)
            self.length = min(self.length, length)
            try:
                if self._marked:
                    await self._set_mark(image, None)
                self.length = length
            finally:
                self._resized()

    async def trim(self, image: Image) -> None:
        """Give *image* the length of the file, or of what is being written if that is more."""
        async with self._resizing:
            await self._settle(image)
            length = max([self.length, *self._ends])
            if image.size != length:
                if length != self.length:
                    await self._set_mark(image, GrowthMark(self.length, image.size, length))
                await self._resize(image, length)
                self._resized()
            if self._marked and length == self.length:
                await self._set_mark(image, None)

    async def finish(self, image: Image) -> None:
        """Trim *image* when its last writer has left."""
        try:
            await self.trim(image)
        except OSError as exc:
            # close(2) has reported it already, if it could: trim() runs there first.
            log.error("%s keeps its size: %s", image.spec, exc)

    @contextlib.contextmanager
    def _ending(self, end: int) -> Iterator[None]:
        # Before the lock is waited for: a trim that holds it must not see less.
        self._ends.append(end)
        try:
            yield
        finally:
            self._ends.remove(end)

    async def _make_room(self, image: Image, end: int) -> None:
        await self._settle(image)
        if end > image.size:
            step = min(max(image.size, _FIRST_STEP), _LAST_STEP)
            room = max(end, image.size + step)
            await self._set_mark(image, GrowthMark(self.length, image.size, room))
            try:
                await self._resize(image, room)
            except Outgrown:
                # Another client has given it more than is wanted here.
                await self._settle(image)
            self._resized()

    async def _cover(self, image: Image, length: int) -> None:
        """Have the mark, if there is one, say that the file has *length* bytes."""
        if self._marked and self._covered < length:
            await self._set_mark(image, GrowthMark(length, image.size, image.size))

    async def _set_mark(self, image: Image, mark: GrowthMark | None) -> None:
        # What fails may be done all the same.
        self._marked, self._covered = True, 0
        await self._mark(image, mark)
        if mark is None:
            self._marked = False
        else:
            self._covered = mark.length

    async def _resize(self, image: Image, size: int) -> None:
        self._unsure = True
        await image.resize(size, shrink=size < image.size)
        self._unsure = False

    async def _settle(self, image: Image) -> None:
        # Others may have what has failed here, and let it grow: size and mark are theirs.
        image.check()
        if self._unsure:
            await image.refresh()
            self._unsure = False
