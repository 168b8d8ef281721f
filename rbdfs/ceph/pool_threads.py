"""Threads for calls that block, so that a pool that does not answer holds up nobody else's."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, TypeVar

import trio

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


class PoolLimiters:
    """Turns for one kind of work, so many for each pool: one that stands still keeps its own.

    Work that asks two pools has turns for each pair.
    """

    def __init__(self, a_pool: int) -> None:
        self._a_pool = a_pool
        self._limiters: dict[tuple[str, ...], trio.CapacityLimiter] = {}

    def of(self, *pools: str) -> trio.CapacityLimiter:
        """Return that of what asks *pools*."""
        limiter = self._limiters.get(pools)
        if limiter is None:
            limiter = self._limiters[pools] = trio.CapacityLimiter(self._a_pool)
        return limiter


class PoolThreads:
    """Threads for one kind of blocking call, so many for each pool.

    A pool that does not answer keeps its own threads, not those of other pools or other kinds.
    """

    def __init__(self, a_pool: int) -> None:
        self._limiters = PoolLimiters(a_pool)

    async def run(
        self, pool: str, call: Callable[..., T], *args: object, abandon_on_cancel: bool = False
    ) -> T:
        """Return what *call*, which asks *pool*, returns in a thread; raise what it raises.

        With *abandon_on_cancel* whoever is cancelled does not wait for its end.
        """
        return await trio.to_thread.run_sync(
            partial(call, *args),
            limiter=self._limiters.of(pool),
            abandon_on_cancel=abandon_on_cancel,
        )


async def in_own_thread(
    call: Callable[..., T], *args: object, abandon_on_cancel: bool = False
) -> T:
    """Return what *call* returns in a thread of its own, however many others are at work.

    For what a process does once or twice in its life.
    """
    return await trio.to_thread.run_sync(
        partial(call, *args),
        abandon_on_cancel=abandon_on_cancel,
        limiter=trio.CapacityLimiter(1),
    )
