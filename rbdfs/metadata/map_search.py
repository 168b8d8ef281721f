"""Data and holes of an image's head, looked for in its object map: as much of it as that takes.

The map of 4 PiB has 32 MiB, and others may change it meanwhile; what is read is as of then.
"""

from __future__ import annotations

import re
from functools import partial
from typing import TYPE_CHECKING, Any

import trio

from rbdfs.errors import NotUnderstood
from rbdfs.metadata.object_map import decoded, object_map_name, read_object
from rbdfs.metadata.object_map_encoding import (
    BLOCK_BYTES,
    HEADER_BYTES,
    STATES_A_BYTE,
    check_blocks,
    decode_count,
    decode_footer,
    footer_bytes,
    object_count,
    packed_bytes,
)

if TYPE_CHECKING:
    from rbdfs.ceph.aio import AioBridge
    from rbdfs.model.image_attributes import ImageAttributes

_BLOCK_OBJECTS = BLOCK_BYTES * STATES_A_BYTE
# What is looked for is mostly near; if it is not, each read brings so many times more.
_MORE, _MOST_BLOCKS = 4, 64
# Reads of one part that others may change in between, so that its checksums do not fit.
_TRIES = 8


def _any_of(*values: int) -> re.Pattern[bytes]:
    return re.compile(b"[%b]" % re.escape(bytes(values)))


# Bytes of the map that tell of data, and of holes.
_DATA = _any_of(*range(1, 256))
_HOLE = _any_of(
    *(byte for byte in range(256) if not all(byte >> shift & 3 for shift in (6, 4, 2, 0)))
)


class NotRead(Exception):
    """What was read of the map does not tell."""


class MapSearch:
    """Finds objects in the object map of one image's head.

    Attributes:
        sealed: set where nothing more is to be read: find() raises NotRead instead.
    """

    def __init__(
        self,
        bridge: AioBridge,
        ioctx: Any,
        attributes: ImageAttributes,
        decoding: trio.CapacityLimiter | None = None,
    ) -> None:
        """*ioctx* (a ``rados.Ioctx``) is of the image's own pool and namespace.

        *decoding* is as for read_object_map(). Raises NotUnderstood for an image without end.
        """
        self._bridge, self._ioctx, self._decoding = bridge, ioctx, decoding
        self.sealed = False
        self._oid = object_map_name(attributes)
        self._objects = self._count = object_count(attributes.size, attributes.order)
        # What was read last, and the number of its first object.
        self._states, self._first = b"", 0

    async def find(self, number: int, *, data: bool) -> int:
        """Return the first object from *number* on that may exist, or with not *data* does not.

        The number of objects where there is none. Raises OSError (ENOENT: there is no map) and
        NotUnderstood.
        """
        blocks = 1
        while number < self._objects:
            end = self._first + len(self._states) * STATES_A_BYTE
            if not self._first <= number < end:
                if self.sealed:
                    raise NotRead
                await self._read(number // _BLOCK_OBJECTS, blocks)
                blocks = min(blocks * _MORE, _MOST_BLOCKS)
                end = self._first + len(self._states) * STATES_A_BYTE
            found = _first_object(self._states, number - self._first, data=data)
            if found is not None:
                return min(self._first + found, self._objects)
            number = end
        return self._objects

    async def _read(self, block: int, blocks: int) -> None:
        reason = "resized all the time"
        for _ in range(_TRIES):
            count, states_end = self._count, HEADER_BYTES + packed_bytes(self._count)
            off = HEADER_BYTES + block * BLOCK_BYTES
            length = min(blocks * BLOCK_BYTES, states_end - off)
            # A byte more than expected, to learn whether there is more.
            header, states, footer = await self._read_parts(
                (0, HEADER_BYTES), (off, length), (states_end, footer_bytes(count) + 1)
            )
            self._count = decode_count(header)[0]
            if self._count < self._objects:
                raise NotUnderstood(f"{self._oid}: {self._count} objects, not {self._objects}")
            if self._count != count:
                continue
            try:
                crcs = decode_footer(header, footer)[block : block + blocks]
                await decoded(length, partial(check_blocks, states, crcs), self._decoding)
            except NotUnderstood as exc:
                reason = str(exc.strerror)
                continue
            self._states, self._first = states, block * _BLOCK_OBJECTS
            return
        raise NotUnderstood(f"{self._oid}: {reason}")

    async def _read_parts(self, *parts: tuple[int, int]) -> list[bytes]:
        """Return these ``off~length`` of the map, read at once; raise OSError."""
        found, errors = [b""] * len(parts), []

        async def read(index: int, off: int, length: int) -> None:
            try:
                found[index] = await read_object(self._bridge, self._ioctx, self._oid, off, length)
            except OSError as exc:
                errors.append(exc)

        async with trio.open_nursery() as nursery:
            for index, part in enumerate(parts):
                nursery.start_soon(read, index, *part)
        if errors:
            raise errors[0]
        return found


def _first_object(states: bytes, number: int, *, data: bool) -> int | None:
    """Return the first object from *number* on that may exist, or that does not."""
    wanted, at = _DATA if data else _HOLE, number // STATES_A_BYTE
    while match := wanted.search(states, at):
        at = match.start()
        for found in range(max(number, at * STATES_A_BYTE), (at + 1) * STATES_A_BYTE):
            if (states[at] >> 6 - 2 * (found % STATES_A_BYTE) & 3 != 0) is data:
                return found
        at += 1
    return None
