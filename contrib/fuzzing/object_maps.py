"""Object maps, and what they say of an image.

An input: a byte for the order, eight for the size of an image, a byte that says whether the
checksums of what follows are to be set right, and the object as an OSD keeps it.
"""

from __future__ import annotations

import contextlib
import struct

from fuzzing.parts import Parts, at_once, crc32c
from rbdfs.errors import NotUnderstood
from rbdfs.metadata.object_map import ObjectMap, decode_object_map, read_object_map
from rbdfs.model.image_attributes import ImageAttributes

_BLOCK_BYTES = 4096


def check(data: bytes) -> None:
    parts = Parts(data)
    order, size, sealed = 9 + parts.number() % 54, parts.number(8), parts.number() & 1
    stored = parts.rest()
    if sealed:
        stored = _sealed(stored)
    with contextlib.suppress(NotUnderstood):
        decoded = decode_object_map(stored)
        # What has other checksums, or another length, is not understood.
        assert len(decoded.states) == -(-decoded.objects // 4)
        _check_extents(decoded, size, order)
    with contextlib.suppress(NotUnderstood):
        read = at_once(read_object_map(_Osd(stored), _Osd(stored), _attributes(size, order)))  # type: ignore[arg-type]
        assert read.objects << order >= size


def _check_extents(decoded: ObjectMap, size: int, order: int) -> None:
    # The image that the map is of, and any other one.
    for bytes_long in {size, decoded.objects << order}:
        with contextlib.suppress(NotUnderstood):
            allocated = decoded.allocated_bytes(size=bytes_long, order=order)
            end = total = 0
            for off, length, exists in decoded.extents(size=bytes_long, order=order):
                assert exists
                assert length > 0
                assert off >= end
                end, total = off + length, total + length
            assert end <= bytes_long
            assert total == allocated


def _attributes(size: int, order: int) -> ImageAttributes:
    return ImageAttributes("1", size, order, 8, 0, 0, 0, (), -1, None, 0, False)


class _Osd:
    """As a rados.Ioctx, and as the bridge to it."""

    def __init__(self, stored: bytes) -> None:
        self._stored = stored
        self.pace = self

    async def call(self, action: str, submit: object) -> tuple[int, bytes]:
        length = submit(None)  # type: ignore[operator]
        data = self._stored[:length]
        # Of an empty object the binding passes on the whole buffer.
        return len(data), data or bytes(min(length, 64))

    async def share(self) -> None:
        """As the pace of the bridge."""

    def aio_read(self, oid: str, length: int, off: int, done: object) -> int:
        return length


def _sealed(stored: bytes) -> bytes:
    """Return *stored* with the length and the checksums at its end that it should have."""
    if len(stored) < 18:
        return stored
    header_end = 4 + int.from_bytes(stored[:4], "little")
    objects = int.from_bytes(stored[10:18], "little")
    packed = -(-objects // 4)
    if header_end < 18 or header_end + packed > len(stored):
        return stored
    states = stored[header_end : header_end + packed]
    blocks = [states[at : at + _BLOCK_BYTES] for at in range(0, packed, _BLOCK_BYTES)]
    crcs = [crc32c(stored[4:header_end]), len(blocks), *map(crc32c, blocks)]
    footer = struct.pack(f"<{len(crcs)}I", *crcs)
    return stored[: header_end + packed] + struct.pack("<I", len(footer)) + footer
