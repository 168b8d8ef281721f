"""Migrations that were interrupted: found, and finished or undone.

An interrupted migration is harmless to who uses the target, with one exception: while it is being
prepared, for some milliseconds, the target is there, reads zeros and has no snapshots. librbd
16.2.15 itself goes on from every state but two, which its commands answer with EINVAL: that one,
and a commit that had got past unmarking the target.
"""

from __future__ import annotations

import errno
import logging
from functools import partial
from typing import TYPE_CHECKING

import rbd

from rbdfs.changes import encoded, opened
from rbdfs.header import omap_reader
from rbdfs.image_meta import image_name, pool_name
from rbdfs.migration import Migration, image_entry, in_thread
from rbdfs.migration_header import State, list_migration_sources, read_migration
from rbdfs.spec import ImageSpec

if TYPE_CHECKING:
    import rados

    from rbdfs.cluster import Cluster
    from rbdfs.entries import Entry
    from rbdfs.migration import Progress

log = logging.getLogger(__name__)


async def pending(cluster: Cluster, pool: str, namespace: str = "") -> list[Migration]:
    """Return the migrations out of *pool* and *namespace* that were begun and not ended.

    Nothing tells those that another client is still at. Raises OSError and NotUnderstood.
    """
    ioctx = await cluster.ioctx(pool, namespace)
    sources = await in_thread(f"migrations of {pool}", partial(list_migration_sources, ioctx))
    found = []
    for source_id, name in sources.items():
        header = await read_migration(omap_reader(cluster.bridge, ioctx), source_id)
        if header is None:
            log.warning(
                "image id %s in the trash of %s is marked as migrated only there", source_id, pool
            )
            continue
        try:
            target_pool = await pool_name(cluster, header.pool_id)
        except FileNotFoundError as exc:
            log.warning("image %s of %s was to go to a pool that is gone: %s", name, pool, exc)
            continue
        target = ImageSpec(target_pool, header.namespace, header.image)
        migration = Migration(cluster, ImageSpec(pool, namespace, name), source_id, target)
        migration.target_id, migration.state = header.image_id, header.state
        found.append(migration)
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
        raise OSError(errno.EINVAL, f"{migration} can only be undone")
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
        raise OSError(errno.EINVAL, f"{migration} can only be finished")
    if await _has_target(migration):
        ioctx = await migration.ioctx(migration.target)
        target = image_entry(ioctx, migration.target, migration.target_id)
        await in_thread(f"{migration}: removing the target", partial(_remove_empty, ioctx, target))
    # Without a target librbd finds the migration by the source's name.
    ioctx = await migration.ioctx(migration.source)
    abort = partial(rbd.RBD().migration_abort, ioctx, encoded(migration.source.image))
    await in_thread(f"{migration}: aborting", abort)
    migration.state = None


async def _has_target(migration: Migration) -> bool:
    ioctx = await migration.ioctx(migration.target)
    stat = partial(ioctx.stat, f"rbd_header.{migration.target_id}")
    try:
        await in_thread(f"{migration}: target", stat)
    except FileNotFoundError:
        return False
    return True


async def _remove_source(migration: Migration) -> None:
    log.info("%s: removing what is left of image id %s", migration, migration.source_id)
    ioctx = await migration.ioctx(migration.source)
    source = image_entry(ioctx, migration.source, migration.source_id)
    await in_thread(f"{migration}: removing the source", partial(_remove_committed, ioctx, source))
    migration.state = None


def _remove_empty(ioctx: rados.Ioctx, target: Entry) -> None:
    extents: list[tuple[int, int, bool]] = []
    with opened(ioctx, target) as image:
        image.diff_iterate(0, image.size(), None, lambda *extent: extents.append(extent))
        if extents:
            raise OSError(errno.EBUSY, f"{target.spec} was written to")
    assert target.image_id is not None
    rbd.RBD().remove(ioctx, encoded(image_name(ioctx, target.image_id)))


def _remove_committed(ioctx: rados.Ioctx, source: Entry) -> None:
    assert source.image_id is not None
    with opened(ioctx, source) as image:
        for watcher in image.watchers_list():
            raise OSError(errno.EBUSY, f"{source.spec} is watched by {watcher['addr']}")
    # librbd opens no image for writing that is marked as the source of a migration.
    ioctx.execute(f"rbd_header.{source.image_id}", "rbd", "migration_remove", b"")
    with opened(ioctx, source, read_only=False) as image:
        for snap in list(image.list_snaps()):
            if image.is_protected_snap(snap["name"]):
                image.unprotect_snap(snap["name"])
            image.remove_snap_by_id(snap["id"])
    rbd.RBD().trash_remove(ioctx, source.image_id, True)
