"""Images of the native data path, opened by a client of its own."""

from __future__ import annotations

import contextlib
from functools import partial
from typing import TYPE_CHECKING

import trio

from rbdfs.ceph.errors import from_ceph
from rbdfs.ceph.image import Image
from rbdfs.ceph.pool_threads import PoolThreads, in_own_thread
from rbdfs.datapath import native
from rbdfs.errors import PoolGone

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    from rbdfs.ceph.aio import AioBridge
    from rbdfs.ceph.binding import Extent
    from rbdfs.config.ceph_settings import CephSettings
    from rbdfs.model.entry import Entry

# Images that may be on their way to being open at once in one pool: a pool that does not answer
# keeps its own threads, not those of other pools.
_OPENING_A_POOL = 16


class NativeOpener:
    """Images of the native data path, on a client of its own with the same configuration."""

    def __init__(
        self, client: native.Client, bridge: AioBridge, others: Iterable[str], *, full_try: bool
    ) -> None:
        self.address: str = client.addrs()
        self.addresses = frozenset({self.address, *others})
        self._client = client
        self._bridge = bridge
        self._full_try = full_try
        # By the pool's id: its name may be given to another pool.
        self._ioctxs: dict[tuple[int, str], native.Ioctx] = {}
        self._threads = PoolThreads(_OPENING_A_POOL)

    @classmethod
    @contextlib.asynccontextmanager
    async def connect(
        cls, settings: CephSettings, bridge: AioBridge, others: Iterable[str]
    ) -> AsyncIterator[NativeOpener]:
        """Connect, as the cluster's own client was able to before; raises OSError.

        *others* are further clients that are this process, or one that it succeeds.
        """
        client = native.Client(
            settings.user or "admin",
            settings.conf,
            settings.configuration,
            cluster=settings.cluster or "ceph",
        )
        try:
            await in_own_thread(client.connect)
            opener = cls(client, bridge, others, full_try=settings.full_try)
            try:
                async with _calling_back(client):
                    yield opener
            finally:
                while opener._ioctxs:
                    opener._ioctxs.popitem()[1].close()
        finally:
            with trio.CancelScope(shield=True):
                await in_own_thread(client.close)

    async def open(self, entry: Entry, *, read_only: bool) -> Image:
        """Open, as Opener.open() says, in a thread."""
        open_binding = partial(self._open, entry, read_only=read_only)
        with from_ceph(f"{entry.spec}: open"):
            binding, size = await self._threads.run(entry.pool, open_binding)
        return Image(
            self._bridge,
            binding,
            entry.spec,
            size=size,
            read_only=read_only or entry.is_snapshot,
            list_extents=_list_extents,
        )

    def _open(self, entry: Entry, *, read_only: bool) -> tuple[native.Image, int]:
        binding = native.Image(
            self._ioctx(entry),
            None if entry.image_id is not None else _encoded(entry.image),
            snapshot=entry.key.snap_id or None,
            read_only=read_only,
            image_id=entry.image_id,
        )
        try:
            # librbd may have to read the header for it.
            return binding, binding.size()
        except BaseException:
            binding.close()
            raise

    def _ioctx(self, entry: Entry) -> native.Ioctx:
        key = (entry.key.pool_id, entry.namespace)
        if key not in self._ioctxs:
            try:
                ioctx = self._client.open_ioctx(entry.key.pool_id, _encoded(entry.namespace))
            except FileNotFoundError:
                raise PoolGone(f"pool {entry.pool} was removed") from None
            if self._full_try:
                ioctx.set_full_try()
            # Another thread may have been quicker: its context is in use already.
            if self._ioctxs.setdefault(key, ioctx) is not ioctx:
                ioctx.close()
        return self._ioctxs[key]


@contextlib.asynccontextmanager
async def _calling_back(client: native.Client) -> AsyncIterator[None]:
    """Have the callbacks of complete requests called in Trio's thread, to the end of the context.

    By a system task, because images are flushed and closed when everything else is cancelled.
    """
    ended, scope = trio.Event(), trio.CancelScope()

    async def call_back() -> None:
        with scope:
            while True:
                await trio.lowlevel.wait_readable(client.fileno())
                client.run_callbacks()
        ended.set()

    trio.lowlevel.spawn_system_task(call_back)
    try:
        yield
    finally:
        scope.cancel()
        with trio.CancelScope(shield=True):
            await ended.wait()


def _encoded(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")


def _list_extents(binding: native.Image) -> list[Extent]:
    numbers = memoryview(binding.allocated_extents(whole_object=True)).cast("Q")
    return [
        (off, length, bool(exists))
        for off, length, exists in zip(*[iter(numbers)] * 3, strict=True)
    ]
