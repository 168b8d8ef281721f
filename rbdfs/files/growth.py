"""Files that grow as they are written: images that were made or emptied through the mount."""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING

import trio

from rbdfs.model.growth_mark import GrowthMark

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from rbdfs.ceph.image import Image
    from rbdfs.model.entry import Entry

    Mark = Callable[[Entry, GrowthMark | None], Awaitable[None]]

log = logging.getLogger(__name__)

# A resize costs tens of milliseconds, and an image is thin: grow ahead, in steps that keep
# their number small for a large copy.
_FIRST_STEP = 64 << 20
_LAST_STEP = 64 << 30


async def unmarked(_entry: Entry, _mark: GrowthMark | None) -> None:
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
        mark: Callable[[GrowthMark | None], Awaitable[None]],
    ) -> None:
        """The image has *size* bytes, and as many as its file where that has no *length*."""
        self.length = size if length is None else length
        self._resized = resized
        self._mark = mark
        # Of one that another server let grow nobody here knows.
        self._marked = length is not None
        # Where the writes end that are under way: no resize may cut below them, for what librbd
        # has acknowledged up to there is the file's before written_up_to() has come to its end.
        self._ends: list[int] = []
        self._resizing = trio.Lock()

    @property
    def being_written(self) -> bool:
        """Whether a write is under way."""
        return bool(self._ends)

    @contextlib.asynccontextmanager
    async def written_up_to(self, image: Image, end: int) -> AsyncIterator[None]:
        """Have *image* at least *end* bytes long, for a write that the context makes.

        When the context ends without an exception the file is so long. Raises OSError where librbd
        cannot resize.
        """
        # Before the lock is waited for: a trim that holds it must not see less.
        self._ends.append(end)
        try:
            async with self._resizing:
                if end > image.size:
                    step = min(max(image.size, _FIRST_STEP), _LAST_STEP)
                    room = max(end, image.size + step)
                    await self._mark(GrowthMark(self.length, image.size, room))
                    self._marked = True
                    await self._resize(image, room)
            yield
            self.length = max(self.length, end)
        finally:
            self._ends.remove(end)

    async def truncate(self, image: Image, length: int) -> None:
        """Make the file *length* bytes long, as ftruncate(2): what is cut off is gone for good."""
        async with self._resizing:
            await image.resize(length)
            self.length = length
            self._resized()

    async def trim(self, image: Image) -> None:
        """Give *image* the length of the file, or of what is being written if that is more."""
        async with self._resizing:
            length = max([self.length, *self._ends])
            if image.size != length:
                await self._resize(image, length)
            if self._marked and length == self.length:
                await self._mark(None)
                self._marked = False

    async def finish(self, image: Image) -> None:
        """Trim *image* when its last writer has left."""
        try:
            await self.trim(image)
        except OSError as exc:
            # close(2) has reported it already, if it could: trim() runs there first.
            log.error("%s keeps its size: %s", image.spec, exc)

    async def _resize(self, image: Image, size: int) -> None:
        await image.resize(size)
        self._resized()
