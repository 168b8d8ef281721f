"""Going on where another server ended. The order of it, and what must be before what:

    keeper/keeper       the server is gone: start another one, with the estate
    server/__main__     read the estate
    ceph/cluster        connect
  1 fence()             blocklist the clients of the dead server
        v  before 4 and 7: none of its late writes may land after one of ours
  2 lifecycle           the root from the estate, by its key: it may have been renamed
  3 restore(): moves    find out how far what it had begun to move is; each move by itself
        v  before 4: a file is opened where its image is by now. Where a pool does not answer
        |            within 2 s, the files of the move wait in Latecomers, and nobody else
  4 restore(): files    handles, directories and inodes under the numbers that the kernel has
        |               their images are opened in the background, each by itself; requests to them
        |               wait in HandleTable.ready(). One is lost whose lock others had since the
        |               crash, which are not fenced by 1 (files/locks)
        v  before 6: the first request may be for any of them
  5 raw_requests        FUSE_NOTIFY_RESEND: the kernel puts what was read and not answered back
        |               into its queue, with bit 63 in the number
        v  before 6: what this server had read by then would come to it twice
  6 native_path         register the files, start the reader; pyfuse3 is given the recorded INIT
        v  before 7: libfuse is not ready without it
  7 server/run          the keeper is told: ready. The reader meets the requests that were sent
                        again first, because the kernel queues them in front of all others, and
                        fuse/begun_requests knows those that were carried out already

After a hand-over (`rbdfs restart`) the last server has answered everything and closed its images:
there is nothing to fence in 1 and nothing to send again in 5. Whatever fails passingly before 7
(the cluster is away) is tried again by the next server, as often as it takes; what can only fail
again ends in EIO for every request, until `rbdfs restart`.
"""

from __future__ import annotations

import contextlib
import logging
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import trio

from rbdfs.errors import Failure, Fenced, ImageGone, NotPermitted
from rbdfs.files.keeping import OpenFile
from rbdfs.files.reopening import Checks
from rbdfs.fuse.inherited_inodes import InheritedInodes
from rbdfs.keeper.estate import Kind
from rbdfs.keeper.remains import remains_of
from rbdfs.kernel import raw_requests
from rbdfs.model.entry import Entry

if TYPE_CHECKING:
    from rbdfs.ceph.cluster import Cluster
    from rbdfs.files.keeping import Keeping
    from rbdfs.fuse.mounted import Mounted
    from rbdfs.keeper.estate import Estate
    from rbdfs.kernel.mount import Mount
    from rbdfs.metadata.lineage import Lineages
    from rbdfs.model.entry import Key
    from rbdfs.model.relocation import Relocation
    from rbdfs.moves.inheritance import Inherited

log = logging.getLogger(__name__)

# How long the first answer waits for what is known of moves of the last server, in seconds.
_FOUND_S = 2.0


async def fence(cluster: Cluster, keeping: Keeping, estate: Estate) -> bool:
    """Make sure that no write that the last server has sent lands from now on.

    Without it librbd would wait half a minute for the watch of a dead owner of a lock, and a
    late write could overtake one that was acknowledged since.

    Returns whether somebody else had fenced it before, as whoever takes a lock away does: then
    others may have written to what was open. Raises OSError; a client that may not fence is no
    error where nothing was open for writing.
    """
    try:
        return await _fence(cluster, keeping, estate)
    except NotPermitted as exc:
        if _may_have_written(estate):
            raise
        log.warning("not fenced, as nothing was open for writing: %s", exc)
        return False


def _may_have_written(estate: Estate) -> bool:
    writable = any(left["writable"] for left in estate.of_kind(Kind.FILE).values())
    return bool(writable or estate.of_kind(Kind.MOVE) or estate.of_kind(Kind.REQUEST))


async def warn_unless_fencing_is_allowed(cluster: Cluster) -> None:
    """Tell the operator at the start, while it is harmless, what a crash would come to."""
    try:
        allowed = await cluster.may_fence()
    except OSError as exc:
        log.debug("cannot tell whether client.%s may fence: %s", cluster.user, exc)
        return
    if not allowed:
        log.warning(
            "client.%s may not fence (mon 'profile rbd' allows it): after a crash of rbdfs, files "
            "that are open for writing fail",
            cluster.user,
        )


async def _fence(cluster: Cluster, keeping: Keeping, estate: Estate) -> bool:
    blocklist = await cluster.blocklist()
    foreign = (blocklist & set(estate.addresses)) - set(estate.fenced)
    if foreign:
        log.error("fenced by somebody else: %s", ", ".join(sorted(foreign)))
    if estate.crashed:
        # Before it happens, or a successor of this server would take it for somebody else's doing.
        keeping.fencing(estate.addresses)
        await keeping.delivered()
        for address in estate.addresses:
            await cluster.fence(address)
            log.info("fenced %s", address)
    return bool(foreign)


async def fence_remains(cluster: Cluster, keeping: Keeping, mountpoint: str) -> list[str]:
    """Fence the clients of mounts that died on *mountpoint* with their keepers; return them.

    What they had open for writing would be in use for half a minute. A client that may not fence
    is told so, and waits for that long.
    """
    with remains_of(mountpoint) as addresses:
        if not addresses:
            return []
        log.warning("a mount died here as a whole: fencing its clients")
        # Before it happens, as in fence().
        keeping.fencing(addresses)
        try:
            for address in addresses:
                await cluster.fence(address)
                log.info("fenced %s", address)
        except OSError as exc:
            log.warning("what it had open for writing is in use for 30 s: %s", exc)
        return addresses


async def restore(
    mounted: Mounted, keeping: Keeping, estate: Estate, nursery: trio.Nursery, *, fenced: bool
) -> None:
    """Take over the open files and directories of the last server, as *estate* has them.

    Their images are opened in *nursery*: a pool that does not answer must not keep the files of
    others waiting. *fenced* says that others may have written to what it had open for writing.
    """
    given_up = estate.of_kind(Kind.GIVEN_UP).get(0, {}).get("addresses", [])
    mounted.handles.claims.locks.inherit(estate.of_kind(Kind.LOCK), given_up, estate.addresses)
    mounted.inherited = InheritedInodes(mounted.catalog, mounted.inodes, nursery)
    files = _open_files(estate)
    keeping.inherited(files)
    for fh, record in estate.of_kind(Kind.DIRECTORY).items():
        entry = Entry.from_record(record["entry"])
        mounted.inodes.restore(entry, record["inode"])
        request, last = record.get("request", 0), record.get("last")
        mounted.directories.restore(fh, record["inode"], entry, request, last)
    lost = _lost_images(mounted, estate, files, fenced=fenced)
    for file in files:
        # What has moved has kept a number that does not follow from its key.
        mounted.inodes.restore(file.entry, file.inode)
        mounted.inodes.opened(file.inode, file.entry)
    moves = mounted.moves
    inherited = [] if moves is None else moves.inheritance.inherit(estate.of_kind(Kind.MOVE))
    for one in inherited:
        moved = [file for file in files if one.move.concerns(file.entry)]
        files = [file for file in files if not one.move.concerns(file.entry)]
        mounted.handles.late.expect(moved)
        nursery.start_soon(_restore_moved, mounted, one, moved, lost, nursery)
    await _open(mounted, files, lost, nursery)
    # Where the cluster answers, there are none that wait.
    with trio.move_on_after(_FOUND_S):
        for one in inherited:
            await one.restored.wait()


async def _open(
    mounted: Mounted,
    files: list[OpenFile],
    lost: dict[Key, OSError],
    nursery: trio.Nursery,
    moved: Key | None = None,
) -> None:
    for file in files:
        mounted.handles.restore(file, lost.get(file.entry.whole_key))
        if file.abandoned:
            nursery.start_soon(mounted.close_abandoned, file.fh)
    copied = partial(_check_copied, mounted.lineages, moved)
    await mounted.handles.reopen(nursery, Checks(copied, mounted.check_places))
    log.info("%d open files taken over", len(files))


async def _restore_moved(
    mounted: Mounted,
    one: Inherited,
    files: list[OpenFile],
    lost: dict[Key, OSError],
    nursery: trio.Nursery,
) -> None:
    """Open the files of one move, once it is known where they are: they alone wait for that."""
    try:
        await one.found.wait()
        relocation = one.move.relocation
        if mounted.moves is None or relocation is None:
            await _open(mounted, files, lost, nursery)
        else:
            mounted.inodes.relocate(relocation)
            files = [replace(file, entry=_relocated(file.entry, relocation)) for file in files]
            lost = {_relocated_key(key, relocation): error for key, error in lost.items()}
            await _open(mounted, files, lost, nursery, relocation.target.image_key)
            await mounted.moves.inheritance.go_on(one.move)
    except Exception:
        # Nobody awaits this task: what it raised would take the mount down.
        log.exception("the files of the %s are lost", one.move)
    finally:
        mounted.handles.late.arrived(file.fh for file in files)
        one.restored.set()


def have_sent_again(descriptor: int, estate: Estate, mount: Mount) -> None:
    """Have the kernel send again what the server that has crashed had read and not answered.

    To be called before the first read of the device: what this server has read already would be
    sent to it again, and carried out twice. The kernel only splices lists: it does not block.
    """
    if raw_requests.sends_again(estate.init):
        raw_requests.resend_requests(descriptor)
        return
    log.error(
        "this kernel sends no request again (Linux 6.9 does): those that the last server had read "
        "hang until `echo 1 > /sys/fs/fuse/connections/%s/abort` ends the mount",
        mount.device.partition(":")[2],
    )


def _open_files(estate: Estate) -> list[OpenFile]:
    files = [OpenFile.from_record(fh, left) for fh, left in estate.of_kind(Kind.FILE).items()]
    lengths = estate.of_kind(Kind.LENGTH)
    return [
        replace(file, length=lengths[file.fh]["length"]) if file.fh in lengths else file
        for file in files
    ]


def _relocated(entry: Entry, relocation: Relocation) -> Entry:
    """Return the entry of an open file where it is now."""
    # A snapshot that did not move along fails to open, and then its file is lost.
    with contextlib.suppress(OSError):
        return relocation.follow(entry)
    return entry


def _relocated_key(key: Key, relocation: Relocation) -> Key:
    # What is lost was open for writing: the image itself.
    return relocation.target.key if key == relocation.source else key


def _lost_images(
    mounted: Mounted, estate: Estate, files: list[OpenFile], *, fenced: bool
) -> dict[Key, OSError]:
    """Return why images cannot just be opened again, by key: all that were open for writing.

    After a crash librbd's cache may have taken acknowledged writes with it; and an application
    that goes on after a fence would write what it knows over what others have written since.
    """
    written = [file.entry for file in files if file.writable]
    volatile = mounted.options.volatile
    if fenced:
        kind: type[Failure] = Fenced
        reason = "was fenced: others may have written to it"
    elif estate.crashed:
        # The configuration of an image may say otherwise than the options.
        written = [
            file.entry
            for file in files
            if file.writable and (volatile if file.volatile is None else file.volatile)
        ]
        kind, reason = Failure, "acknowledged writes may have been lost"
    else:
        return {}
    return {entry.whole_key: kind(f"{entry.spec}: {reason}") for entry in written}


async def _check_copied(lineages: Lineages, moved: Key | None, entry: Entry) -> None:
    """Raise OSError ESTALE for what cannot be opened again while what it comes from is copied.

    Not for the image that is *moved* by this mount: it is quiesced for that long.
    """
    if entry.image_key == moved:
        return
    try:
        lineage = await lineages.of(entry)
    except OSError:
        # What is gone altogether, its opening tells.
        return
    if not lineage.copied:
        raise ImageGone(f"{entry.spec}: what it was cloned from is being moved")
