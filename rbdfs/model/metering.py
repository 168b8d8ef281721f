"""Counting in the meters of a mount (model/meters.py), for what passes through Python.

One thread writes: the Trio thread. What the data path carries out, it counts by itself.
"""

from __future__ import annotations

import struct
import time
from array import array
from typing import TYPE_CHECKING

from rbdfs.model import meters_layout as layout
from rbdfs.model.meters_layout import Operation

if TYPE_CHECKING:
    from collections.abc import Callable

    from rbdfs.model.meters_layout import Buffer


_FEW_IMAGES = 16


class Figure:
    """A single figure of a mount, in its place."""

    __slots__ = ("_doubles", "_index")

    def __init__(self, doubles: memoryview[float], index: int) -> None:
        self._doubles, self._index = doubles, index

    @property
    def value(self) -> float:
        return float(self._doubles[self._index])

    @value.setter
    def value(self, value: float) -> None:
        self._doubles[self._index] = value

    def add(self, more: float = 1.0) -> None:
        """Count *more*."""
        self._doubles[self._index] += more


class Metering:
    """The meters of a mount, to be written."""

    def __init__(self, memory: Buffer, clock_ns: Callable[[], int] = time.monotonic_ns) -> None:
        """*memory* is writable, as the last server has left it; raise ValueError for another."""
        self.clock_ns = clock_ns
        self._memory = memoryview(memory).cast("B")
        self._words, self._doubles = self._memory.cast("Q"), self._memory.cast("d")
        used = (layout.used_bytes(self._memory) - layout.IMAGES_OFFSET) // layout.IMAGE_BYTES
        self._capacity = (len(self._memory) - layout.IMAGES_OFFSET) // layout.IMAGE_BYTES
        self._numbers = {key: n for n, key in enumerate(layout.keys_in(self._memory, used))}
        self._figures = {name: i for i, (name, _) in enumerate(layout.figures_in(self._memory))}
        self._unread: dict[str, Figure] = {}
        self._forget_in_flight(used)

    @classmethod
    def unread(cls, clock_ns: Callable[[], int] = time.monotonic_ns) -> Metering:
        """Return one that nobody else can read, with places for a few images."""
        memory = bytearray(layout.IMAGES_OFFSET + _FEW_IMAGES * layout.IMAGE_BYTES)
        memory[: len(layout.empty())] = layout.empty()
        return cls(memory, clock_ns)

    def number(self, key: str) -> int:
        """Return the number of the image with this spec, of a place of its own if there is one."""
        if (known := self._numbers.get(key)) is not None:
            return known
        number, data = len(self._numbers), key.encode("utf-8", "replace")
        if number == self._capacity or len(data) > layout.KEY_BYTES:
            return 0
        struct.pack_into(
            f"=Q{len(data)}s",
            self._memory,
            layout.IMAGES_OFFSET + number * layout.IMAGE_BYTES,
            len(data),
            data,
        )
        # Last: what a reader finds in use is whole.
        self._words[layout.USED_OFFSET // layout.WORD] = number + 1
        self._numbers[key] = number
        return number

    def figure(self, name: str) -> Figure:
        """Return the figure of this name, with the value that a server before this has left.

        Servers of many versions may have left no place: it is written where nobody reads it then.
        """
        index = self._figures.get(name)
        if index is None:
            index = len(self._figures)
            if index == layout.FIGURES or len(name) > layout.FIGURE_NAME_BYTES:
                return self._unread.setdefault(name, Figure(memoryview(array("d", [0.0])), 0))
            self._figures[name] = index
            at = layout.FIGURES_OFFSET + index * layout.FIGURE_BYTES
            struct.pack_into(f"={layout.FIGURE_NAME_BYTES}s", self._memory, at, name.encode())
        at = layout.FIGURES_OFFSET + index * layout.FIGURE_BYTES + layout.FIGURE_NAME_BYTES
        return Figure(self._doubles, at // layout.WORD)

    def begin(self, number: int, operation: Operation) -> int:
        """Count a request as in flight; return when it has begun, for end()."""
        self._words[_word(number, operation)] += 1
        return self.clock_ns()

    def end(
        self, number: int, operation: Operation, begun_ns: int, count: int, error: int = 0
    ) -> None:
        """Count a request as answered: with *count* bytes, or with the errno *error*."""
        words, at = self._words, _word(number, operation)
        now_ns = self.clock_ns()
        words[at] -= 1
        words[at + layout.SUM_NS] += now_ns - begun_ns
        words[at + layout.FIRST_BUCKET + bucket_of(now_ns - begun_ns)] += 1
        if error:
            self._count_error(at + layout.FIRST_ERROR, error)
        else:
            words[at + layout.TRANSFERRED] += count

    def answered(self) -> None:
        """Note that the cluster has answered just now."""
        self._words[layout.ANSWERED_OFFSET // layout.WORD] = self.clock_ns()

    def _count_error(self, at: int, error: int) -> None:
        last = at + 2 * (layout.ERRORS - 1)
        for place in range(at, last, 2):
            if self._words[place] in (0, error):
                self._words[place] = error
                self._words[place + 1] += 1
                return
        self._words[last + 1] += 1

    def _forget_in_flight(self, used: int) -> None:
        # What a server that is gone has not answered, the kernel sends again.
        for number in range(used):
            for operation in Operation:
                for writer in (layout.NATIVE, layout.PYTHON):
                    at = layout.meter_offset(number, operation, writer) // layout.WORD
                    # Writing would use memory where there is none yet.
                    if self._words[at]:
                        self._words[at] = 0


def _word(number: int, operation: Operation) -> int:
    return layout.meter_offset(number, operation, layout.PYTHON) // layout.WORD


def bucket_of(ns: int) -> int:
    """Return the number of the bucket of layout.BOUNDS_S that a time falls into."""
    us = -(-ns // 1000)
    return min(max(0, (us - 1).bit_length() - 4), layout.BUCKETS - 1) if us > 16 else 0
