"""Which parts of an image hold data: the map behind SEEK_DATA, SEEK_HOLE and st_blocks.

A wrong hole is data loss for whoever copies by it, so every doubt is settled towards data: where
extents of a diff overlap, where a write covers part of a granule, where a zeroed range does.
The map knows only what it is told.  It is not safe for use from several threads.
"""

from __future__ import annotations

import errno
import os
from array import array
from bisect import bisect_left, bisect_right
from typing import TYPE_CHECKING

from rbdfs.errors import PastEnd

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


class ExtentMap:
    """The data extents of an image of ``size`` bytes, in whole granules.

    Extents are kept sorted, disjoint and not adjacent, in two arrays: 16 bytes an extent, lookups
    by bisection.  A new extent between others moves the tail of the arrays, so the granule bounds
    the cost of a random writer as well as the memory.  Extents end on a granule, also where that
    is past the end of the image, and are clipped when they are reported: so nothing is forgotten
    when the image grows.
    """

    def __init__(
        self, size: int, extents: Iterable[tuple[int, int, bool]] = (), *, granule: int = 4096
    ) -> None:
        """Build the map from (offset, length, exists) in bytes: what rbd's diff_iterate reports.

        The order is free, although in order is cheapest.  *granule* in bytes is best the object
        size, what a whole-object diff reports; QEMU wants the bounds of holes at least aligned to
        its sectors.  Raises ValueError for a negative number or an empty granule.
        """
        if size < 0 or granule < 1:
            raise ValueError(f"no map of {size} bytes in granules of {granule}")
        self._size = size
        self._granule = granule
        self._starts = array("Q")
        self._ends = array("Q")
        self._load(extents)
        self._total = sum(self._ends) - sum(self._starts)

    @property
    def size(self) -> int:
        """Size of the image in bytes, as far as the map was told."""
        return self._size

    def __len__(self) -> int:
        """Return the number of extents kept."""
        return len(self._starts)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """Yield (offset, length) of every extent inside the image, in order."""
        for start, end in zip(self._starts, self._ends, strict=True):
            if start >= self._size:
                return
            yield start, min(end, self._size) - start

    @property
    def allocated_bytes(self) -> int:
        """Sum of the lengths of the extents inside the image."""
        past_end = 0
        for index in reversed(range(len(self._ends))):
            if self._ends[index] <= self._size:
                break
            past_end += self._ends[index] - max(self._starts[index], self._size)
        return self._total - past_end

    def seek_data(self, off: int) -> int:
        """Return the first offset at or after *off* that holds data, as lseek(2) SEEK_DATA.

        Raises OSError ENXIO where *off* is not inside the image or only a hole follows.
        """
        self._check_inside(off)
        index = bisect_right(self._ends, off)
        if index == len(self._ends) or self._starts[index] >= self._size:
            raise PastEnd(os.strerror(errno.ENXIO))
        return max(off, self._starts[index])

    def seek_hole(self, off: int) -> int:
        """Return the first offset at or after *off* in a hole, as lseek(2) SEEK_HOLE.

        The end of the image counts as a hole.  Raises OSError ENXIO where *off* is not inside.
        """
        self._check_inside(off)
        index = bisect_right(self._ends, off)
        if index < len(self._ends) and self._starts[index] <= off:
            return min(self._ends[index], self._size)
        return off

    def within(self, off: int, length: int) -> Iterator[tuple[int, int]]:
        """Yield ``(start, end)`` of all data in *off*~*length*, in order."""
        for index in range(bisect_right(self._ends, off), len(self._ends)):
            if self._starts[index] >= off + length:
                return
            yield max(off, self._starts[index]), min(off + length, self._ends[index])

    def mark_data(self, off: int, length: int) -> None:
        """Note that *off*~*length* is written.  Call it before the write is submitted.

        A range past the end is kept for the time when the image is known to be that large.
        """
        self._check_range(off, length)
        if not length:
            return
        index = bisect_right(self._ends, off)
        if (
            index < len(self._ends)
            and self._starts[index] <= off
            and off + length <= self._ends[index]
        ):
            return
        start, end = self._round_down(off), self._round_up(off + length)
        # Adjacent extents are taken in as well.
        first, last = bisect_left(self._ends, start), bisect_right(self._starts, end)
        if first < last:
            start = min(start, self._starts[first])
            end = max(end, self._ends[last - 1])
        self._replace(first, last, [(start, end)])

    def mark_hole(self, off: int, length: int) -> None:
        """Note that *off*~*length* reads as zeros; only the whole granules in it become a hole.

        The last granule is whole where the range reaches the end of the image.  Call it when the
        request has succeeded, and only if no write to the range was submitted meanwhile.
        """
        self._check_range(off, length)
        start, end = self._round_up(off), self._round_down(off + length)
        if off < self._size <= off + length:
            end = max(end, self._round_up(self._size))
        if start < end:
            self._cut(start, end)

    def resize(self, size: int) -> None:
        """Follow the image to its new size in bytes: what is cut off, and what is new, is a hole.

        Raises ValueError for a negative size.
        """
        if size < 0:
            raise ValueError(f"no image of {size} bytes")
        if size < self._size and self._ends:
            self._cut(self._round_up(size), max(self._ends[-1], self._round_up(size)))
        self._size = size

    def _load(self, extents: Iterable[tuple[int, int, bool]]) -> None:
        in_order = True
        for off, length, exists in extents:
            self._check_range(off, length)
            if not exists or not length:
                continue
            start, end = self._round_down(off), self._round_up(off + length)
            if self._starts and start < self._starts[-1]:
                in_order = False
            elif self._starts and start <= self._ends[-1]:
                self._ends[-1] = max(self._ends[-1], end)
                continue
            self._starts.append(start)
            self._ends.append(end)
        if in_order:
            return
        pairs = sorted(zip(self._starts, self._ends, strict=True))
        self._starts, self._ends = array("Q"), array("Q")
        self._load((start, end - start, True) for start, end in pairs)

    def _cut(self, start: int, end: int) -> None:
        """Take start..end, whole granules, out of the extents."""
        first, last = bisect_right(self._ends, start), bisect_left(self._starts, end)
        if first >= last:
            return
        rest = []
        if self._starts[first] < start:
            rest.append((self._starts[first], start))
        if end < self._ends[last - 1]:
            rest.append((end, self._ends[last - 1]))
        self._replace(first, last, rest)

    def _replace(self, first: int, last: int, extents: list[tuple[int, int]]) -> None:
        old, new = slice(first, last), array("Q", (start for start, _ in extents))
        new_ends = array("Q", (end for _, end in extents))
        self._total += sum(new_ends) - sum(new) - sum(self._ends[old]) + sum(self._starts[old])
        self._starts[old] = new
        self._ends[old] = new_ends

    def _check_inside(self, off: int) -> None:
        if not 0 <= off < self._size:
            raise PastEnd(os.strerror(errno.ENXIO))

    @staticmethod
    def _check_range(off: int, length: int) -> None:
        if off < 0 or length < 0:
            raise ValueError(f"no extent {off}~{length}")

    def _round_down(self, off: int) -> int:
        return off - off % self._granule

    def _round_up(self, off: int) -> int:
        return off + -off % self._granule
