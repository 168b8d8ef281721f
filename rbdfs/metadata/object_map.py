"""Which objects of an image or snapshot may exist, from its object map, without opening it.

An image with feature object-map has an object ``rbd_object_map.ID`` that tells of every data
object whether it may exist, and each of its snapshots one of its own. Whoever holds the exclusive
lock marks an object there before it writes to it, and takes the mark away after it has removed
it. So the map may tell of data where there is none any more, and never the other way round, as
long as ``trustworthy()`` says so.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import trio

from rbdfs.ceph.errors import from_ceph
from rbdfs.errors import NotUnderstood
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
    from collections.abc import Callable, Iterator
    from typing import TypeVar

    from rbdfs.ceph.aio import AioBridge
    from rbdfs.model.image_attributes import ImageAttributes, SnapAttributes

    T = TypeVar("T")

# Of each of the four states that a byte holds, whether it is another one than nonexistent.
_MAY_EXIST = tuple(bytes((byte >> shift & 3) != 0 for byte in range(256)) for shift in (6, 4, 2, 0))
_RUN = re.compile(rb"\x01+")
# How many bytes of states are unpacked at once: no other thread runs meanwhile.
_PIECE_BYTES = 16384

# A map that is longer is decoded in a thread: a block that is like no other takes 0.4 ms.
_LARGE_BYTES = 4 * BLOCK_BYTES

_OBJECT_MAP = 1 << 3
# layering, striping, exclusive lock, object map, fast-diff, deep-flatten, journaling, data pool,
# operations; and dirty cache, which came later.
_UNDERSTOOD_FEATURES = 0x1FF | 1 << 11
_FAST_DIFF_INVALID = 1 << 1


@dataclass(frozen=True, slots=True)
class ObjectMap:
    """Which of the first ``objects`` data objects may exist; ``states`` are as Ceph packs them."""

    objects: int
    states: bytes

    def allocated_bytes(self, *, size: int, order: int) -> int:
        """Return how much of an image of *size* bytes is in objects (of ``2**order`` bytes).

        The last object counts as far as the image goes. Raises NotUnderstood where the image has
        more objects than the map.
        """
        objects, allocated = object_count(size, order), 0
        for number, piece in self._may_exist(objects):
            allocated += piece.count(1) << order
            if number + len(piece) == objects and piece[-1]:
                allocated -= (objects << order) - size
        return allocated

    def extents(self, *, size: int, order: int) -> Iterator[tuple[int, int, bool]]:
        """Return ``(offset, length, True)`` of each run of objects, in bytes and in order.

        The form is that of a whole-object diff; long runs are in parts. The last extent ends with
        the image. Raises NotUnderstood where the image has more objects than the map.
        """
        # Not a generator itself, so that it raises at once.
        pieces = self._may_exist(object_count(size, order))
        return (
            (
                number + start << order,
                min(number + end << order, size) - (number + start << order),
                True,
            )
            for number, piece in pieces
            for start, end in map(re.Match.span, _RUN.finditer(piece))
        )

    def _may_exist(self, objects: int) -> Iterator[tuple[int, bytearray]]:
        """Return pieces of the map with the number of their first object: a byte for each, 1 or 0.

        Pieces without data are left out. Raises NotUnderstood where the map has fewer *objects*.
        """
        if objects > self.objects:
            raise NotUnderstood(f"an object map of {self.objects} objects, not {objects}")
        return self._pieces(objects)

    def _pieces(self, objects: int) -> Iterator[tuple[int, bytearray]]:
        for first in range(0, packed_bytes(objects), _PIECE_BYTES):
            packed, number = self.states[first : first + _PIECE_BYTES], first * STATES_A_BYTE
            # Most of a large image is like this.
            if packed.lstrip(b"\0"):
                may_exist = bytearray(len(packed) * STATES_A_BYTE)
                for index, table in enumerate(_MAY_EXIST):
                    may_exist[index::STATES_A_BYTE] = packed.translate(table)
                del may_exist[objects - number :]
                yield number, may_exist


def trustworthy(attributes: ImageAttributes, snap: SnapAttributes | None = None) -> bool:
    """Tell whether nothing but objects marked in the object map of *snap* (None: head) holds data.

    As tells_own_data(), and nothing shows through the holes from what it was cloned from.
    """
    return tells_own_data(attributes, snap) and parent_overlap(attributes, snap) == 0


def parent_overlap(attributes: ImageAttributes, snap: SnapAttributes | None = None) -> int | None:
    """Return how many bytes may come from the parent; None where that was not read."""
    if snap is not None:
        return snap.parent_overlap
    return (attributes.parent.overlap or 0) if attributes.parent else 0


def tells_own_data(attributes: ImageAttributes, snap: SnapAttributes | None = None) -> bool:
    """Tell whether the object map of *snap* (None: head) marks each object that exists.

    Not so where there is no valid map, where the source of a migration shows through the holes,
    where objects are no contiguous part of the image, where rbd-mirror writes the image by rules
    of its own, and where a feature is unknown.

    It holds for what other clients can read: not for writes that a client keeps to itself so
    far, in librbd's cache or in a journal. Attributes are of the moment when they were read:
    whoever takes a hole for certain reads them again after the map.
    """
    flags = attributes.flags if snap is None else snap.flags
    return (
        bool(attributes.features & _OBJECT_MAP)
        and not attributes.features & ~_UNDERSTOOD_FEATURES
        and not attributes.striped
        # Fast-diff asks for the difference between two states that both mean data.
        and flags in (0, _FAST_DIFF_INVALID)
    )


async def read_object_map(
    bridge: AioBridge,
    ioctx: Any,
    attributes: ImageAttributes,
    snap: SnapAttributes | None = None,
    decoding: trio.CapacityLimiter | None = None,
) -> ObjectMap:
    """Read the object map of *snap*, or of the head, from *ioctx* (a ``rados.Ioctx``).

    *ioctx* is of the image's own pool and namespace, also where the data is in another pool. The
    map has at least as many objects as the attributes' size asks for. Ask ``trustworthy()``
    whether it can be relied on. A large one is decoded in a thread of *decoding*.

    One request; a second where the map is larger than the image, as a resize that is under way
    or was interrupted leaves it. Raises OSError (ENOENT: there is none) and NotUnderstood.
    """
    oid, size = object_map_name(attributes, snap), attributes.size if snap is None else snap.size
    objects = count = object_count(size, attributes.order)
    for _ in range(2):
        length = HEADER_BYTES + packed_bytes(count) + footer_bytes(count)
        # A byte more than expected, to learn whether there is more.
        data = await read_object(bridge, ioctx, oid, 0, length + 1)
        # That of a large image takes some milliseconds to decode.
        await bridge.pace.share()
        if len(data) <= length:
            object_map = await decoded(len(data), partial(decode_object_map, data), decoding)
            if object_map.objects < objects:
                raise NotUnderstood(f"{oid}: {object_map.objects} objects, not {objects}")
            return object_map
        count, _ = decode_count(data)
    raise NotUnderstood(f"{oid}: more than {length} bytes")


async def decoded(length: int, decode: Callable[[], T], limiter: trio.CapacityLimiter | None) -> T:
    """Return what *decode* makes of *length* bytes of a map: in a thread where that takes long."""
    if length <= _LARGE_BYTES:
        return decode()
    return await trio.to_thread.run_sync(decode, limiter=limiter)


def object_map_name(attributes: ImageAttributes, snap: SnapAttributes | None = None) -> str:
    """Return the name of the object that has the object map of *snap*, or of the head."""
    oid = f"rbd_object_map.{attributes.image_id}"
    return oid if snap is None else f"{oid}.{snap.snap_id:016x}"


async def read_object(bridge: AioBridge, ioctx: Any, oid: str, off: int, length: int) -> bytes:
    """Return what an object has of ``off~length``; raise OSError."""
    action = f"{oid}: reading"
    with from_ceph(action):
        count, data = await bridge.call(action, lambda done: ioctx.aio_read(oid, length, off, done))
    # Of an empty object the binding passes on the whole buffer, which nobody has written to.
    content: bytes = data[:count]
    return content


def decode_object_map(data: bytes) -> ObjectMap:
    """Decode a BitVector<2> (src/common/bit_vector.hpp) as object class rbd stores it.

    Raises NotUnderstood, also for a checksum that does not fit.
    """
    count, offset = decode_count(data)
    end = offset + packed_bytes(count)
    if end > len(data):
        raise NotUnderstood(f"states of {count} objects in {len(data) - offset} bytes")
    states = data[offset:end]
    check_blocks(states, decode_footer(data[:offset], data[end:]))
    return ObjectMap(count, states)
