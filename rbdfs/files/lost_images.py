"""Images whose files are lost, until these are closed."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rbdfs.files.claim import Claims
    from rbdfs.files.shared_image import SharedImage
    from rbdfs.model.entry import Entry, Key

log = logging.getLogger(__name__)


class LostImages:
    """What has failed for good. Their files refuse everything; whoever opens one anew has another.

    An image that was lost may still be open, and have the lock that the new one needs.
    """

    def __init__(self, claims: Claims) -> None:
        self._claims = claims
        self._last: dict[Key, SharedImage] = {}
        self._cached: list[Entry] = []

    def __len__(self) -> int:
        return len(self._last)

    def add(self, shared: SharedImage) -> None:
        """Remember *shared*, which refuses everything from now on."""
        self._last[shared.entry.whole_key] = shared
        self._cached.append(shared.entry)

    def reopened(self, shared: SharedImage) -> None:
        """Have the pages of *shared* dropped if others may have written before it was taken over.

        A server that makes way for another gives up its locks; so does one that is old keep none
        on record.
        """
        image = shared.image
        if image is not None and image.lock_held and not self._claims.locks.kept(image):
            self._cached.append(shared.entry)

    def has(self, key: Key, error: OSError) -> bool:
        """Tell whether the image of *key* was lost by this very *error*."""
        shared = self._last.get(key)
        return shared is not None and shared.error is error

    def forget(self, shared: SharedImage) -> None:
        """Forget *shared*, which nobody has open any more."""
        if self._last.get(shared.entry.whole_key) is shared:
            del self._last[shared.entry.whole_key]

    async def closed(self, key: Key) -> None:
        """Return when the image of *key* that was lost, if there is one, is closed."""
        shared = self._last.get(key)
        if shared is None:
            return
        async with shared.quiesced():
            image, shared.image = shared.image, None
            if image is not None:
                await self._claims.close(image)

    def take_cached(self) -> list[Entry]:
        """Return those whose pages the kernel may still have, each of them once."""
        cached, self._cached = self._cached, []
        return cached


def tell(shared: SharedImage, error: OSError, level: int = logging.WARNING) -> None:
    """Have the log say that the open files of *shared* are lost, once, whoever finds it."""
    if not shared.told:
        shared.told = True
        log.log(level, "open files of %s are lost: %s", shared.entry.spec, error)


def failure_of(shared: SharedImage) -> OSError | None:
    """Return why nothing can be asked of *shared* any more: fenced, timed out, gone; or None."""
    if shared.error is not None or shared.image is None:
        return shared.error
    try:
        shared.image.check()
    except OSError as exc:
        return exc
    return None
