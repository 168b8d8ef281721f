"""What is written into the header of an image for its file: when it was modified, and image-meta.

librbd sets the time of modification itself, but once a minute only. A mark says that the image is
longer than its file, which grows. While a server lives it knows the length; what a crash of the
host has left, the next managed mount trims (files/unfinished.py). Owner and mode of the file are
nobody's business but rbdfs': so no lock is asked for, which a writer elsewhere may have.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import rados
import rbd

from rbdfs.ceph.blocking_image import changing
from rbdfs.ceph.class_changes import change_by_class
from rbdfs.ceph.errors import from_ceph
from rbdfs.ceph.pool_threads import PoolThreads
from rbdfs.errors import ReadOnly
from rbdfs.model.encoding import encode_map

if TYPE_CHECKING:
    from rbdfs.ceph.cluster import Cluster
    from rbdfs.ceph.image import Image
    from rbdfs.metadata.cache import MetadataCache
    from rbdfs.model.entry import Entry
    from rbdfs.model.growth_mark import GrowthMark
    from rbdfs.model.ownership import Ownership

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
        ioctx = await self._cluster.ioctx_of(entry)
        oid = f"rbd_header.{entry.image_id}"
        call = (change_by_class, ioctx, oid, "set_modify_timestamp")
        try:
            with from_ceph(f"{oid}: set_modify_timestamp"):
                await self._threads.run(entry.pool, *call, abandon_on_cancel=True)
        finally:
            self._cache.image_changed(entry)

    async def mark_growing(self, entry: Entry, image: Image, mark: GrowthMark | None) -> None:
        """Have *image*, of *entry*, say by *mark* that its file grows; None: no more.

        It is said by the client that has it open for writing: another one would not be fenced with
        that, and could come late, and change the mark of whoever has taken the image over.

        Raises OSError. An image of format 1 has nowhere to say it.
        """
        if entry.image_id is None:
            return
        try:
            if mark is None:
                await image.remove_meta(GROWING)
            else:
                await image.set_meta(GROWING, mark.text(entry.image_id))
        finally:
            self._cache.image_changed(entry)

    async def keep(self, entry: Entry, ownership: Ownership) -> None:
        """Have the image of *entry*, of format 2, say what *ownership* says of its file.

        Raises OSError: ENOENT where it is gone, EROFS where it is a mirror of another one, or this
        client may not write.
        """
        image_id = entry.image_id
        assert image_id is not None
        attributes = await self._cache.attributes(entry, entry.image, image_id)
        if attributes.features & rbd.RBD_FEATURE_NON_PRIMARY:
            raise ReadOnly(f"{entry.spec} mirrors another image")
        ioctx, meta = await self._cluster.ioctx_of(entry), ownership.image_meta()
        try:
            await self._threads.run(entry.pool, _set_image_meta, ioctx, image_id, meta)
        finally:
            self._cache.image_changed(entry)


def _set_image_meta(ioctx: rados.Ioctx, image_id: str, meta: dict[str, str]) -> None:
    """Set image-meta, all or nothing; blocks. Raises OSError: ENOENT where there is no image."""
    oid = f"rbd_header.{image_id}"
    pairs = {key.encode(): value.encode() for key, value in meta.items()}
    with changing(f"{oid}: setting {meta}"), rados.WriteOpCtx() as operation:
        # The method by itself would make a header where there is none any more.
        operation.omap_cmp("size", "", rados.LIBRADOS_CMPXATTR_OP_GT)
        operation.execute("rbd", "metadata_set", encode_map(pairs))
        ioctx.operate_write_op(operation, oid)
