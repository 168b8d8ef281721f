"""The gate that the requests of an image pass, and that can be frozen for a time."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator


class Gate:
    """Open or frozen. What comes to a frozen gate waits until it is thawed."""

    def __init__(self) -> None:
        self._passing = 0
        self._empty = trio.Event()
        self._opened: trio.Event | None = None

    @property
    def is_frozen(self) -> bool:
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
    def frozen(self) -> Iterator[None]:
        """Keep the gate frozen for the time of the context; only one context may be in force."""
        assert self._opened is None
        opened = self._opened = trio.Event()
        try:
            yield
        finally:
            self._opened = None
            opened.set()

    async def close(self) -> None:
        """Freeze the gate for good; return when what had passed has come to its end."""
        assert self._opened is None
        self._opened = trio.Event()
        await self.drained()

    async def drained(self) -> None:
        """Return when what had passed before the gate was frozen has come to its end."""
        while self._passing:
            self._empty = trio.Event()
            await self._empty.wait()
