"""One reading of a directory: entries fetched ahead in bounded parallel, kept in order.

What a listing has to leave out is reported here too.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from rbdfs.model.entry import Entry

    Item = tuple[bytes, Entry]
    Expand = Callable[[], Awaitable[list[Item]]]

log = logging.getLogger(__name__)

_REMEMBERED = 4096
_NAME_LENGTH = 300
# Enough to keep the OSDs busy, few enough that a listing does not push reads and writes aside.
_PARALLEL = 64


class Listing:
    """The items of a directory, numbered from 0, as an open directory sees them until rewind().

    *load* returns the parts of the directory in order, each a function that returns its items:
    an image's, for instance, are the image and its snapshots.
    """

    def __init__(self, load: Callable[[], Awaitable[Sequence[Expand]]]) -> None:
        self._load = load
        self._reading = _Reading(load)

    def rewind(self) -> None:
        """Read the directory anew from the next item() on."""
        self._reading = _Reading(self._load)

    async def item(self, index: int) -> Item | None:
        """Return item *index*, or None after the last. Raises OSError."""
        return await self._reading.item(index)


class _Reading:
    """What was read between two rewinds."""

    def __init__(self, load: Callable[[], Awaitable[Sequence[Expand]]]) -> None:
        self._load = load
        self._parts: Sequence[Expand] | None = None
        self._next_part = 0
        self._items: list[Item] = []
        self._loading = trio.Lock()

    async def item(self, index: int) -> Item | None:
        """Return item *index*, or None after the last. Raises OSError."""
        # The kernel asks for one after the other, and even a free lock costs a turn of Trio's loop.
        if index < len(self._items):
            return self._items[index]
        async with self._loading:
            if self._parts is None:
                self._parts = await self._load()
            while len(self._items) <= index and self._next_part < len(self._parts):
                await self._fetch(self._parts[self._next_part : self._next_part + _PARALLEL])
        return self._items[index] if index < len(self._items) else None

    async def _fetch(self, parts: Sequence[Expand]) -> None:
        results: list[list[Item]] = [[] for _ in parts]
        errors: list[OSError] = []

        async def fetch(number: int, expand: Expand) -> None:
            try:
                results[number] = await expand()
            except OSError as exc:
                errors.append(exc)

        async with trio.open_nursery() as nursery:
            for number, expand in enumerate(parts):
                nursery.start_soon(fetch, number, expand)
        if errors:
            raise errors[0]
        self._next_part += len(parts)
        for items in results:
            self._items.extend(items)


class Reports:
    """What listings leave out: told to the operator once, and not with each listing."""

    def __init__(self) -> None:
        self._reported: set[int] = set()

    def left_out(self, what: str, exc: Exception) -> None:
        """Log that *what*, which is one line, is left out because of *exc*."""
        if len(self._reported) >= _REMEMBERED:
            self._reported.clear()
        # Its errno is for the kernel; the operator is told the reason.
        reason = getattr(exc, "strerror", None) or f"{type(exc).__name__}: {exc}"
        key = hash((what, reason))
        if key not in self._reported:
            self._reported.add(key)
            log.warning("left out of the listing: %s: %s", what[:_NAME_LENGTH], reason)
