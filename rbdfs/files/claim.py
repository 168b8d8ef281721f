"""Opening an image for those who share it, claiming it for its writers, and closing it."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import trio

from rbdfs.errors import Fenced, InUse, NotPermitted, ReadOnly
from rbdfs.files.locks import Locks

if TYPE_CHECKING:
    from rbdfs.ceph.image import Image
    from rbdfs.ceph.opener import Opener
    from rbdfs.files.keeping import Keeping
    from rbdfs.model.entry import Entry

log = logging.getLogger(__name__)


class Claims:
    """Opens and closes the images of this mount, and keeps its locks on record.

    By *lock_mode* other clients are kept out of what is opened for writing; None lets them in.

    Attributes:
        locks: what is on record.
    """

    def __init__(self, opener: Opener, keeping: Keeping, *, lock_mode: int | None) -> None:
        self._opener, self._lock_mode = opener, lock_mode
        self.locks = Locks(keeping)

    @property
    def addresses(self) -> frozenset[str]:
        """Of the clients that are this process, or one that it succeeds."""
        return self._opener.addresses

    async def open(self, entry: Entry, *, read_only: bool, taking_over: bool = False) -> Image:
        """Open, as Opener.open() says; for writing, keep other writers out if that is wanted.

        *taking_over* what another server had open, others may not have had its lock since.

        Raises OSError: EROFS where the client may not write, EBUSY where others write, or have a
        lock of `rbd lock add`, ESHUTDOWN where others may have written.
        """
        try:
            image = await self._opener.open(entry, read_only=read_only)
            try:
                if not read_only:
                    await self._make_writable(image, entry, taking_over=taking_over)
            except BaseException:
                with trio.CancelScope(shield=True):
                    await self.close(image)
                raise
        except NotPermitted as exc:
            if read_only:
                raise
            # librbd says the same of what a journal mirrors from elsewhere.
            reason = "no permission to write, or not the primary image of a mirror"
            raise ReadOnly(f"{entry.spec}: {reason}") from exc
        return image

    async def _make_writable(self, image: Image, entry: Entry, *, taking_over: bool) -> None:
        """Make sure that *image* can be written, and by nobody else if that is wanted."""
        await image.check_primary()
        try:
            await image.refuse_advisory_lock()
        except InUse as exc:
            log.info("%s", exc.strerror)
            raise
        if self._lock_mode is not None:
            if taking_over:
                await self.locks.check(image, entry, self._opener.address)
            await self._claim(image, self._lock_mode)
            if image.lock_held:
                self.locks.took(image, entry, self._opener.address)
        await image.learn_cache()

    async def _claim(self, image: Image, lock_mode: int) -> None:
        """Make sure that nobody but own clients writes to *image*, opened for writing just now.

        Whoever has it open for writing watches it, so a look at the watchers finds them before the
        lock would be asked of them. It is after the open, so that of two clients that open at the
        same moment at least one sees the other. Raises OSError EBUSY.
        """
        others = [addr for addr in await image.watchers() if addr not in self.addresses]
        if others:
            raise InUse(f"{image.spec}: in use by {', '.join(others)}")
        await image.acquire_lock(lock_mode)

    async def close(self, image: Image) -> None:
        """Close; an error has nobody to go to but the log: close(2) has had its answer."""
        try:
            await self.close_or_fail(image)
        except OSError:
            log.exception("closing %s failed", image.spec)

    async def close_or_fail(self, image: Image) -> None:
        """Close; raise OSError if librbd cannot."""
        self.locks.giving_up(image)
        # Cancelled half-way it would stay open, and nobody would know of it.
        with trio.CancelScope(shield=True):
            await image.close()


def lost(entry: Entry, found: OSError) -> OSError:
    """Return why the files of *entry* are lost whose image could not be opened again."""
    if isinstance(found, InUse):
        # Between the close and the open somebody else was quicker, and may have written.
        return Fenced(f"{entry.spec}: its lock was taken: {found.strerror}")
    return found
