"""Whose turn it is: each once a period, and not all of them at the same time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

T = TypeVar("T", bound="Hashable")

# Fewer have their turn together; more are spread over so many parts of a period.
_FEW = 8
_PARTS = 16
# Each newcomer's phase is this much further than the one's before: so any number of them is spread
# evenly (the golden ratio).
_STRIDE = 0.618034


class Rota(Generic[T]):
    """Tells who is due.

    A hundred looks that begin at once take sixty threads, and keep whoever comes meanwhile waiting
    for a tenth of a second; spread over the period they take a few.
    """

    def __init__(self, period_s: float) -> None:
        self._period_s = period_s
        self._parts = 1
        self._phase = 0.0
        # When each had its last turn, or is taken to have had it.
        self._last: dict[T, float] = {}

    @property
    def pause_s(self) -> float:
        """How long to wait, in seconds, until due() is to be called again."""
        return self._period_s / self._parts

    def due(self, everyone: Sequence[T], now: float) -> list[T]:
        """Return those of *everyone* whose turn it is, and count that they have had it.

        That is who would be late the next time, and who is new.
        """
        self._parts = _PARTS if len(everyone) >= _FEW else 1
        since = now - self._period_s + self.pause_s
        turn = [each for each in everyone if self._last.get(each, since) <= since]
        last = {each: self._last[each] for each in everyone if each in self._last}
        for each in turn:
            last[each] = now if each in last else now - self._period_s * self._phase
            self._phase = (self._phase + _STRIDE) % 1
        self._last = last
        return turn
