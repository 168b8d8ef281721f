"""Threads for calls that block, so that a pool that does not answer holds up nobody else's."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, TypeVar

import trio

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


class PoolThreads:
    """Threads for one kind of blocking call, so many for each pool.

    A pool that does not answer keeps its own threads, not those of other pools or other kinds.
    """

    def __init__(self, a_pool: int) -> None:
        self._a_pool = a_pool
        self._limiters: dict[str, trio.CapacityLimiter] = {}

    async def run(
        self, pool: str, call: Callable[..., T], *args: object, abandon_on_cancel: bool = False
    ) -> T:
        """Return what *call*, which asks *pool*, returns in a thread; raise what it raises.

        With *abandon_on_cancel* whoever is cancelled does not wait for its end.
        """
        limiter = self._limiters.get(pool)
        if limiter is None:
            limiter = self._limiters[pool] = trio.CapacityLimiter(self._a_pool)
        return await trio.to_thread.run_sync(
            partial(call, *args), limiter=limiter, abandon_on_cancel=abandon_on_cancel
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
