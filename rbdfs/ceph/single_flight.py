"""A short-lived cache whose refresh is shared by everybody who waits for it."""

from __future__ import annotations

import copy
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

import trio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Hashable

T = TypeVar("T")


@dataclass(slots=True)
class _Value(Generic[T]):
    value: T
    expires: float


@dataclass(slots=True)
class _Flight(Generic[T]):
    landed: trio.Event
    value: _Value[T] | None = None
    error: Exception | None = None
    overtaken: bool = False


class SingleFlight(Generic[T]):
    """Values by key, each kept for *ttl_s* seconds and loaded by one task at a time."""

    def __init__(self, ttl_s: float, capacity: int) -> None:
        self._ttl_s = ttl_s
        self._capacity = capacity
        self._values: OrderedDict[Hashable, _Value[T]] = OrderedDict()
        self._flights: dict[Hashable, _Flight[T]] = {}

    async def get(self, key: Hashable, load: Callable[[], Awaitable[T]]) -> T:
        """Return the value of *key*, awaiting ``load()`` unless a fresh one is known.

        What ``load()`` raises is raised to everybody who waited for it, and not kept. A value is
        as old as the beginning of its load, which therefore is what its lifetime counts from.
        """
        known = self._values.get(key)
        if known is not None and known.expires > trio.current_time():
            return known.value
        flight = self._flights.get(key)
        if flight is not None:
            await flight.landed.wait()
            if flight.error is not None:
                # An exception object belongs to one task: its traceback grows with each raise.
                raise copy.copy(flight.error) from flight.error
            if flight.value is not None and not flight.overtaken:
                return flight.value.value
            # The load was cancelled, or began before a change.
            return await self.get(key, load)
        return await self._load(key, load)

    async def get_newer(self, key: Hashable, load: Callable[[], Awaitable[T]]) -> T:
        """Return a value whose load begins after this call; raise as get() does.

        Those who ask while an earlier one is loaded share the next.
        """
        flight = self._flights.get(key)
        if flight is not None:
            await flight.landed.wait()
            if key in self._flights:
                return await self.get(key, load)
        self._values.pop(key, None)
        return await self._load(key, load)

    def invalidate(self, key: Hashable) -> None:
        """Forget *key*: what a load under way brings is for nobody, who wait for it load again."""
        self._values.pop(key, None)
        flight = self._flights.pop(key, None)
        if flight is not None:
            flight.overtaken = True

    async def _load(self, key: Hashable, load: Callable[[], Awaitable[T]]) -> T:
        flight: _Flight[T] = _Flight(trio.Event())
        self._flights[key] = flight
        expires = trio.current_time() + self._ttl_s
        try:
            flight.value = _Value(await load(), expires)
            if not flight.overtaken:
                self._keep(key, flight.value)
                return flight.value.value
        except Exception as exc:
            flight.error = exc
            raise
        finally:
            if not flight.overtaken:
                del self._flights[key]
            flight.landed.set()
        return await self.get(key, load)

    def _keep(self, key: Hashable, value: _Value[T]) -> None:
        self._values[key] = value
        self._values.move_to_end(key)
        while len(self._values) > self._capacity:
            self._values.popitem(last=False)
