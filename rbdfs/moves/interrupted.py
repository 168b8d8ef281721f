"""Migrations that were interrupted: found, and finished or undone.

An interrupted migration is harmless to who uses the target, with one exception: while it is being
prepared, for some milliseconds, the target is there, reads zeros and has no snapshots. librbd
16.2.15 itself goes on from every state but three: that one and a commit that had got past unmarking
the target, which its commands answer with EINVAL, and a source that is not marked yet.
"""

from __future__ import annotations

import contextlib
import logging
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import trio

from rbdfs.ceph import live_migration
from rbdfs.ceph.blocking_image import encoded
from rbdfs.errors import BadArgument, Exists, InUse, Missing
from rbdfs.metadata.cache import MetadataCache
from rbdfs.metadata.image_header import omap_reader
from rbdfs.metadata.image_meta import image_name
from rbdfs.metadata.migration_record import (
    State,
    disown_source,
    list_migration_sources,
    read_migration,
    restore_source,
)
from rbdfs.model.file_name import ImageSpec
from rbdfs.moves.migration import Migration, Undone, check_openable, image_entry, in_thread

if TYPE_CHECKING:
    from rbdfs.ceph.cluster import Cluster
    from rbdfs.metadata.migration_record import MigrationHeader
    from rbdfs.moves.migration import Progress

log = logging.getLogger(__name__)

WITH_TARGET = (State.PREPARED, State.EXECUTING, State.EXECUTED)
# How long the watch of a client that died stays (osd_client_watch_timeout).
_WATCH_S = 30.0


class Pending(NamedTuple):
    """What was begun in a pool or namespace and not ended; another client may still be at it.

    Attributes:
        migrations: those that are marked.
        unmarked: by image id, what was put into the trash to be migrated, and not got any further.
            For some milliseconds every migration is among them.
    """

    migrations: list[Migration]
    unmarked: dict[str, ImageSpec]


async def pending(cluster: Cluster, pool: str, namespace: str = "") -> Pending:
    """Return the migrations out of *pool* and *namespace* that were begun and not ended.

    Raises OSError and NotUnderstood.
    """
    found = Pending([], {})
    for source, source_id, header in await _sources(cluster, pool, namespace):
        if header is None:
            found.unmarked[source_id] = source
            continue
        try:
            target_pool = await cluster.pool_name(header.pool_id)
        except Missing as exc:
            log.warning("image %s was to go to a pool that is gone: %s", source, exc)
            continue
        target = ImageSpec(target_pool, header.namespace, header.image)
        migration = Migration(cluster, source, source_id, target)
        migration.target_id, migration.state = header.image_id, header.state
        found.migrations.append(migration)
    return found


async def take_back(cluster: Cluster, source: ImageSpec, source_id: str) -> None:
    """Take what is unmarked back out of the trash: nothing else was done to it.

    Nobody may be at it any more. Raises OSError: EEXIST where another image has its name.
    """
    ioctx = await cluster.ioctx(source.pool, source.namespace)
    restore = partial(restore_source, ioctx, source_id, encoded(source.image))
    await in_thread(cluster, source.pool, f"taking {source} out of the trash", restore)


async def abandon(
    cluster: Cluster, source: ImageSpec, source_id: str, target: ImageSpec, *, prepared: bool
) -> None:
    """Undo what a prepare of *source* to *target* has begun that came to no end, if it has.

    What another client is at is left alone: it has the source open, until it is *prepared*. Raises
    OSError.
    """
    found = await pending(cluster, source.pool, source.namespace)
    begun = [one for one in found.migrations if one.source_id == source_id]
    if source_id not in found.unmarked and not begun:
        return
    if not all(one.target == target for one in begun):
        return
    if any(one.state in WITH_TARGET for one in begun):
        if not prepared:
            return
    elif await is_open(cluster, source, source_id):
        log.info("%s is being moved by another client", source)
        return
    for migration in begun:
        await undo(migration)
    if source_id in found.unmarked:
        await take_back(cluster, source, source_id)
    log.info("migration of %s to %s: not prepared: undone", source, target)


async def is_open(cluster: Cluster, source: ImageSpec, source_id: str) -> bool:
    """Tell whether another client has *source* open for writing, as one has that prepares."""
    ioctx = await cluster.ioctx(source.pool, source.namespace)
    entry = image_entry(ioctx, source, source_id)
    await check_openable(cluster, entry)
    refuse = partial(live_migration.refuse_open, ioctx, entry, own={cluster.address})
    try:
        await in_thread(cluster, source.pool, f"{source} in the trash", refuse)
    except InUse:
        return True
    return False


async def take_back_alone(cluster: Cluster, source: ImageSpec, source_id: str) -> None:
    """Do take_back() once no client has the image open; log why it cannot be done.

    The one that migrates it has it open, and counts as there for 30 s after its death.
    """
    ioctx = await cluster.ioctx(source.pool, source.namespace)
    entry = image_entry(ioctx, source, source_id)
    refuse = partial(live_migration.refuse_open, ioctx, entry)
    while True:
        try:
            await check_openable(cluster, entry)
            await in_thread(cluster, source.pool, f"{source} in the trash", refuse)
            # It may have come to the end meanwhile, and closed it.
            reader = omap_reader(cluster.bridge, ioctx)
            if await read_migration(reader, source_id) is None:
                await take_back(cluster, source, source_id)
                log.warning("%s was left in the trash by a migration that died: restored", source)
            return
        except Missing:
            return
        except OSError as exc:
            log.warning("%s stays in the trash: %s", source, exc)
            if not isinstance(exc, InUse):
                return
        except Exception:
            # Nobody awaits this task: what it raised would take the mount down.
            log.exception("%s stays in the trash", source)
            return
        await trio.sleep(_WATCH_S)


async def _sources(
    cluster: Cluster, pool: str, namespace: str
) -> list[tuple[ImageSpec, str, MigrationHeader | None]]:
    ioctx = await cluster.ioctx(pool, namespace)
    list_sources = partial(list_migration_sources, ioctx)
    sources = await in_thread(cluster, pool, f"migrations of {pool}", list_sources)
    reader = omap_reader(cluster.bridge, ioctx)
    found = []
    for source_id, name in sources.items():
        try:
            header = await read_migration(reader, source_id)
        except Missing:
            # A commit that died removes the image first.
            place = "/".join(part for part in (pool, namespace, source_id) if part)
            log.warning("%s was moved: `rbd trash rm %s` removes its last trace", name, place)
            continue
        found.append((ImageSpec(pool, namespace, name), source_id, header))
    return found


async def finish(migration: Migration, progress: Progress | None = None) -> None:
    """Bring an interrupted migration to its end.

    Raises OSError: EINVAL where it can be undone only; EBUSY where an image is in use, which the
    client that was interrupted counts as for another 30 s.
    """
    header = await migration.read(migration.target, migration.target_id)
    committing = header is None and migration.state is State.EXECUTED
    if committing and await migration.exists(migration.target, migration.target_id):
        await _remove_source(migration)
        return
    if header is None or migration.state not in WITH_TARGET:
        raise BadArgument(f"{migration} can only be undone")
    if migration.state is not State.EXECUTED:
        await migration.execute(progress)
    await migration.commit()


async def check_ended(migration: Migration) -> bool:
    """Look how far a migration that was prepared has come, by whomever; tell whether it is over.

    Raises Undone where it was aborted. What cannot be read now, or is between two states, counts
    as going on.
    """
    try:
        target = await migration.read(migration.target, migration.target_id)
        source = await migration.read(migration.source, migration.source_id)
        has_target = await migration.exists(migration.target, migration.target_id)
        has_source = await migration.exists(migration.source, migration.source_id)
    except OSError as exc:
        log.debug("%s: nobody can tell how far it is: %s", migration, exc)
        return False
    if not has_target and (source is None or source.state is not State.ABORTING):
        raise Undone(f"{migration}: aborted by another client")
    if target is not None:
        migration.state = target.state
    elif has_target and not has_source:
        migration.state = None
    return migration.state is None


async def undo(migration: Migration) -> None:
    """Make the source the image again, as Migration.abort() does, with what that loses.

    Raises OSError: EINVAL where it can be finished only; EBUSY as finish() does.
    """
    if await migration.read(migration.target, migration.target_id) is not None:
        await migration.abort()
        return
    if migration.state is State.EXECUTED:
        raise BadArgument(f"{migration} can only be finished")
    if await migration.exists(migration.target, migration.target_id):
        ioctx = await migration.ioctx(migration.target)
        target = image_entry(ioctx, migration.target, migration.target_id)
        await check_openable(migration.cluster, target)
        # By its id: it may have been renamed since, or be in the trash.
        with contextlib.suppress(Missing):
            name = await migration.in_thread(
                "target", partial(image_name, ioctx, migration.target_id)
            )
            target = replace(target, image=name)
        remove = partial(live_migration.remove_unwritten, ioctx, target)
        await migration.in_thread("removing the target", remove)
    # Without a target librbd finds the migration by the source's name.
    await _refuse_namesake(migration)
    ioctx = await migration.ioctx(migration.source)
    abort = partial(live_migration.abort, ioctx, migration.source.image)
    await migration.in_thread("aborting", abort)
    migration.state = None


async def _refuse_namesake(migration: Migration) -> None:
    """Raise OSError where librbd would find another migration by the name of the source.

    Exists for an image that has the name, and may have come from elsewhere; InUse for one that had
    it, too, and is being moved.
    """
    source, cluster = migration.source, migration.cluster
    with contextlib.suppress(Missing):
        place = (source.pool, source.namespace, source.image)
        if await MetadataCache(cluster).image_id(*place) != migration.source_id:
            raise Exists(f"{migration}: another image has the name of the source")
    for other, other_id, _ in await _sources(cluster, source.pool, source.namespace):
        if other == source and other_id != migration.source_id:
            raise InUse(f"{migration}: another image that had this name is being moved")


async def _remove_source(migration: Migration) -> None:
    log.info("%s: removing what is left of image id %s", migration, migration.source_id)
    ioctx = await migration.ioctx(migration.source)
    source = image_entry(ioctx, migration.source, migration.source_id)
    await check_openable(migration.cluster, source)
    refuse = partial(live_migration.refuse_open, ioctx, source)
    await migration.in_thread("removing the source", refuse)
    # Before it is unmarked: whoever finds it unmarked, and as the source of a migration, takes it
    # back. In the trash of a user it is what `rbd trash rm` and `purge` remove.
    disown = partial(disown_source, ioctx, migration.source_id)
    await migration.in_thread("removing the source", disown)
    remove = partial(live_migration.remove_committed, ioctx, source)
    await migration.in_thread("removing the source", remove)
    migration.state = None


def report_pending(migration: Migration) -> None:
    """Log what ends a migration that nobody has ended."""
    if migration.state is State.EXECUTED:
        log.warning("%s is copied: `rbd migration commit %s` ends it", migration, migration.target)
    elif migration.state in WITH_TARGET:
        log.warning(
            "%s is not complete: `rbd migration execute %s` and `rbd migration commit` finish it",
            migration,
            migration.target,
        )
    else:
        log.warning(
            "%s is not complete: `rbd migration abort %s` undoes it", migration, migration.source
        )
