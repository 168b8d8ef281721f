"""Copying between open files here: holes are skipped, data goes in parallel."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from rbdfs.ceph.pool_threads import PoolLimiters
from rbdfs.errors import BadArgument, Incomplete, NoSpace

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from rbdfs.files.handle import Handle
    from rbdfs.files.holes import Holes

    _Copy = Callable[[Handle, int, Handle, int, int], Awaitable[None]]

_CHUNK = 4 << 20
_PARALLEL = 8
# Pieces in memory for each pair of pools, however many callers there are: where the one that is
# written to stands still, or is full, they all wait with what they have read.
_A_PAIR = 32
# One call copies no more: its caller cannot be interrupted meanwhile.
_MOST = 1 << 30


class RangeCopies:
    """The copies that go on in one mount."""

    def __init__(self, holes: Holes) -> None:
        self._holes = holes
        self._slots = PoolLimiters(_A_PAIR)

    async def copy_range(
        self, source: Handle, off_in: int, target: Handle, off_out: int, length: int
    ) -> int:
        """Copy up to *length* bytes; return how many, 0 at the end of *source*.

        Raises OSError: ENOSPC at the end of *target*, EINVAL where the ranges overlap in one file.
        """
        length = _clipped(source, off_in, target, off_out, length)
        if length <= 0:
            return 0
        slots = trio.CapacityLimiter(_PARALLEL)
        # By both: one that is read from may stand still as well.
        of_pools = self._slots.of(source.entry.pool, target.entry.pool)
        errors: list[OSError] = []

        async def copy_piece(start: int, end: int, copy: _Copy) -> None:
            try:
                async with slots, of_pools:
                    await copy(source, start, target, start - off_in + off_out, end - start)
            except OSError as exc:
                errors.append(exc)

        # One look for the whole range: what is written to the source beside this copy may be
        # missed.
        data = await self._holes.data_within(source, off_in, length)
        pieces = list(_pieces(off_in, off_in + length, data))
        # Once for all holes: a file that grows has it written down how long it is.
        ends = [end for _, end, copy in pieces if copy is _copy_hole]
        if ends:
            await target.extend(ends[-1] - off_in + off_out)
        async with trio.open_nursery() as nursery:
            for piece in pieces:
                nursery.start_soon(copy_piece, *piece)
        if errors:
            raise errors[0]
        return length


def _clipped(source: Handle, off_in: int, target: Handle, off_out: int, length: int) -> int:
    """Return how much one call copies; 0 or less at the end of *source*."""
    length = min(length, source.length - off_in, _MOST)
    if length > 0 and not target.growing:
        room = target.length - off_out
        if room <= 0:
            raise NoSpace(f"{target.entry.spec}: copy to {off_out} is past the end")
        length = min(length, room)
    same = source.shared is target.shared
    if same and abs(source.entry.offset + off_in - target.entry.offset - off_out) < length:
        raise BadArgument(f"{source.entry.spec}: overlapping copy")
    return length


def _pieces(off: int, end: int, data: list[tuple[int, int]]) -> Iterator[tuple[int, int, _Copy]]:
    """Yield ``(start, end, copy)``, which together are all from *off* to *end*."""
    for data_start, data_end in data:
        if off < data_start:
            yield off, data_start, _copy_hole
        for start in range(data_start - data_start % _CHUNK, data_end, _CHUNK):
            yield max(start, data_start), min(start + _CHUNK, data_end), _copy_data
        off = data_end
    if off < end:
        yield off, end, _copy_hole


async def _copy_hole(source: Handle, off_in: int, target: Handle, off_out: int, size: int) -> None:
    await target.write_zeroes(off_out, size)


async def _copy_data(source: Handle, off_in: int, target: Handle, off_out: int, size: int) -> None:
    data = await source.read(off_in, size)
    written = await target.write(off_out, data)
    if written != size:
        raise Incomplete(f"{target.entry.spec}: {written} of {size} bytes were copied")
