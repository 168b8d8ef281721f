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
from typing import TYPE_CHECKING, Any

import trio

from rbdfs.ceph.monitors import PoolUsage
from rbdfs.ceph.single_flight import SingleFlight
from rbdfs.errors import Missing, NotUnderstood
from rbdfs.metadata import pool_directory
from rbdfs.metadata.encoding import Decoder, LaterVersion, encode_string
from rbdfs.metadata.image_header import MAX_DEPTH, omap_reader, read_header, read_parent
from rbdfs.metadata.migration_record import MIGRATING, read_migration
from rbdfs.metadata.object_map import read_object_map, trustworthy
from rbdfs.metadata.opened_header import inspect_image
from rbdfs.metadata.pool_directory import is_image_id, is_namespace
from rbdfs.model.entry import Key

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    from rbdfs.ceph.cluster import Cluster
    from rbdfs.metadata.migration_record import MigrationHeader
    from rbdfs.model.entry import Entry
    from rbdfs.model.image_attributes import ImageAttributes, SnapAttributes

    T = TypeVar("T")

log = logging.getLogger(__name__)

# How old an answer may be, in seconds. The kernel keeps what it is told as long again.
TTL_S = 0.9
# Headers kept: about a kilobyte each, more with many snapshots.
_HEADERS = 4096
_DIRECTORIES = 256
_FOR_GOOD_S = 86400.0
_THREADS_A_POOL = 8
_WARNINGS = 1024
_NAMED_IN_WARNING = 5


class MetadataCache:
    """Names and attributes of images, by pool and namespace ("" is the default one).

    All methods raise OSError with the errno of Ceph, and EIO for an answer that makes no sense.
    """

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._pools: SingleFlight[list[str]] = SingleFlight(TTL_S, 1)
        self._names: SingleFlight[dict[str, str]] = SingleFlight(TTL_S, _DIRECTORIES)
        self._namespaces: SingleFlight[list[str]] = SingleFlight(TTL_S, _DIRECTORIES)
        self._headers: SingleFlight[ImageAttributes] = SingleFlight(TTL_S, _HEADERS)
        self._allocated: SingleFlight[int | None] = SingleFlight(TTL_S, _HEADERS)
        # A snapshot never changes.
        self._allocated_by_snaps: SingleFlight[int | None] = SingleFlight(_FOR_GOOD_S, _HEADERS)
        self._usages: SingleFlight[dict[int, PoolUsage]] = SingleFlight(TTL_S, 1)
        self._room: SingleFlight[int] = SingleFlight(TTL_S, 1)
        self._data_pools: dict[int, set[int]] = {}
        self._warned: set[tuple[str, str]] = set()
        self._limiters: dict[str, trio.CapacityLimiter] = {}

    async def pools(self) -> list[str]:
        """Return the names of the pools with application rbd."""
        return await self._pools.get(None, self._cluster.pools)

    async def image_names(self, pool: str, namespace: str) -> dict[str, str]:
        """Return image ids by name; the id of an image of format 1 is empty."""
        load = partial(self._load_image_names, pool, namespace)
        return await self._names.get((pool, namespace), load)

    async def namespaces(self, pool: str) -> list[str]:
        """Return the names of the namespaces of *pool*, but for those that are not UTF-8."""
        return await self._namespaces.get(pool, partial(self._load_namespaces, pool))

    async def places(self, pool: str, namespace: str) -> list[tuple[str, str]]:
        """Return each pool with each of its namespaces ("" is one); "" for *pool* means all."""
        if namespace:
            return [(pool, namespace)]
        pools = [pool] if pool else await self.pools()
        return [(each, space) for each in pools for space in ("", *await self.namespaces(each))]

    async def namespace_exists(self, pool: str, namespace: str) -> bool:
        """Tell whether *pool* has *namespace*, also where its namespaces cannot be listed."""
        return is_namespace(namespace) and await self._cluster.namespace_exists(pool, namespace)

    async def image_id(self, pool: str, namespace: str, name: str) -> str:
        """Return the id of one image, "" for format 1, without listing the pool; ENOENT if none."""
        argument = encode_string(name.encode("utf-8", "surrogateescape"))
        try:
            ioctx = await self._cluster.ioctx(pool, namespace)
            answer = await self._call_class(pool, ioctx, "rbd_directory", "dir_get_id", argument)
        except Missing:
            # Format 1 has another directory, to be read as a whole; or the pool is another one.
            found = (await self.image_names(pool, namespace)).get(name)
            if found is None:
                raise
            return found
        image_id = Decoder(answer).text()
        if not is_image_id(image_id):
            raise NotUnderstood(f"image {name!a} of {pool} has id {image_id!a}")
        return image_id

    async def attributes(
        self, where: Entry, name: str, image_id: str, *, newer: bool = False
    ) -> ImageAttributes:
        """Return the attributes of an image in the pool and namespace that *where* is in, or is.

        It is found by *image_id*, or by *name* where that is "". A *newer* answer is of after the
        call.
        """
        load = partial(self._load_attributes, where, name, image_id)
        key = (where.key.pool_id, where.namespace, image_id or f"/{name}")
        get = self._headers.get_newer if newer else self._headers.get
        attributes = await get(key, load)
        if attributes.data_pool_id not in (-1, where.key.pool_id):
            self._data_pools.setdefault(where.key.pool_id, set()).add(attributes.data_pool_id)
        return attributes

    async def allocated(
        self, where: Entry, attributes: ImageAttributes, snap: SnapAttributes | None
    ) -> int | None:
        """Return how many bytes an image or a snapshot of it takes, in whole objects.

        None where its object map does not tell: then all of it may be data.
        """
        if not trustworthy(attributes, snap):
            return None
        load = partial(self._load_allocated, where, attributes, snap)
        kept = self._allocated if snap is None else self._allocated_by_snaps
        snap_id = 0 if snap is None else snap.snap_id
        key = (where.key.pool_id, where.namespace, attributes.image_id, snap_id)
        return await kept.get(key, load)

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
        which = (image.key.pool_id, image.namespace, image.key.image_id)
        self._headers.invalidate(which)
        self._allocated.invalidate((*which, 0))

    def directory_changed(self, pool: str, namespace: str) -> None:
        """Forget the names in a pool or namespace, where something was made or removed."""
        self._names.invalidate((pool, namespace))
        self._namespaces.invalidate(pool)

    async def _load_namespaces(self, pool: str) -> list[str]:
        ioctx = await self._cluster.ioctx(pool)
        names = await pool_directory.list_namespaces(partial(self._call_class, pool, ioctx))
        usable = [name for name in names if is_namespace(name)]
        if len(usable) < len(names):
            hidden = [name for name in names if not is_namespace(name)]
            self._warn(pool, f"namespaces that are not UTF-8, or have a NUL: {_few(hidden)}")
        return usable

    async def _load_image_names(self, pool: str, namespace: str) -> dict[str, str]:
        while True:
            ioctx = await self._cluster.ioctx(pool, namespace)
            names = await pool_directory.list_images(partial(self._call_class, pool, ioctx))
            # A pool that was removed looks the same, and is not an empty one to be mirrored.
            if names or await self._cluster.is_current(pool, ioctx):
                break
        old: list[str] = []
        try:
            old = await self._in_thread(pool, partial(pool_directory.list_v1_images, ioctx))
        except NotUnderstood as exc:
            self._warn(f"{pool}/{namespace}", f"images of format 1: {exc.strerror}")
        usable = {name: image_id for name, image_id in names if is_image_id(image_id)}
        if len(usable) < len(names):
            hidden = [name for name, _ in names if name not in usable]
            self._warn(f"{pool}/{namespace}", f"images whose id is none: {_few(hidden)}")
        return dict.fromkeys(old, "") | usable

    def _warn(self, where: str, what: str) -> None:
        """Say once what is left out of *where*."""
        if (where, what) not in self._warned:
            if len(self._warned) >= _WARNINGS:
                self._warned.clear()
            self._warned.add((where, what))
            log.warning("left out of %a: %s", where, what)

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
        for _ in range(MAX_DEPTH):
            ioctx = await self._cluster.ioctx_of(
                replace(where, key=key, namespace=key.namespace or "")
            )
            parent = await read_parent(omap_reader(self._cluster.bridge, ioctx), key.image_id)
            if parent is None:
                return
            key = Key(parent.pool_id, parent.pool_namespace, parent.image_id)
        raise NotUnderstood(f"image {image_id}: more than {MAX_DEPTH} parents")

    async def _load_allocated(
        self, where: Entry, attributes: ImageAttributes, snap: SnapAttributes | None
    ) -> int | None:
        ioctx = await self._cluster.ioctx_of(where)
        try:
            states = await read_object_map(self._cluster.bridge, ioctx, attributes, snap)
            size = attributes.size if snap is None else snap.size
            return states.allocated_bytes(size=size, order=attributes.order)
        except Missing:
            return None
        except NotUnderstood as exc:
            log.debug("object map of image %s: %s", attributes.image_id, exc)
            return None

    async def _call_class(
        self, pool: str, ioctx: Any, oid: str, method: str, argument: bytes
    ) -> bytes:
        call = partial(pool_directory.call_class, ioctx, oid, method, argument)
        return await self._in_thread(pool, call)

    async def _in_thread(self, pool: str, call: Callable[[], T]) -> T:
        # A pool that does not answer keeps its own threads, not those of other pools.
        limiter = self._limiters.setdefault(pool, trio.CapacityLimiter(_THREADS_A_POOL))
        return await trio.to_thread.run_sync(call, limiter=limiter)


def _few(names: list[str]) -> str:
    """Return *names*, fit for a line of the log."""
    more = f" and {len(names) - _NAMED_IN_WARNING} more" * (len(names) > _NAMED_IN_WARNING)
    return ", ".join(f"{name[:80]!a}" for name in names[:_NAMED_IN_WARNING]) + more
