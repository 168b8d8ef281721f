"""When images were modified: in the cluster before anybody is told the times of a file.

librbd stamps an image at most once a minute, at the first write after that: what is written in the
rest of the minute no time tells of, and a backup that goes by times leaves it out for good. So an
image that was written to here since its last stamp is stamped, with the clock of its OSD, before
its times are told here, when a writer closes it, and within a second in any case, for others.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Protocol
from weakref import WeakKeyDictionary

import trio

if TYPE_CHECKING:
    from rbdfs.ceph.image import Image
    from rbdfs.files.shared_image import SharedImage
    from rbdfs.model.entry import Entry

log = logging.getLogger(__name__)

# How long whoever asks for the times waits for the stamp; then it is told what is known.
_PATIENCE_S = 0.5


class Stamps(Protocol):
    """Who can set the modification time of an image."""

    async def stamp(self, entry: Entry) -> None:
        """Have the header of the image of *entry* say that it was modified now; raise OSError.

        May be cancelled, and then does it all the same, or not.
        """


class Timestamps:
    """Knows which open images were written to since they were stamped; without *stamps*, none."""

    def __init__(self, stamps: Stamps | None) -> None:
        self._stamps = stamps
        # What is open for writing, and its Image.changes as of the last stamp: an image that was
        # just opened has none.
        self._stamped: WeakKeyDictionary[SharedImage, tuple[Image, int]] = WeakKeyDictionary()
        self._turns: WeakKeyDictionary[SharedImage, trio.Lock] = WeakKeyDictionary()

    def opened(self, shared: SharedImage) -> None:
        """Know the image of *shared* before it is written to.

        It may be in the place of another one, which is closed, and was not stamped to the end.
        """
        image = shared.image
        if image is not None and not image.read_only:
            last, changes = self._stamped.setdefault(shared, (image, 0))
            if last is not image:
                self._stamped[shared] = image, 0 if last.changes == changes else -1

    def suspect(self, shared: SharedImage) -> None:
        """Have *shared* stamped in any case: the server before may have died before it did it."""
        if shared.image is not None:
            self._stamped[shared] = shared.image, -1

    def behind(self, shared: SharedImage) -> bool:
        """Tell whether *shared* was written to since it was stamped."""
        image = shared.image
        if image is None or image.read_only or shared.entry.image_id is None:
            return False
        last, changes = self._stamped.get(shared, (image, 0))
        return last.changes != changes

    async def catch_up(self, shared: SharedImage, patience_s: float = _PATIENCE_S) -> None:
        """Stamp *shared* if that is behind. What fails is only logged: the next one tries again."""
        if self._stamps is None or not self.behind(shared):
            return
        turn = self._turns.setdefault(shared, trio.Lock())
        try:
            with trio.move_on_after(patience_s):
                # One after the other: a second stamp would move a time that was told already.
                async with turn:
                    image = shared.image
                    if image is None or not self.behind(shared):
                        return
                    # Before the stamp: a write that ends after this is stamped once more.
                    changes = image.changes
                    await self._stamps.stamp(shared.entry)
                    # What was opened in its place meanwhile is stamped by itself.
                    if shared.image is image:
                        self._stamped[shared] = image, changes
        except OSError as exc:
            log.debug("the time of a change is not on record: %s", exc)
