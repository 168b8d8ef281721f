"""Threads for the steps of live migrations, some of which take hours, and some never end."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import trio

from rbdfs.ceph.pool_threads import PoolThreads

if TYPE_CHECKING:
    from collections.abc import Callable

    import rados

T = TypeVar("T")

_STEPS_A_POOL = 8


class Steps:
    """Threads for calls of librbd that cannot be stopped, so many for each pool.

    Attributes:
        abandons: whether who is cancelled does not wait for the end of his call.
        left_behind: whether a call was abandoned. Its client must not be shut down.
    """

    def __init__(self, client: rados.Rados) -> None:
        self._client = client
        self._threads = PoolThreads(_STEPS_A_POOL)
        self._waiting = trio.lowlevel.ParkingLot()
        self.abandons = False
        self.left_behind = False

    async def run(self, pool: str, call: Callable[[], T]) -> T:
        """Return what *call*, which asks *pool*, returns in a thread; raise what it raises."""
        abandons = self.abandons
        try:
            return await self._threads.run(pool, self._held, call, abandon_on_cancel=abandons)
        except trio.Cancelled:
            self.left_behind |= abandons
            raise

    def progressed(self, done: int, total: int) -> None:
        """Note that a call has done so many objects of all."""
        if done < total:
            self._waiting.unpark_all()

    async def next_object(self) -> None:
        """Return when the next object is done that is not a call's last.

        No image is being opened or closed by that call then.
        """
        await self._waiting.park()

    def _held(self, call: Callable[[], T]) -> T:
        # As long as its thread is in here it holds the client, whose end would shut it down.
        return call()
