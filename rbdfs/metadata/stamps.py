"""Setting the modification time of an image, as librbd does, once a minute."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rbdfs.ceph.pool_threads import PoolThreads
from rbdfs.metadata.pool_directory import call_class

if TYPE_CHECKING:
    from rbdfs.ceph.cluster import Cluster
    from rbdfs.metadata.cache import MetadataCache
    from rbdfs.model.entry import Entry

_THREADS_A_POOL = 8


class HeaderStamps:
    """Stamps header objects, by the clock of their OSDs."""

    def __init__(self, cluster: Cluster, cache: MetadataCache) -> None:
        self._cluster = cluster
        self._cache = cache
        self._threads = PoolThreads(_THREADS_A_POOL)

    async def stamp(self, entry: Entry) -> None:
        """Have the header of the image of *entry*, of format 2, say that it was modified now.

        Raises OSError. Whoever cancels this does not know whether it is done.
        """
        ioctx = await self._cluster.ioctx_of(entry)
        oid = f"rbd_header.{entry.image_id}"
        stamp = (call_class, ioctx, oid, "set_modify_timestamp", b"")
        try:
            await self._threads.run(entry.pool, *stamp, abandon_on_cancel=True)
        finally:
            self._cache.image_changed(entry)
