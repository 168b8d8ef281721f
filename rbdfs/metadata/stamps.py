"""What is written into the header of an image beside librbd: when it was modified, and a mark.

librbd sets the time of modification itself, but once a minute only. The mark is image-meta, and
says that the image is longer than its file, which grows. While a server lives it knows the length;
what a crash of the host has left, the next managed mount trims (files/unfinished.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rbdfs.ceph.pool_threads import PoolThreads
from rbdfs.metadata.encoding import encode_map, encode_string
from rbdfs.metadata.pool_directory import call_class

if TYPE_CHECKING:
    from rbdfs.ceph.cluster import Cluster
    from rbdfs.metadata.cache import MetadataCache
    from rbdfs.model.entry import Entry
    from rbdfs.model.growth_mark import GrowthMark

GROWING = "rbdfs.growing"
"""The key of the mark. Its value is the text of a GrowthMark."""

_THREADS_A_POOL = 8


class HeaderStamps:
    """Writes to header objects."""

    def __init__(self, cluster: Cluster, cache: MetadataCache) -> None:
        self._cluster = cluster
        self._cache = cache
        self._threads = PoolThreads(_THREADS_A_POOL)

    async def stamp(self, entry: Entry) -> None:
        """Have the header of the image of *entry*, of format 2, say that it was modified now.

        Raises OSError. Whoever cancels this does not know whether it is done.
        """
        await self._call(entry, "set_modify_timestamp", b"", abandon_on_cancel=True)

    async def mark_growing(self, entry: Entry, mark: GrowthMark | None) -> None:
        """Have the image of *entry* say by *mark* that its file grows; None: no more.

        Raises OSError. An image of format 1 has nowhere to say it.
        """
        if entry.image_id is None:
            return
        key = GROWING.encode()
        if mark is None:
            await self._call(entry, "metadata_remove", encode_string(key))
        else:
            text = mark.text(entry.image_id).encode()
            await self._call(entry, "metadata_set", encode_map({key: text}))

    async def _call(
        self, entry: Entry, method: str, argument: bytes, *, abandon_on_cancel: bool = False
    ) -> None:
        ioctx = await self._cluster.ioctx_of(entry)
        call = (call_class, ioctx, f"rbd_header.{entry.image_id}", method, argument)
        try:
            await self._threads.run(entry.pool, *call, abandon_on_cancel=abandon_on_cancel)
        finally:
            self._cache.image_changed(entry)
