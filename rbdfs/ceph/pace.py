"""Long computations in small pieces, so that requests that come meanwhile have their turn."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import Callable

# How long a turn of Trio's loop may have taken when somebody begins another piece, in seconds.
_LONG_S = 0.01


class Pace(trio.abc.Instrument):
    """An instrument of Trio's: knows how long the turn of its loop takes by now.

    All tasks that can run have a step in each turn, and new requests are read between two. So a
    checkpoint of its own would not do for a task that is one of many: sixty-four images of a
    listing, with five hundred snapshots each, took a second of CPU time in one turn.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._begun = clock()

    def after_io_wait(self, timeout: float) -> None:
        self._begun = self._clock()

    async def share(self) -> None:
        """Wait for a turn that has not taken long yet; to be called before each small piece."""
        while self._clock() - self._begun > _LONG_S:
            await trio.lowlevel.checkpoint()
