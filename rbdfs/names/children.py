"""The clones of an image, or of one snapshot of it."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

import trio

from rbdfs.ceph.pool_threads import PoolThreads
from rbdfs.errors import TimedOut
from rbdfs.metadata import clone_links
from rbdfs.model.entry import Key

if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterable

    from rbdfs.ceph.cluster import Cluster, Ioctx
    from rbdfs.model.entry import Entry
    from rbdfs.model.image_attributes import ImageAttributes
    from rbdfs.names.ancestry import Ancestry

T = TypeVar("T")

_THREADS_A_POOL = 4
# How long each pool is waited for that has clones, or may have, in seconds.
_PATIENCE_S = 3.0
# So many are named: each is a question to the cluster, and there may be thousands.
_NAMED = 100


class Children:
    """Finds the clones of an image, wherever they are, without opening any.

    A pool that does not answer keeps back what only it knows.
    """

    def __init__(self, cluster: Cluster, ancestry: Ancestry) -> None:
        self._cluster = cluster
        self._ancestry = ancestry
        self._threads = PoolThreads(_THREADS_A_POOL)

    async def of(
        self, entry: Entry, attributes: ImageAttributes
    ) -> tuple[list[dict[str, Any]], int, OSError | None]:
        """Return the children of *entry*, how many more there are, and why these may not be all.

        Each is as Ancestry.named() has it, with the ``snapshot_id`` that it is a clone of.
        """
        if not attributes.image_id:
            # Of format 1, which cannot be cloned.
            return [], 0, None
        only = entry.key.snap_id
        snaps = [each for each in attributes.snaps if not only or each.snap_id == only]
        keys = [entry.image_key._replace(snap_id=snap.snap_id) for snap in snaps]
        found: set[tuple[int, Key]] = set()
        children: list[dict[str, Any]] = []
        error: OSError | None = None
        try:
            ioctx = await self._cluster.ioctx_of(entry)
            found |= await self._threads.run(entry.pool, _of_snapshots, ioctx, keys)
            # Only a snapshot that is protected has clones of format 1.
            old = [key for key, snap in zip(keys, snaps, strict=True) if snap.protected]
            for pool in await self._cluster.pools() if old else ():
                try:
                    found |= await _in_time(pool, self._of_pool(pool, entry.namespace, old))
                except OSError as exc:
                    # The others are looked through all the same.
                    error = exc
        except OSError as exc:
            error = exc
        for snap_id, key in islice(sorted(found), _NAMED):
            try:
                pool = await self._ancestry.pool_name(key.pool_id)
                named = await _in_time(pool, self._ancestry.named(key, pool))
                children.append({**named, "snapshot_id": snap_id})
            except OSError as exc:
                error = exc
                break
        return children, len(found) - len(children), error

    async def _of_pool(self, pool: str, namespace: str, keys: list[Key]) -> set[tuple[int, Key]]:
        ioctx = await self._cluster.ioctx(pool, namespace)
        return await self._threads.run(pool, _of_pool, ioctx, keys, abandon_on_cancel=True)


async def _in_time(pool: str, asked: Awaitable[T]) -> T:
    """Return what *pool* answers; raise TimedOut where it does not."""
    with trio.move_on_after(_PATIENCE_S):
        return await asked
    raise TimedOut(f"pool {pool!a} does not answer")


def _of_snapshots(ioctx: Ioctx, keys: Iterable[Key]) -> set[tuple[int, Key]]:
    return {
        (key.snap_id, Key(pool_id, namespace, image_id))
        for key in keys
        for pool_id, namespace, image_id in clone_links.noted_by_snapshot(ioctx, key)
    }


def _of_pool(ioctx: Ioctx, keys: Iterable[Key]) -> set[tuple[int, Key]]:
    pool_id, namespace = ioctx.get_pool_id(), ioctx.get_namespace()
    return {
        (key.snap_id, Key(pool_id, namespace, image_id))
        for key in keys
        for image_id in clone_links.noted_by_pool(ioctx, key)
    }
