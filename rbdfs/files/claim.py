"""Opening an image for those who share it, claiming it for its writers, and closing it."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import trio

from rbdfs.errors import Fenced, InUse, NotPermitted, ReadOnly

if TYPE_CHECKING:
    from rbdfs.ceph.image import Image
    from rbdfs.ceph.opener import Opener
    from rbdfs.model.entry import Entry

log = logging.getLogger(__name__)


async def open_image(opener: Opener, entry: Entry, *, read_only: bool, exclusive: bool) -> Image:
    """Open, as Opener.open() says; for writing, keep other writers out if *exclusive*.

    Raises OSError: EROFS where the client may not write, EBUSY where others write, or have a lock
    of `rbd lock add`.
    """
    try:
        image = await opener.open(entry, read_only=read_only)
        try:
            if not read_only:
                await _make_writable(image, opener.addresses if exclusive else None)
        except BaseException:
            with trio.CancelScope(shield=True):
                await close_image(image)
            raise
    except NotPermitted as exc:
        if read_only:
            raise
        # librbd says the same of what a journal mirrors from elsewhere.
        reason = "no permission to write, or not the primary image of a mirror"
        raise ReadOnly(f"{entry.spec}: {reason}") from exc
    return image


async def _make_writable(image: Image, own: frozenset[str] | None) -> None:
    """Make sure that *image* can be written; that nobody but *own* clients does, if given."""
    await image.check_primary()
    try:
        await image.refuse_advisory_lock()
    except InUse as exc:
        log.info("%s", exc.strerror)
        raise
    if own is not None:
        await _claim(image, own)
    await image.learn_cache()


async def _claim(image: Image, own: frozenset[str]) -> None:
    """Make sure that nobody but *own* clients writes to *image*, opened for writing just now.

    Whoever has it open for writing watches it, so a look at the watchers finds them before the
    lock would be asked of them. It is after the open, so that of two clients that open at the
    same moment at least one sees the other. Raises OSError EBUSY.
    """
    others = [watcher for watcher in await image.watchers() if watcher not in own]
    if others:
        raise InUse(f"{image.spec}: in use by {', '.join(others)}")
    await image.acquire_lock()


def lost(entry: Entry, found: OSError) -> OSError:
    """Return why the files of *entry* are lost whose image could not be opened again."""
    if isinstance(found, InUse):
        # Between the close and the open somebody else was quicker, and may have written.
        return Fenced(f"{entry.spec}: its lock was taken: {found.strerror}")
    return found


async def close_image(image: Image) -> None:
    """Close; an error has nobody to go to but the log: close(2) has had its answer from FLUSH."""
    try:
        # Cancelled half-way it would stay open, and nobody would know of it.
        with trio.CancelScope(shield=True):
            await image.close()
    except OSError:
        log.exception("closing %s failed", image.spec)
