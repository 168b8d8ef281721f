"""Migrations that were interrupted: found, and finished or undone.

An interrupted migration is harmless to who uses the target, with one exception: while it is being
prepared, for some milliseconds, the target is there, reads zeros and has no snapshots. librbd
16.2.15 itself goes on from every state but three: that one and a commit that had got past unmarking
the target, which its commands answer with EINVAL, and a source that is not marked yet.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import trio

from rbdfs.ceph import live_migration
from rbdfs.ceph.blocking_image import encoded
from rbdfs.errors import BadArgument, InUse, Missing
from rbdfs.metadata.image_header import omap_reader
from rbdfs.metadata.image_meta import image_name, pool_name
from rbdfs.metadata.migration_record import (
    State,
    list_migration_sources,
    read_migration,
    restore_source,
)
from rbdfs.model.file_name import ImageSpec
from rbdfs.moves.migration import Migration, image_entry, in_thread

if TYPE_CHECKING:
    from rbdfs.ceph.cluster import Cluster
    from rbdfs.metadata.migration_record import MigrationHeader
    from rbdfs.moves.migration import Progress

log = logging.getLogger(__name__)

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
            target_pool = await pool_name(cluster, header.pool_id)
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
    await in_thread(f"taking {source} out of the trash", restore)


async def take_back_alone(cluster: Cluster, source: ImageSpec, source_id: str) -> None:
    """Do take_back() once no client has the image open; log why it cannot be done.

    The one that migrates it has it open, and counts as there for 30 s after its death.
    """
    ioctx = await cluster.ioctx(source.pool, source.namespace)
    refuse = partial(live_migration.refuse_open, ioctx, image_entry(ioctx, source, source_id))
    while True:
        try:
            await in_thread(f"{source} in the trash", refuse)
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
        await trio.sleep(_WATCH_S)


async def _sources(
    cluster: Cluster, pool: str, namespace: str
) -> list[tuple[ImageSpec, str, MigrationHeader | None]]:
    ioctx = await cluster.ioctx(pool, namespace)
    sources = await in_thread(f"migrations of {pool}", partial(list_migration_sources, ioctx))
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
    if header is None and migration.state is State.EXECUTED and await _has_target(migration):
        await _remove_source(migration)
        return
    if header is None or migration.state not in (
        State.PREPARED,
        State.EXECUTING,
        State.EXECUTED,
    ):
        raise BadArgument(f"{migration} can only be undone")
    if migration.state is not State.EXECUTED:
        await migration.execute(progress)
    await migration.commit()


async def undo(migration: Migration) -> None:
    """Make the source the image again, as Migration.abort() does, with what that loses.

    Raises OSError: EINVAL where it can be finished only; EBUSY as finish() does.
    """
    if await migration.read(migration.target, migration.target_id) is not None:
        await migration.abort()
        return
    if migration.state is State.EXECUTED:
        raise BadArgument(f"{migration} can only be finished")
    if await _has_target(migration):
        ioctx = await migration.ioctx(migration.target)
        target = image_entry(ioctx, migration.target, migration.target_id)
        name = await in_thread(
            f"{migration}: target", partial(image_name, ioctx, migration.target_id)
        )
        remove = partial(live_migration.remove_unwritten, ioctx, target, name)
        await in_thread(f"{migration}: removing the target", remove)
    # Without a target librbd finds the migration by the source's name.
    ioctx = await migration.ioctx(migration.source)
    abort = partial(live_migration.abort, ioctx, migration.source.image)
    await in_thread(f"{migration}: aborting", abort)
    migration.state = None


async def _has_target(migration: Migration) -> bool:
    ioctx = await migration.ioctx(migration.target)
    stat = partial(ioctx.stat, f"rbd_header.{migration.target_id}")
    try:
        await in_thread(f"{migration}: target", stat)
    except Missing:
        return False
    return True


async def _remove_source(migration: Migration) -> None:
    log.info("%s: removing what is left of image id %s", migration, migration.source_id)
    ioctx = await migration.ioctx(migration.source)
    source = image_entry(ioctx, migration.source, migration.source_id)
    remove = partial(live_migration.remove_committed, ioctx, source)
    await in_thread(f"{migration}: removing the source", remove)
    migration.state = None
