"""How long a file is, and truncate(2)."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from rbdfs.config.logging_setup import repeats
from rbdfs.errors import InUse, NotPermitted, Outgrown

if TYPE_CHECKING:
    from rbdfs.files.handle import Handle
    from rbdfs.files.shared_image import SharedImage
    from rbdfs.fuse.mounted import Mounted
    from rbdfs.model.entry import Entry

log = logging.getLogger(__name__)


async def length_now(mounted: Mounted, entry: Entry) -> int:
    """Return how long the file of *entry* is, for a decision about its data.

    Nothing that was remembered will do: another client may have resized the image since.
    """
    length, shared = mounted.handles.length(entry), mounted.handles.shared(entry)
    # Of a file that grows, or is to be opened here again and grew, nobody else can tell.
    if shared is not None and length is not None and (shared.growth or shared.image is None):
        return length
    mounted.catalog.changed(entry)
    return (await mounted.catalog.current(entry)).size


async def check_emptying(mounted: Mounted, entry: Entry) -> None:
    """Raise OSError EPERM where O_TRUNC is not allowed, before the image is opened for it."""
    if mounted.management is None and await length_now(mounted, entry) != 0:
        _check_cut(mounted, entry)


def _check_cut(mounted: Mounted, entry: Entry) -> None:
    """Raise OSError EPERM where nothing may be cut off, and have the log name the ways round it.

    Who copies over an image expects it to have the copy's length then, and a disk would keep its
    own: with the old tail behind it.
    """
    try:
        mounted.check_managed()
    except NotPermitted as exc:
        ways = "`dd conv=notrunc`, `qemu-img convert -n` or `rsync --inplace`"
        refusal = NotPermitted(
            f"{entry.spec}: it keeps its size, as a disk does: write into it with {ways},"
            " or mount with -o manage"
        )
        log.info("%s", refusal.strerror, extra=repeats(refusal))
        raise refusal from exc


async def set_length(
    mounted: Mounted, entry: Entry, length: int, handle: Handle | None = None
) -> None:
    """Resize the image of *entry* to *length* bytes; shrinking is for a managed mount only.

    Nothing is changed by a *handle* that is lost: others may have written to the image since.
    """
    mounted.check_writable(entry)
    if entry.key.partition:
        raise NotPermitted(f"{entry.spec} is a partition")
    async with mounted.handles.borrowed(entry, writable=True) as shared:
        if handle is not None and handle.shared is not shared:
            handle.shared.usable()
        while not await _resized(mounted, entry, shared, length):
            pass
        # Those who have it open for writing: vim and sort empty a file by its descriptor.
        if not length:
            await mounted.let_grow(shared)
    mounted.catalog.changed(entry)


async def _resized(mounted: Mounted, entry: Entry, shared: SharedImage, length: int) -> bool:
    """Resize as set_length(); return False where another client was quicker: to be looked at."""
    now = await length_now(mounted, entry)
    if length < now:
        _check_cut(mounted, entry)
        await _check_shrinkable(mounted, entry)
    if length != now:
        try:
            await shared.resize(length, shrink=length < now)
        except Outgrown as exc:
            log.info("%s", exc.strerror)
            return False
    return True


async def _check_shrinkable(mounted: Mounted, entry: Entry) -> None:
    """Raise OSError EBUSY while what is cut off could come back.

    librbd 16.2.15 does not remember that the target of a migration was shrunk: grown again
    before all is copied, it has the source's old bytes where zeros belong (measured). *entry*
    is open for writing, so no migration of it begins after this.
    """
    if (await mounted.lineages.of(entry)).arriving:
        raise InUse(f"{entry.spec} cannot be shrunk until it is copied from where it was")
