"""How long the Trio thread keeps those waiting who come while it is at work."""

from __future__ import annotations

import time
from bisect import bisect_left
from typing import TYPE_CHECKING, Any

import trio

if TYPE_CHECKING:
    from collections.abc import Callable

_BOUNDS_MS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)


class Lag(trio.abc.Instrument):
    """An instrument of Trio's: counts the turns of its loop by their length.

    Between two looks at what has happened, every task that can run has its turn; what comes
    meanwhile waits until they have had it. Counters cost nothing while the mount is idle, where a
    task that looks how late it wakes would wake it, and whoever reads them twice knows of any time.
    """

    def __init__(self, clock_ns: Callable[[], int] = time.monotonic_ns) -> None:
        self._clock_ns = clock_ns
        self._begun_ns = clock_ns()
        self._longest_ns = 0
        self._counts = [0] * (len(_BOUNDS_MS) + 1)

    def after_io_wait(self, timeout: float) -> None:
        self._begun_ns = self._clock_ns()

    def before_io_wait(self, timeout: float) -> None:
        turn_ns = self._clock_ns() - self._begun_ns
        self._longest_ns = max(self._longest_ns, turn_ns)
        self._counts[bisect_left(_BOUNDS_MS, turn_ns / 1e6)] += 1

    def report(self) -> dict[str, Any]:
        """Return the longest turn, and how many took so many milliseconds at most ("more": any)."""
        bounds = [*map(str, _BOUNDS_MS), "more"]
        return {
            "longest_ms": round(self._longest_ns / 1e6, 1),
            "turns": dict(zip(bounds, self._counts, strict=True)),
        }
