"""Going on where another server ended: fence it, know its inodes, open its files."""

from __future__ import annotations

import contextlib
import errno
import logging
from typing import TYPE_CHECKING, Any

import trio

from rbdfs.entries import Entry

if TYPE_CHECKING:
    from rbdfs.cluster import Cluster
    from rbdfs.entries import Key
    from rbdfs.keeping import Keeping, Predecessor
    from rbdfs.relocation import Relocation
    from rbdfs.served import Served

log = logging.getLogger(__name__)

# A pool that does not answer must not keep the files of others waiting for their new server.
_LISTING_S = 10.0


async def fence(cluster: Cluster, keeping: Keeping, predecessor: Predecessor) -> bool:
    """Make sure that no write that *predecessor* has sent lands from now on.

    Without it librbd would wait half a minute for the watch of a dead owner of a lock, and a
    late write could overtake one that was acknowledged since.

    Returns whether somebody else had fenced it before, as whoever takes a lock away does: then
    others may have written to what was open. Raises OSError.
    """
    blocklist = await cluster.blocklist()
    foreign = (blocklist & set(predecessor.addresses)) - set(predecessor.fenced)
    if foreign:
        log.error("fenced by somebody else: %s", ", ".join(sorted(foreign)))
    if predecessor.crashed:
        # Before it happens, or a successor of this server would take it for somebody else's doing.
        keeping.fencing(predecessor.addresses)
        for address in predecessor.addresses:
            await cluster.fence(address)
            log.info("fenced %s", address)
    return bool(foreign)


async def restore(served: Served, predecessor: Predecessor, *, fenced: bool) -> None:
    """Take over the inodes and the open files of *predecessor*.

    *fenced* says that others may have written to what it had open for writing.
    """
    files = predecessor.files
    if served.moves is not None:
        relocations = await served.moves.inherit(predecessor.moves)
        for record in files:
            record["entry"] = _relocated(record, relocations)
    # Before the listing: what has moved has kept a number that does not follow from its key.
    for record in files:
        served.inodes.restore(Entry.from_record(record["entry"]), record["inode"])
    with trio.move_on_after(_LISTING_S) as scope:
        await _know_inodes(served, served.inodes.entry(1))
    if scope.cancelled_caught:
        log.warning("not everything could be listed in time: some open directories are stale")
    for record in predecessor.directories:
        served.directories.restore(record)
    lost = _lost_images(served, predecessor, fenced=fenced)
    async with trio.open_nursery() as nursery:
        for record in files:
            entry = Entry.from_record(record["entry"])
            served.inodes.opened(record["inode"])
            nursery.start_soon(_restore_file, served, record, lost.get(entry.whole_key))
    log.info("%d open files taken over", len(files))
    if served.moves is not None:
        await served.moves.go_on()


def _relocated(record: dict[str, Any], relocations: list[Relocation]) -> dict[str, Any]:
    """Return the entry of an open file where it is now."""
    entry = Entry.from_record(record["entry"])
    for relocation in relocations:
        # A snapshot that did not move along fails to open, and then its file is lost.
        with contextlib.suppress(OSError):
            entry = relocation.follow(entry)
    return entry.record()


async def _restore_file(served: Served, record: dict[str, Any], error: OSError | None) -> None:
    try:
        await served.handles.restore(record, error)
    except Exception as exc:
        # One file that nobody expected must not keep all the others without a server.
        log.exception("file handle %d cannot be taken over", record["fh"])
        unexpected = OSError(errno.EIO, f"{type(exc).__name__}: {exc}")
        await served.handles.restore(record, unexpected)


def _lost_images(served: Served, predecessor: Predecessor, *, fenced: bool) -> dict[Key, OSError]:
    """Return why images cannot just be opened again, by key: all that were open for writing.

    After a crash librbd's cache may have taken acknowledged writes with it; and an application
    that goes on after a fence would write what it knows over what others have written since.
    """
    written = [Entry.from_record(rec["entry"]) for rec in predecessor.files if rec["writable"]]
    if fenced:
        code, reason = errno.ESHUTDOWN, "was fenced: others may have written to it"
    elif predecessor.crashed and served.options.cache in ("writeback", "unsafe"):
        code, reason = errno.EIO, "acknowledged writes may have been lost"
    else:
        return {}
    return {entry.whole_key: OSError(code, f"{entry.spec}: {reason}") for entry in written}


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
