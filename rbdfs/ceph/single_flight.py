"""A short-lived cache whose refresh is shared by everybody who waits for it.

What is loaded may belong to a pool that does not answer. Whoever says which pool that is (a Lane),
and that the value known last will do, gets that after a moment; the load goes on for the next.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import trio

from rbdfs.errors import Fenced, TimedOut

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Hashable

T = TypeVar("T")

# How long, in seconds, a load may take before the value known last is given out; and how long
# once one of the same pool takes longer, because thousands of them make one `ls`.
_PATIENCE_S = 0.4
_SHORT_PATIENCE_S = 0.01
# Loads of one pool that may be late at once: no more are begun for what is known.
_MOST_LATE = 64
# How long, in seconds, a value is kept that nobody asks for.
_IDLE_S = 600.0


class Lane:
    """What shares its fate: loads from one pool, of which some are late."""

    def __init__(self) -> None:
        self._late: set[int] = set()

    @property
    def patience_s(self) -> float:
        return _SHORT_PATIENCE_S if self._late else _PATIENCE_S

    @property
    def is_stuck(self) -> bool:
        return len(self._late) >= _MOST_LATE

    def late(self, flight: _Flight[Any]) -> None:
        self._late.add(id(flight))
        flight.lane = self

    def landed(self, flight: _Flight[Any]) -> None:
        self._late.discard(id(flight))


@dataclass(slots=True)
class _Value(Generic[T]):
    value: T
    expires: float
    used: float
    weight: int


@dataclass(slots=True)
class _Flight(Generic[T]):
    landed: trio.Event
    value: _Value[T] | None = None
    error: Exception | None = None
    overtaken: bool = False
    lane: Lane | None = None


class SingleFlight(Generic[T]):
    """Values by key, each fresh for *ttl_s* seconds and loaded by one task at a time.

    Those used last are kept, of a weight of *capacity* together: *weigh* tells that of a value, 1
    by default. *nursery* is where loads go on when nobody waits for them any more; without one a
    load is part of the task that asks, and everybody waits for it.

    Attributes:
        hits, misses: how often no load was begun for who has asked, and how often one was.
    """

    def __init__(
        self,
        ttl_s: float,
        capacity: int,
        *,
        weigh: Callable[[T], int] = lambda _value: 1,
        nursery: trio.Nursery | None = None,
    ) -> None:
        self._ttl_s = ttl_s
        self._capacity = capacity
        self._weigh = weigh
        self._nursery = nursery
        self._weight = 0
        self.hits = self.misses = 0
        # The one used last comes last.
        self._values: OrderedDict[Hashable, _Value[T]] = OrderedDict()
        self._flights: dict[Hashable, _Flight[T]] = {}

    def __len__(self) -> int:
        return len(self._values)

    async def get(
        self, key: Hashable, load: Callable[[], Awaitable[T]], lane: Lane | None = None
    ) -> T:
        """Return the value of *key*, awaiting ``load()`` unless a fresh one is known.

        With a *lane*, the value known last is returned where the load does not answer in time. What
        ``load()`` raises is raised to everybody who waited for it, and not kept; nor is what was
        known before, unless it is TimedOut. A value is as old as the beginning of its load, which
        therefore is what its lifetime counts from.
        """
        known = self._used(key)
        if known is not None and known.expires > trio.current_time():
            self.hits += 1
            return known.value
        flight = self._flights.get(key)
        if flight is None:
            if known is not None and lane is not None and lane.is_stuck:
                self.hits += 1
                return known.value
            self.misses += 1
            flight = self._flights[key] = _Flight(trio.Event())
            await self._begin(key, load, flight)
        else:
            self.hits += 1
        patience_s = float("inf") if known is None or lane is None else lane.patience_s
        with trio.move_on_after(patience_s):
            await flight.landed.wait()
        if known is not None and lane is not None:
            if not flight.landed.is_set():
                lane.late(flight)
                return known.value
            if isinstance(flight.error, TimedOut):
                return known.value
        return await self._result(key, load, flight, lane)

    async def _result(
        self,
        key: Hashable,
        load: Callable[[], Awaitable[T]],
        flight: _Flight[T],
        lane: Lane | None,
    ) -> T:
        if flight.error is not None:
            # An exception object belongs to one task: its traceback grows with each raise.
            raise copy.copy(flight.error) from flight.error
        if flight.value is not None and not flight.overtaken:
            return flight.value.value
        # The load was cancelled, or began before a change.
        return await self.get(key, load, lane)

    async def get_newer(self, key: Hashable, load: Callable[[], Awaitable[T]]) -> T:
        """Return a value whose load begins after this call; raise as get() does.

        Those who ask while an earlier one is loaded share the next.
        """
        flight = self._flights.get(key)
        if flight is not None:
            await flight.landed.wait()
        if key not in self._flights and key in self._values:
            self._values[key].expires = 0.0
        return await self.get(key, load)

    def last(self, key: Hashable) -> T | None:
        """Return the value of *key* that was known last, however old; None without one."""
        known = self._values.get(key)
        return None if known is None else known.value

    def suppose(self, key: Hashable, value: T) -> None:
        """Have *value* as the one known last of *key*, if there is none: it is not fresh."""
        if key not in self._values:
            self._keep(key, _Value(value, 0.0, trio.current_time(), self._weigh(value)))

    def invalidate(self, key: Hashable) -> None:
        """Forget *key*: what a load under way brings is for nobody, who wait for it load again."""
        self._drop(key)
        flight = self._flights.pop(key, None)
        if flight is not None:
            flight.overtaken = True

    def invalidate_all(self, concerned: Callable[[Any], bool]) -> None:
        """Forget every key that is *concerned*, as invalidate() does."""
        for key in [key for key in (*self._values, *self._flights) if concerned(key)]:
            self.invalidate(key)

    async def _begin(
        self, key: Hashable, load: Callable[[], Awaitable[T]], flight: _Flight[T]
    ) -> None:
        if self._nursery is None:
            await self._load(key, load, flight)
            return
        try:
            self._nursery.start_soon(self._load, key, load, flight)
        except RuntimeError as exc:
            self._land(key, flight)
            raise Fenced("the mount is being ended") from exc

    async def _load(
        self, key: Hashable, load: Callable[[], Awaitable[T]], flight: _Flight[T]
    ) -> None:
        begun = trio.current_time()
        try:
            value = await load()
            flight.value = _Value(value, begun + self._ttl_s, begun, self._weigh(value))
            if not flight.overtaken:
                self._keep(key, flight.value)
        except Exception as exc:
            flight.error = exc
            if not flight.overtaken and not isinstance(exc, TimedOut):
                self._drop(key)
        finally:
            self._land(key, flight)

    def _land(self, key: Hashable, flight: _Flight[T]) -> None:
        if not flight.overtaken:
            del self._flights[key]
        if flight.lane is not None:
            flight.lane.landed(flight)
        flight.landed.set()

    def _used(self, key: Hashable) -> _Value[T] | None:
        known = self._values.get(key)
        if known is not None:
            known.used = trio.current_time()
            self._values.move_to_end(key)
        return known

    def _keep(self, key: Hashable, value: _Value[T]) -> None:
        self._drop(key)
        self._values[key] = value
        self._weight += value.weight
        idle = trio.current_time() - max(_IDLE_S, self._ttl_s)
        while self._values:
            oldest = next(iter(self._values))
            if self._weight <= self._capacity and self._values[oldest].used > idle:
                return
            self._drop(oldest)

    def _drop(self, key: Hashable) -> None:
        dropped = self._values.pop(key, None)
        if dropped is not None:
            self._weight -= dropped.weight


def looks(*flights: SingleFlight[Any]) -> tuple[int, int]:
    """Return hits and misses of them all."""
    return sum(each.hits for each in flights), sum(each.misses for each in flights)
