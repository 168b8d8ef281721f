"""Copying between open files here: holes are skipped, data goes in parallel."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from rbdfs.handles import Handle

_CHUNK = 4 << 20
_PARALLEL = 8
# One call copies no more: its caller cannot be interrupted meanwhile.
_MOST = 1 << 30


async def copy_range(source: Handle, off_in: int, target: Handle, off_out: int, length: int) -> int:
    """Copy up to *length* bytes; return how many, 0 at the end of *source*.

    Raises OSError: ENOSPC at the end of *target*, EINVAL where the ranges overlap in one file.
    """
    length = min(length, source.length - off_in, _MOST)
    if length <= 0:
        return 0
    if target.growing is False:
        room = target.length - off_out
        if room <= 0:
            raise OSError(errno.ENOSPC, f"{target.entry.spec}: copy to {off_out} is past the end")
        length = min(length, room)
    same = source.shared is target.shared
    if same and abs(source.entry.offset + off_in - target.entry.offset - off_out) < length:
        raise OSError(errno.EINVAL, f"{source.entry.spec}: overlapping copy")
    slots = trio.CapacityLimiter(_PARALLEL)
    errors: list[OSError] = []

    async def copy_chunk(done: int) -> None:
        try:
            async with slots:
                await _copy_chunk(
                    source, off_in + done, target, off_out + done, min(_CHUNK, length - done)
                )
        except OSError as exc:
            errors.append(exc)

    async with trio.open_nursery() as nursery:
        for done in range(0, length, _CHUNK):
            nursery.start_soon(copy_chunk, done)
    if errors:
        raise errors[0]
    return length


async def _copy_chunk(source: Handle, off_in: int, target: Handle, off_out: int, size: int) -> None:
    if await source.is_hole(off_in, size):
        await target.write_zeroes(off_out, size)
        return
    data = await source.read(off_in, size)
    written = await target.write(off_out, data)
    if written != size:
        raise OSError(errno.EIO, f"{target.entry.spec}: {written} of {size} bytes were copied")
