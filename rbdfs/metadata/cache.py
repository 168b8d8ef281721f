"""What the cluster holds: names and attributes, read without opening anything, briefly kept.

Names are looked for in the pool that has the name now; what belongs to an image, in the pool that
has the id, which another pool of the name does not have.

Attributes come from the header objects, in one read operation an image, so a listing leaves no
watcher and takes no lock. Everybody who asks while something is being read shares the answer.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import trio

from rbdfs.ceph.monitors import PoolUsage
from rbdfs.ceph.single_flight import SingleFlight, looks
from rbdfs.errors import Fenced, Gone, ImageGone, Missing, NotUnderstood, PoolGone, TimedOut
from rbdfs.metadata.image_header import MAX_DEPTH, omap_reader, read_header, read_parent
from rbdfs.metadata.migration_record import MIGRATING, read_migration
from rbdfs.metadata.name_cache import TTL_S, NameCache
from rbdfs.metadata.object_map import decoded, read_object_map, tells_own_data, trustworthy
from rbdfs.metadata.opened_header import inspect_image
from rbdfs.model.encoding import LaterVersion
from rbdfs.model.entry import Key

if TYPE_CHECKING:
    from rbdfs.ceph.cluster import Cluster
    from rbdfs.metadata.migration_record import MigrationHeader
    from rbdfs.model.entry import Entry
    from rbdfs.model.image_attributes import ImageAttributes, SnapAttributes

log = logging.getLogger(__name__)

# What is kept at most: 96 MiB of headers (measured: some 700 bytes for each and 270 for each of its
# snapshots), and 250 bytes for each size. 500 images with 500 snapshots each are 65 MiB: a listing
# that goes round a cache which is a little too small for it finds nothing there.
_HEADERS_BYTES = 96 << 20
_HEADER_BYTES, _SNAP_BYTES = 700, 270
_SIZES = 131072
_FOR_GOOD_S = 86400.0


class MetadataCache(NameCache):
    """Attributes of images, and their names as NameCache has them.

    All methods raise OSError with the errno of Ceph, and EIO for an answer that makes no sense.
    """

    def __init__(self, cluster: Cluster) -> None:
        super().__init__(cluster)
        self._headers: SingleFlight[ImageAttributes] = SingleFlight(
            TTL_S, _HEADERS_BYTES, weigh=_bytes, nursery=cluster.background
        )
        self._allocated: SingleFlight[int | None] = SingleFlight(
            TTL_S, _SIZES, nursery=cluster.background
        )
        # A snapshot never changes.
        self._allocated_by_snaps: SingleFlight[int | None] = SingleFlight(
            _FOR_GOOD_S, _SIZES, nursery=cluster.background
        )
        self._usages: SingleFlight[dict[int, PoolUsage]] = SingleFlight(TTL_S, 1)
        self._room: SingleFlight[int] = SingleFlight(TTL_S, 1)
        self._data_pools: dict[int, set[int]] = {}
        # One large map at a time: a thread that decodes takes Python's lock from all others.
        self._decoding = trio.CapacityLimiter(1)

    async def attributes(
        self, where: Entry, name: str, image_id: str, *, known: bool = False, newer: bool = False
    ) -> ImageAttributes:
        """Return the attributes of an image in the pool and namespace that *where* is in, or is.

        It is found by *image_id*, or by *name* where that is "". A *newer* answer is of after the
        call.
        """
        load = partial(self._load_attributes, where, name, image_id)
        key = _header_key(where, name, image_id)
        if newer:
            attributes = await self._headers.get_newer(key, load)
        else:
            attributes = await self._headers.get(key, load, self.lane(where.pool, known=known))
        if attributes.data_pool_id not in (-1, where.key.pool_id):
            self._data_pools.setdefault(where.key.pool_id, set()).add(attributes.data_pool_id)
        return attributes

    def last_attributes(self, where: Entry, name: str, image_id: str) -> ImageAttributes | None:
        """Return what attributes() has read last, however old; None if that is not known any more.

        Nothing is known of an image that was changed since.
        """
        return self._headers.last(_header_key(where, name, image_id))

    def looks(self) -> dict[str, tuple[int, int]]:
        return super().looks() | {
            "headers": looks(self._headers),
            "sizes": looks(self._allocated, self._allocated_by_snaps),
        }

    async def allocated(
        self,
        where: Entry,
        attributes: ImageAttributes,
        snap: SnapAttributes | None,
        *,
        known: bool = False,
    ) -> int | None:
        """Return how many bytes an image or a snapshot of it takes, in whole objects.

        None where its object map does not tell, or cannot be read now: then all of it may be data.
        Raises OSError where nothing can be read.
        """
        if not trustworthy(attributes, snap):
            return None
        return await self.own_allocated(where, attributes, snap, known=known)

    async def own_allocated(
        self,
        where: Entry,
        attributes: ImageAttributes,
        snap: SnapAttributes | None,
        *,
        known: bool = False,
    ) -> int | None:
        """Return as allocated() how much of it is not in what it was cloned from."""
        if not tells_own_data(attributes, snap):
            return None
        load = partial(self._load_allocated, where, attributes, snap)
        kept = self._allocated if snap is None else self._allocated_by_snaps
        snap_id = 0 if snap is None else snap.snap_id
        key = (where.key.pool_id, where.namespace, attributes.image_id, snap_id)
        try:
            return await kept.get(key, load, self.lane(where.pool, known=known))
        except (Fenced, TimedOut, Gone):
            raise
        # A thread that cannot be started is a RuntimeError. The next who asks has it read again.
        except (OSError, MemoryError, RuntimeError) as exc:
            log.debug("object map of image %s: %s", attributes.image_id, exc)
            return None

    async def migration(self, where: Entry, attributes: ImageAttributes) -> MigrationHeader | None:
        """Return what an image's header tells of a live migration from or to it, as of now."""
        if not attributes.features & MIGRATING:
            return None
        ioctx = await self._cluster.ioctx_of(where)
        try:
            reader = omap_reader(self._cluster.bridge, ioctx)
            return await read_migration(reader, attributes.image_id)
        except NotUnderstood as exc:
            image = f"image {attributes.image_id} of pool {where.pool}"
            raise NotUnderstood(f"{image}: {exc.strerror}") from exc

    async def usage(self, pool_id: int) -> PoolUsage:
        """Return how much a pool stores, and how much still fits; raise OSError."""
        usages = await self._usages.get(None, self._cluster.usages)
        # Nobody has reported on a new pool yet; what fits is known of the cluster only.
        return usages.get(pool_id) or PoolUsage(0, await self._room.get(None, self._cluster.room))

    def data_pools(self, pool_id: int) -> frozenset[int]:
        """Return the pools that have data of images of *pool_id*, of those that were looked at."""
        return frozenset(self._data_pools.get(pool_id, ()))

    def image_changed(self, image: Entry) -> None:
        """Forget the attributes of an image that was changed."""
        which = _header_key(image, image.image, image.key.image_id)
        self._headers.invalidate(which)
        self._allocated.invalidate((*which, 0))

    async def _load_attributes(self, where: Entry, name: str, image_id: str) -> ImageAttributes:
        ioctx, pool = await self._cluster.ioctx_of(where), where.pool
        if not image_id:
            return await self._in_thread(pool, partial(inspect_image, ioctx, name=name))
        try:
            return await read_header(omap_reader(self._cluster.bridge, ioctx), image_id)
        except LaterVersion as exc:
            await self._check_parents(where, image_id)
            log.info("opening image %s of pool %a for its attributes: %s", image_id, pool, exc)
        return await self._in_thread(pool, partial(inspect_image, ioctx, image_id=image_id))

    async def _check_parents(self, where: Entry, image_id: str) -> None:
        """Raise OSError unless librbd comes to an end of the parents when it opens an image."""
        key = where.key._replace(image_id=image_id, snap_id=0, partition=0)
        for depth in range(MAX_DEPTH):
            entry = replace(where, key=key, namespace=key.namespace or "")
            try:
                ioctx = await self._cluster.ioctx_of(entry)
                parent = await read_parent(omap_reader(self._cluster.bridge, ioctx), key.image_id)
            except (Missing, PoolGone) as exc:
                if depth == 0:
                    raise
                # Not the pool of the image itself, which all that is listed beside it is in too.
                raise ImageGone(f"image {image_id}: parent {key.image_id} is gone") from exc
            if parent is None:
                return
            key = Key(parent.pool_id, parent.pool_namespace, parent.image_id)
        raise NotUnderstood(f"image {image_id}: more than {MAX_DEPTH} parents")

    async def _load_allocated(
        self, where: Entry, attributes: ImageAttributes, snap: SnapAttributes | None
    ) -> int | None:
        ioctx = await self._cluster.ioctx_of(where)
        parts = (self._cluster.bridge, ioctx, attributes, snap, self._decoding)
        try:
            states = await read_object_map(*parts)
            size = attributes.size if snap is None else snap.size
            count = partial(states.allocated_bytes, size=size, order=attributes.order)
            return await decoded(len(states.states), count, self._decoding)
        except Missing:
            return None
        except NotUnderstood as exc:
            log.debug("object map of image %s: %s", attributes.image_id, exc)
            return None


def _header_key(where: Entry, name: str, image_id: str) -> tuple[int, str | None, str]:
    return where.key.pool_id, where.namespace, image_id or f"/{name}"


def _bytes(attributes: ImageAttributes) -> int:
    return _HEADER_BYTES + _SNAP_BYTES * len(attributes.snaps)
