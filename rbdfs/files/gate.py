"""What lets the requests of an image through, or holds them back for a time."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator


class Gate:
    """Open, or closed: then nothing is under way behind it, and what comes waits."""

    def __init__(self) -> None:
        self._passing = 0
        self._empty = trio.Event()
        self._opened: trio.Event | None = None

    @property
    def closed(self) -> bool:
        return self._opened is not None

    @contextlib.asynccontextmanager
    async def passed(self) -> AsyncIterator[None]:
        """Be under way for the time of the context, once the gate is open.

        Not one inside another: the inner one would wait for the gate, and that for the outer one.
        """
        while self._opened is not None:
            await self._opened.wait()
        self._passing += 1
        try:
            yield
        finally:
            self._passing -= 1
            if not self._passing:
                self._empty.set()

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Keep the gate closed for the time of the context. Not for two at once."""
        assert self._opened is None
        opened = self._opened = trio.Event()
        try:
            yield
        finally:
            self._opened = None
            opened.set()

    async def emptied(self) -> None:
        """Return when what had passed a gate that is closed now has come to its end."""
        while self._passing:
            self._empty = trio.Event()
            await self._empty.wait()
