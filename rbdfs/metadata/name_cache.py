"""What names there are in pools and namespaces, read without opening anything, briefly kept.

They are looked for in the pool that has the name now.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING, Any

import trio

from rbdfs.ceph.blocking_image import encoded
from rbdfs.ceph.single_flight import Lane, SingleFlight, looks
from rbdfs.errors import Missing, NotUnderstood
from rbdfs.metadata import pool_directory
from rbdfs.metadata.pool_directory import is_image_id, is_namespace
from rbdfs.model.encoding import Decoder, encode_string
from rbdfs.model.printable import first_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    from rbdfs.ceph.cluster import Cluster

    T = TypeVar("T")

log = logging.getLogger(__name__)

# How old an answer may be, in seconds. The kernel keeps what it is told as long again.
TTL_S = 0.9
# How long the id of a name is not asked for again, in seconds: long enough for two looks of one
# request.
_ID_TTL_S = 0.05
# What is kept at most, some 250 bytes each.
_IDS = 16384
_NAMES = 262144
_DIRECTORIES = 256
_THREADS_A_POOL = 8
_WARNINGS = 1024
_NAMED_IN_WARNING = 5


class NameCache:
    """Names of pools, namespaces and images, by pool and namespace ("" is the default one).

    All methods raise OSError with the errno of Ceph, and EIO for an answer that makes no sense.
    With *known*, what was known last is returned where the cluster does not answer in time: good
    enough to look at, not to decide about data.

    Attributes:
        pace: for those who compute long with what they get.
    """

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self.pace = cluster.bridge.pace
        nursery = cluster.background
        self._lanes: dict[str, Lane] = {}
        self._pools: SingleFlight[list[str]] = SingleFlight(TTL_S, 1, nursery=nursery)
        self._names: SingleFlight[dict[str, str]] = SingleFlight(
            TTL_S, _NAMES, weigh=len, nursery=nursery
        )
        self._v1_names: SingleFlight[frozenset[str]] = SingleFlight(
            TTL_S, _DIRECTORIES, nursery=nursery
        )
        self._ids: SingleFlight[str | None] = SingleFlight(_ID_TTL_S, _IDS, nursery=nursery)
        self._namespaces: SingleFlight[list[str]] = SingleFlight(
            TTL_S, _DIRECTORIES, nursery=nursery
        )
        self._warned: set[tuple[str, str]] = set()
        self._limiters: dict[str, trio.CapacityLimiter] = {}

    async def pools(self) -> list[str]:
        """Return the names of the pools with application rbd."""
        return await self._pools.get(None, self._cluster.pools)

    async def image_names(
        self, pool: str, namespace: str, *, known: bool = False
    ) -> dict[str, str]:
        """Return image ids by name; the id of an image of format 1 is empty."""
        load = partial(self._load_image_names, pool, namespace)
        return await self._names.get((pool, namespace), load, self.lane(pool, known=known))

    async def namespaces(self, pool: str, *, known: bool = False) -> list[str]:
        """Return the names of the namespaces of *pool*, but for those that are not UTF-8."""
        load = partial(self._load_namespaces, pool)
        return await self._namespaces.get(pool, load, self.lane(pool, known=known))

    def looks(self) -> dict[str, tuple[int, int]]:
        """Return hits and misses by what was looked for, one of model.figures.CACHES."""
        return {"names": looks(self._pools, self._names, self._ids, self._namespaces)}

    def lane(self, pool: str, *, known: bool) -> Lane | None:
        """Return what loads from *pool* have in common, where what is known will do."""
        return self._lanes.setdefault(pool, Lane()) if known else None

    async def places(self, pool: str, namespace: str) -> list[tuple[str, str]]:
        """Return each pool with each of its namespaces ("" is one); "" for *pool* means all."""
        if namespace:
            return [(pool, namespace)]
        pools = [pool] if pool else await self.pools()
        return [(each, space) for each in pools for space in ("", *await self.namespaces(each))]

    async def namespace_exists(self, pool: str, namespace: str) -> bool:
        """Tell whether *pool* has *namespace*, also where its namespaces cannot be listed."""
        return is_namespace(namespace) and await self._cluster.namespace_exists(pool, namespace)

    async def image_id(self, pool: str, namespace: str, name: str, *, known: bool = False) -> str:
        """Return the id of one image, "" for format 1, without listing the pool; ENOENT if none."""
        key, lane = (pool, namespace, name), self.lane(pool, known=known)
        listed = self._names.last((pool, namespace)) if known else None
        if listed is not None and name in listed:
            self._ids.suppose(key, listed[name])
        load = partial(self._load_image_id, pool, namespace, name)
        image_id = await self._ids.get(key, load, lane)
        if image_id is None:
            raise Missing(f"there is no image {name!a} in {pool}/{namespace}")
        return image_id

    async def _load_image_id(self, pool: str, namespace: str, name: str) -> str | None:
        argument = encode_string(encoded(name))
        while True:
            ioctx = await self._cluster.ioctx(pool, namespace)
            try:
                answer = await self._call_class(
                    pool, ioctx, "rbd_directory", "dir_get_id", argument
                )
            except Missing:
                # The pool was removed, and another one may have its name; or it is format 1.
                if not await self._cluster.is_current(pool, ioctx):
                    continue
                names = await self._v1_names.get(
                    (pool, namespace), partial(self._load_v1_names, pool, namespace)
                )
                return "" if name in names else None
            image_id = Decoder(answer).text()
            if not is_image_id(image_id):
                raise NotUnderstood(f"image {name!a} of {pool} has id {image_id!a}")
            return image_id

    async def _load_v1_names(self, pool: str, namespace: str) -> frozenset[str]:
        ioctx = await self._cluster.ioctx(pool, namespace)
        try:
            names = await self._in_thread(pool, partial(pool_directory.list_v1_images, ioctx))
        except NotUnderstood as exc:
            self._warn(f"{pool}/{namespace}", f"images of format 1: {exc.strerror}")
            return frozenset()
        return frozenset(names)

    def directory_changed(self, pool: str, namespace: str) -> None:
        """Forget the names in a pool or namespace, where something was made or removed."""
        self._names.invalidate((pool, namespace))
        self._ids.invalidate_all(lambda key: key[:2] == (pool, namespace))
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
        old = sorted(await self._load_v1_names(pool, namespace))
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
    return first_of(names, _NAMED_IN_WARNING, shown=lambda name: ascii(name[:80]))
