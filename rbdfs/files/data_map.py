"""Where an open image holds data, for SEEK_DATA and SEEK_HOLE: learnt when somebody asks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from rbdfs.model.extents import ExtentMap

if TYPE_CHECKING:
    from rbdfs.ceph.image import Image
    from rbdfs.model.entry import Entry


class DataMap:
    """What is known of the data of one image or snapshot.

    Attributes:
        learning: taken by whoever calls extents(), so that one task learns at a time.
    """

    def __init__(self) -> None:
        self.learning = trio.Lock()
        self._extents: ExtentMap | None = None
        # The image that they are of, how large it was, and Image.changes before they were learnt.
        self._extents_of: tuple[Image, int, int] | None = None

    async def extents(self, image: Image, entry: Entry) -> ExtentMap | None:
        """Return where *image*, open as *entry*, holds data; None where nobody can tell for sure.

        A snapshot's is learnt once, an image's while nobody else can write to it, and again
        when something was written since. Raises OSError.
        """
        if not (entry.is_snapshot or image.lock_held):
            return None
        # Before the diff: what is complete after this is not in it, or may not be.
        state = (image, image.size, 0 if entry.is_snapshot else image.changes)
        if self._extents is None or self._extents_of != state:
            extents = await image.extents()
            if extents is None:
                return None
            self._extents = ExtentMap(state[1], extents, granule=1 << entry.order)
            self._extents_of = state
        return self._extents
