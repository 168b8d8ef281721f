"""Going on where another server ended: fence it, know its inodes, open its files."""

from __future__ import annotations

import errno
import logging
from typing import TYPE_CHECKING

import trio

from rbdfs.entries import Entry

if TYPE_CHECKING:
    from rbdfs.cluster import Cluster
    from rbdfs.keeping import Predecessor
    from rbdfs.served import Served

log = logging.getLogger(__name__)

# A pool that does not answer must not keep the files of others waiting for their new server.
_LISTING_S = 10.0


async def fence(cluster: Cluster, addresses: list[str]) -> None:
    """Make sure that none of the writes that clients at *addresses* have sent lands from now on.

    Without it librbd would wait half a minute for the watch of a dead owner of a lock, and a
    late write could overtake one that was acknowledged since. Raises OSError.
    """
    for address in addresses:
        await cluster.fence(address)
        log.info("fenced %s", address)


async def restore(served: Served, predecessor: Predecessor) -> None:
    """Take over the inodes and the open files of *predecessor*."""
    with trio.move_on_after(_LISTING_S) as scope:
        await _know_inodes(served, served.inodes.entry(1))
    if scope.cancelled_caught:
        log.warning("not everything could be listed in time: some open directories are stale")
    lost = _lost_images(served, predecessor)
    for record in predecessor.handles:
        entry = Entry.from_record(record["entry"])
        error = None
        if entry.whole_key in lost:
            error = OSError(errno.EIO, f"{entry.spec}: acknowledged writes may have been lost")
        served.inodes.restore(entry)
        await served.handles.restore(record, error)
        served.inodes.opened(record["inode"])
    log.info("%d open files taken over", len(predecessor.handles))


def _lost_images(served: Served, predecessor: Predecessor) -> set[object]:
    """Return the keys of images whose acknowledged writes a crash may have lost.

    With librbd's cache holding writes back, that is every one that was open for writing.
    """
    if not predecessor.addresses or served.options.cache in ("none", "writethrough"):
        return set()
    return {
        Entry.from_record(record["entry"]).whole_key
        for record in predecessor.handles
        if record["writable"]
    }


async def _know_inodes(served: Served, parent: Entry) -> None:
    """Know every inode below *parent* that the kernel may have been told of."""
    if not parent.is_directory:
        return
    listing = served.catalog.listing(parent)
    index = 0
    while (item := await listing.item(index)) is not None:
        served.inodes.restore(item[1])
        if item[1].is_directory:
            await _know_inodes(served, item[1])
        index += 1
