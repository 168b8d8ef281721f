"""A place that is written and read by many at once: which of the answers can be true?"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

UNKNOWN = object()
"""The value of a write whose outcome nobody knows: anything may be there."""


@dataclass
class Write:
    """A value that was written between *start* and *end*.

    *end* is infinite where it failed or was never answered, because it may still take effect.
    """

    value: Any
    start: float
    end: float
    seen: float = math.inf

    @property
    def done(self) -> float:
        """When it had certainly happened: acknowledged, or read by somebody."""
        return min(self.end, self.seen)


class Register:
    """One block, or one name: its writes, and whether a read can be explained by them."""

    def __init__(self, initial: Any) -> None:
        self._writes = [Write(initial, -math.inf, -math.inf)]

    def write(self, value: Any, start: float, end: float) -> None:
        self._writes.append(Write(value, start, end))

    def busy(self, start: float, end: float) -> bool:
        """Whether a write was under way at some moment from *start* to *end*."""
        return any(write.start < end and write.end > start for write in self._writes)

    def explains(self, value: Any, start: float, end: float, slack: float = 0.0) -> bool:
        """Whether a read from *start* to *end* may answer *value*.

        It may when some write of it began before the read's end, and no other one came wholly
        between that one and the read. With *slack*, it may be as old as that many seconds.
        """
        return any(self._fits(write, start - slack, end) for write in self._candidates(value))

    def read(self, value: Any, end: float) -> None:
        """Note that *value* was read: from *end* on nothing older is an answer.

        Only where one write alone can have written it.
        """
        writes = self._candidates(value)
        if len(writes) == 1 and writes[0].value is not UNKNOWN:
            writes[0].seen = min(writes[0].seen, end)

    def _candidates(self, value: Any) -> list[Write]:
        return [w for w in self._writes if w.value == value or w.value is UNKNOWN]

    def _fits(self, write: Write, start: float, end: float) -> bool:
        return write.start < end and not any(
            other.start >= write.done and other.done <= start
            for other in self._writes
            if other is not write
        )

    def possible(self, start: float, end: float) -> list[Any]:
        """The values that a read from *start* to *end* may answer."""
        return [w.value for w in self._writes if self._fits(w, start, end)]
