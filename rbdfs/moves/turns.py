"""How many copies run at the same time, and who is next."""

from __future__ import annotations

import contextlib
from collections import deque
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class Turns:
    """Lets *at_once* contexts be entered at a time; the urgent ones first, and in their order."""

    def __init__(self, at_once: int) -> None:
        self._free = at_once
        self._urgent: deque[trio.Event] = deque()
        self._patient: deque[trio.Event] = deque()

    @contextlib.asynccontextmanager
    async def turn(self, *, urgent: bool) -> AsyncIterator[None]:
        """Wait for a turn, and have it for the time of the context."""
        await self._wait(self._urgent if urgent else self._patient)
        try:
            yield
        finally:
            self._pass_on()

    async def _wait(self, queue: deque[trio.Event]) -> None:
        await trio.lowlevel.checkpoint_if_cancelled()
        if self._free:
            self._free -= 1
            return
        turn = trio.Event()
        queue.append(turn)
        try:
            await turn.wait()
        except trio.Cancelled:
            if turn.is_set():
                # It was given the turn, and will not use it.
                self._pass_on()
            else:
                queue.remove(turn)
            raise

    def _pass_on(self) -> None:
        if self._urgent or self._patient:
            (self._urgent or self._patient).popleft().set()
        else:
            self._free += 1
