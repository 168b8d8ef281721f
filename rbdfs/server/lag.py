"""How long the Trio thread keeps those waiting who come while it is at work."""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING, Any

import trio

from rbdfs.model import figures

if TYPE_CHECKING:
    from rbdfs.model.metering import Metering

_BOUNDS_MS = tuple(round(bound_s * 1000) for bound_s in figures.TURNS_S)


class Lag(trio.abc.Instrument):
    """An instrument of Trio's: counts the turns of its loop by their length.

    Between two looks at what has happened, every task that can run has its turn; what comes
    meanwhile waits until they have had it. Counters cost nothing while the mount is idle, where a
    task that looks how late it wakes would wake it, and whoever reads them twice knows of any time.
    """

    def __init__(self, metering: Metering) -> None:
        """It is counted in the meters, over servers."""
        self._clock_ns = metering.clock_ns
        self._begun_ns = self._clock_ns()
        self._longest_ns = 0
        bounds = (*figures.TURNS_S, figures.LONGER)
        self._turns = [metering.figure(figures.turns(bound)) for bound in bounds]
        self._before = [turns.value for turns in self._turns]
        self._sum, self._longest, self._begun = map(
            metering.figure, (figures.TURNS_SUM, "longest_turn_s", figures.TURN_BEGUN)
        )

    def after_io_wait(self, timeout: float) -> None:
        self._begun_ns = self._clock_ns()
        # For who reads it while this turn has no end.
        self._begun.value = self._begun_ns / 1e9

    def before_io_wait(self, timeout: float) -> None:
        turn_ns = self._clock_ns() - self._begun_ns
        if turn_ns > self._longest_ns:
            self._longest_ns = turn_ns
            self._longest.value = turn_ns / 1e9
        bound = bisect_left(_BOUNDS_MS, turn_ns / 1e6)
        self._turns[bound].add()
        self._sum.add(turn_ns / 1e9)
        self._begun.value = 0.0

    def report(self) -> dict[str, Any]:
        """Return the longest turn, and how many took so many milliseconds at most ("more": any)."""
        bounds = [*map(str, _BOUNDS_MS), "more"]
        counts = [
            round(turns.value - before)
            for turns, before in zip(self._turns, self._before, strict=True)
        ]
        return {
            "longest_ms": round(self._longest_ns / 1e6, 1),
            "turns": dict(zip(bounds, counts, strict=True)),
        }
