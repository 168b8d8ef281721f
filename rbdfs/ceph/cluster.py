"""The connection to the cluster: pools, namespaces and calls to object classes."""

from __future__ import annotations

import contextlib
import errno
import logging
from functools import partial
from typing import TYPE_CHECKING, TypeAlias, TypeVar

import rados
import rbd
import trio

from rbdfs.ceph import monitors
from rbdfs.ceph.background import background
from rbdfs.ceph.blocking_image import encoded, is_utf8
from rbdfs.ceph.errors import from_ceph
from rbdfs.ceph.pool_threads import in_own_thread
from rbdfs.ceph.rados_client import configured, connect, no_answer, user_of
from rbdfs.ceph.single_flight import SingleFlight
from rbdfs.ceph.steps import Steps
from rbdfs.ceph.unreachable import tried_monitors
from rbdfs.errors import ClusterAway, Missing, NoSuchPool, PoolGone, failure

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from rbdfs.ceph.aio import AioBridge
    from rbdfs.ceph.monitors import PoolUsage
    from rbdfs.config.ceph_settings import CephSettings
    from rbdfs.model.entry import Entry

log = logging.getLogger(__name__)

T = TypeVar("T")

Ioctx: TypeAlias = rados.Ioctx
"""For the annotations of rooms that do not import rados."""

# RadosClient.connect gives up by itself after client_mount_timeout; this is the grace in which
# its own, better worded error may arrive before the caller stops waiting.
_CONNECT_GRACE_S = 2.0
# How long a list of pools waits for the monitors' newest map before the last known one has to do.
_MAP_WAIT_S = 1.0
# How long the id of a pool is not looked up again, in seconds: it is in the client's own OSD map.
_POOL_ID_S = 0.1
_POOLS = 256


class Cluster:
    """A connected RADOS client and its I/O contexts, one a pool and namespace.

    Attributes:
        user: id of the client without ``client.``.
        address: of the client, as watchers and the blocklist name it: ``IP:0/NONCE``.
        number: of the client, in hexadecimal digits; the ids of images that it makes begin so.
        dead: addresses of clients that this one succeeds, and that are fenced.
        steps: threads for the steps of live migrations.
        background: for what goes on beside, and ends with the connection.
        fences: how many clients this one has fenced.
    """

    def __init__(
        self,
        client: rados.Rados,
        bridge: AioBridge,
        settings: CephSettings,
        nursery: trio.Nursery,
        ioctxs: dict[tuple[int, str], rados.Ioctx],
    ) -> None:
        self.bridge = bridge
        self.background = nursery
        self.user = user_of(settings)
        self._full_try = settings.full_try
        self.address: str = client.get_addrs()
        self.number = f"{client.get_instance_id():x}"
        self.dead: frozenset[str] = frozenset()
        self.fences = 0
        self._client = client
        # By the pool's id: its name may be given to another pool.
        self._ioctxs = ioctxs
        self._pool_ids: SingleFlight[int] = SingleFlight(_POOL_ID_S, _POOLS)
        # A pool that does not answer must not keep the threads that other pools need.
        self._limiter = trio.CapacityLimiter(32)
        self._map_limiter = trio.CapacityLimiter(1)
        self.steps = Steps(client)

    @classmethod
    @contextlib.asynccontextmanager
    async def connect(
        cls,
        settings: CephSettings,
        bridge: AioBridge,
        timeout_s: float,
        *,
        tries: Callable[[str], None] | None = None,
    ) -> AsyncIterator[Cluster]:
        """Connect; disconnect at the end of the context.

        *tries* is told beforehand which monitors are asked. Raises UserError, saying in one line
        what is wrong with the configuration, the key or the way to the monitors, within
        *timeout_s* seconds.
        """
        client = await in_own_thread(configured, settings, timeout_s)
        if tries is not None:
            tries(tried_monitors(client, settings))
        with trio.move_on_after(timeout_s + _CONNECT_GRACE_S) as scope:
            # A connect that hangs in spite of its timeout is left behind: the process ends.
            await in_own_thread(connect, client, settings, timeout_s, abandon_on_cancel=True)
        if scope.cancelled_caught:
            raise ClusterAway(no_answer(client, settings, timeout_s))
        ioctxs: dict[tuple[int, str], rados.Ioctx] = {}
        cluster: Cluster | None = None
        try:
            async with background() as nursery:
                cluster = cls(client, bridge, settings, nursery, ioctxs)
                yield cluster
        finally:
            if cluster is None or not cluster.steps.left_behind:
                with trio.CancelScope(shield=True):
                    await in_own_thread(_shut_down, client, ioctxs)

    async def ioctx(self, pool: str, namespace: str = "") -> rados.Ioctx:
        """Return the I/O context of *namespace* in the pool that is named *pool* now.

        It lives as long as the cluster. Raises OSError: ENOENT where there is no such pool. A
        namespace is not checked.
        """
        pool_id = await self._pool_ids.get(pool, partial(self._in_thread, self._lookup, pool))
        return await self._ioctx(pool, pool_id, namespace)

    async def ioctx_of(self, entry: Entry) -> rados.Ioctx:
        """Return the I/O context of *entry*, in its own pool whatever that is named now.

        Raises OSError: ESTALE where that pool was removed, though another may have its name.
        """
        try:
            return await self._ioctx(entry.pool, entry.key.pool_id, entry.namespace)
        except Missing:
            raise PoolGone(f"pool {entry.pool} of {entry.spec} was removed") from None

    def _lookup(self, pool: str) -> int:
        pool_id: int | None = None
        # The binding encodes what it is given; a name of other bytes no pool can have.
        if is_utf8(encoded(pool)):
            with from_ceph(f"pool {pool}"):
                pool_id = self._client.pool_lookup(pool)
        if pool_id is None:
            raise NoSuchPool(f"there is no pool {pool}")
        return pool_id

    async def _ioctx(self, pool: str, pool_id: int, namespace: str) -> rados.Ioctx:
        key = (pool_id, namespace)
        if key not in self._ioctxs:
            with from_ceph(f"pool {pool}"):
                ioctx = await self._in_thread(self._client.open_ioctx2, pool_id)
            if namespace:
                ioctx.set_namespace(namespace)
            if self._full_try:
                ioctx.set_osdmap_full_try()
            # Another task may have been quicker: its context is in use already.
            if self._ioctxs.setdefault(key, ioctx) is not ioctx:
                ioctx.close()
        return self._ioctxs[key]

    async def pools(self) -> list[str]:
        """Return the names of the pools that are meant for RBD, from the OSD map."""
        await self._refresh_map()
        return await self._in_thread(self._rbd_pools)

    async def _refresh_map(self) -> None:
        # Nobody sends an idle client a new map.
        refresh = self._client.wait_for_latest_osdmap
        with trio.move_on_after(_MAP_WAIT_S), from_ceph("asking for the OSD map"):
            await trio.to_thread.run_sync(
                refresh, abandon_on_cancel=True, limiter=self._map_limiter
            )

    async def pool_name(self, pool_id: int) -> str:
        """Return the name of the pool with *pool_id*, whatever it is meant for.

        It is in the client's own OSD map, which is asked for anew only where it is not. Raises
        OSError ENOENT where there is no such pool.
        """
        name = await self._in_thread(self._reverse_lookup, pool_id)
        if name is None:
            await self._refresh_map()
            name = await self._in_thread(self._reverse_lookup, pool_id)
        if name is None:
            raise NoSuchPool(f"no pool has the id {pool_id}")
        return name

    def _reverse_lookup(self, pool_id: int) -> str | None:
        try:
            name: str | None = self._client.pool_reverse_lookup(pool_id)
        except rados.ObjectNotFound:
            return None
        except rados.Error as exc:
            raise failure(getattr(exc, "errno", None) or errno.EIO, f"pool {pool_id}") from exc
        return name

    def _rbd_pools(self) -> list[str]:
        pools = []
        with from_ceph("listing the pools"):
            for name in self._client.list_pools():
                try:
                    with self._client.open_ioctx(name) as ioctx:
                        if "rbd" in ioctx.application_list():
                            pools.append(name)
                except rados.ObjectNotFound:
                    log.debug("pool %r was removed while pools were listed", name)
        return pools

    async def is_current(self, pool: str, ioctx: rados.Ioctx) -> bool:
        """Tell whether *ioctx* still is of the pool that is named *pool*.

        Where an answer of it says that something does not exist, the pool itself may have been
        removed: that is the same errno, and the client knows it from then on.
        Raises OSError ESTALE where no pool has the name any more.
        """
        self._pool_ids.invalidate(pool)
        try:
            current = await self.ioctx(pool)
        except Missing:
            raise PoolGone(f"pool {pool} was removed") from None
        return bool(current.get_pool_id() == ioctx.get_pool_id())

    async def namespace_exists(self, pool: str, namespace: str) -> bool:
        """Tell whether *namespace* was made in *pool*; raise OSError where that cannot be read."""
        ioctx = await self.ioctx(pool)
        with from_ceph(f"namespace {pool}/{namespace}"):
            return bool(await self._in_thread(rbd.RBD().namespace_exists, ioctx, namespace))

    async def trouble(self, pool: str) -> str | None:
        """Return what keeps requests to *pool* waiting, as monitors.trouble() does."""
        return await in_own_thread(monitors.trouble, self._client, pool, abandon_on_cancel=True)

    async def fence(self, address: str) -> None:
        """Blocklist the client at *address*, as monitors.fence() does."""
        await self._in_thread(monitors.fence, self._client, address)
        self.fences += 1

    async def may_fence(self) -> bool:
        """Tell whether this client may blocklist others, as monitors.may_fence() does."""
        return await self._in_thread(monitors.may_fence, self._client)

    async def blocklist(self) -> set[str]:
        """Return the addresses that are blocklisted now. Raises OSError; profile rbd permits it."""
        return await self._in_thread(monitors.blocklist, self._client)

    async def usages(self) -> dict[int, PoolUsage]:
        """Return the usage of the pools by their ids, as monitors.usages() has it."""
        return await self._in_thread(monitors.usages, self._client)

    async def room(self) -> int:
        """Return how many bytes fit in the cluster, before replication; raise OSError."""
        return await self._in_thread(monitors.room, self._client)

    def setting(self, name: str) -> str:
        """Return what the configuration says of a setting of Ceph; "" where it says nothing."""
        return self._client.conf_get(name) or ""

    async def _in_thread(self, function: Callable[..., T], *args: object) -> T:
        return await trio.to_thread.run_sync(partial(function, *args), limiter=self._limiter)


def _shut_down(client: rados.Rados, ioctxs: dict[tuple[int, str], rados.Ioctx]) -> None:
    while ioctxs:
        ioctxs.popitem()[1].close()
    client.shutdown()
