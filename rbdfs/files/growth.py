"""Files that grow as they are written: images that were made or emptied through the mount."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from rbdfs.ceph.image import Image

# A resize costs tens of milliseconds, and an image is thin: grow ahead, in steps that keep
# their number small for a large copy.
_FIRST_STEP = 64 << 20
_LAST_STEP = 64 << 30


class Growth:
    """The true length of a file whose image is larger, for as long as somebody writes it.

    Attributes:
        length: bytes, as a file system would have it: the end of the last write, or what
            truncate(2) said.
    """

    def __init__(self, image: Image, length: int) -> None:
        self.length = length
        self._image = image
        self._resizing = trio.Lock()

    @property
    def exact(self) -> bool:
        """Whether the image is exactly as long as the file."""
        return self.length == self._image.size

    async def reserve(self, end: int) -> None:
        """Make the image at least *end* bytes long; raise OSError where librbd cannot."""
        if end <= self._image.size:
            return
        async with self._resizing:
            if end > self._image.size:
                step = min(max(self._image.size, _FIRST_STEP), _LAST_STEP)
                await self._image.resize(max(end, self._image.size + step))

    def written(self, end: int) -> None:
        """Note that a write up to *end* has succeeded."""
        self.length = max(self.length, end)

    async def truncate(self, length: int) -> None:
        """Make the file *length* bytes long, as ftruncate(2): what is cut off is gone for good."""
        async with self._resizing:
            await self._image.resize(length)
            self.length = length

    async def trim(self) -> None:
        """Give the image the length of the file."""
        async with self._resizing:
            if self._image.size != self.length:
                await self._image.resize(self.length)
