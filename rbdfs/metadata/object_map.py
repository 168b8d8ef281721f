"""How much of an image or snapshot is allocated, from its object map, without opening it.

An image with feature object-map has an object ``rbd_object_map.ID`` that tells of every data
object whether it may exist, and each of its snapshots one of its own. Whoever holds the exclusive
lock marks an object there before it writes to it, and takes the mark away after it has removed
it. So the map may tell of data where there is none any more, and never the other way round, as
long as ``trustworthy()`` says so.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rbdfs.ceph.errors import from_ceph
from rbdfs.errors import NotUnderstood
from rbdfs.metadata.encoding import Decoder

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rbdfs.ceph.aio import AioBridge
    from rbdfs.model.image_attributes import ImageAttributes, SnapAttributes

# The states are nonexistent 0, exists 1, pending 2 (about to be removed) and exists, clean 3
# (include/rbd/object_map_types.h). A byte holds four of two bits each, the first in its top bits.
_STATES_A_BYTE = 4
_MAY_EXIST = tuple(bytes((byte >> shift & 3) != 0 for byte in range(256)) for shift in (6, 4, 2, 0))
_RUN = re.compile(rb"\x01+")

# Bytes around the states (common/bit_vector.hpp): a length, version, compat, a length and the
# count; then a length, the CRC of what came before the states and the number of their CRCs.
_FRAME_BYTES = 18 + 12
_CRC_BYTES = 4
_BLOCK_BYTES = 4096
# Ceph makes no larger map (MAX_OBJECT_MAP_OBJECT_COUNT in cls/rbd/cls_rbd_types.h).
_MOST_OBJECTS = 256_000_000

_OBJECT_MAP = 1 << 3
# layering, striping, exclusive lock, object map, fast-diff, deep-flatten, journaling, data pool,
# operations; and dirty cache, which came later.
_UNDERSTOOD_FEATURES = 0x1FF | 1 << 11
_FAST_DIFF_INVALID = 1 << 1


def _crc32c_table() -> tuple[int, ...]:
    table = []
    for crc in range(256):
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
        table.append(crc)
    return tuple(table)


_CRC32C = _crc32c_table()


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
        may_exist = self._may_exist(size, order)
        allocated = may_exist.count(1) << order
        if may_exist and may_exist[-1]:
            allocated -= (len(may_exist) << order) - size
        return allocated

    def extents(self, *, size: int, order: int) -> Iterator[tuple[int, int, bool]]:
        """Return ``(offset, length, True)`` of each run of objects, in bytes and in order.

        The form is that of a whole-object diff. The last extent ends with the image. Raises
        NotUnderstood where the image has more objects than the map.
        """
        # Not a generator itself, so that it raises at once.
        return _extents(self._may_exist(size, order), size, order)

    def _may_exist(self, size: int, order: int) -> bytearray:
        """Return a byte for each object of the image: 1 or 0."""
        objects = _object_count(size, order)
        if objects > self.objects:
            raise NotUnderstood(f"an object map of {self.objects} objects, not {objects}")
        packed = self.states[: _packed_bytes(objects)]
        may_exist = bytearray(len(packed) * _STATES_A_BYTE)
        for index, table in enumerate(_MAY_EXIST):
            may_exist[index::_STATES_A_BYTE] = packed.translate(table)
        del may_exist[objects:]
        return may_exist


def _extents(may_exist: bytearray, size: int, order: int) -> Iterator[tuple[int, int, bool]]:
    for run in _RUN.finditer(may_exist):
        first, end = run.span()
        off = first << order
        yield off, min(end << order, size) - off, True


def trustworthy(attributes: ImageAttributes, snap: SnapAttributes | None = None) -> bool:
    """Tell whether nothing but objects marked in the object map of *snap* (None: head) holds data.

    Not so where there is no valid map, where a parent or the source of a migration shows through
    the holes, where objects are no contiguous part of the image, where rbd-mirror writes the
    image by rules of its own, and where a feature is unknown.

    It holds for what other clients can read: not for writes that a client keeps to itself so
    far, in librbd's cache or in a journal. Attributes are of the moment when they were read:
    whoever takes a hole for certain reads them again after the map.
    """
    overlap: int | None
    if snap is None:
        flags = attributes.flags
        overlap = (attributes.parent.overlap or 0) if attributes.parent else 0
    else:
        flags, overlap = snap.flags, snap.parent_overlap
    return (
        bool(attributes.features & _OBJECT_MAP)
        and not attributes.features & ~_UNDERSTOOD_FEATURES
        and not attributes.striped
        # Fast-diff asks for the difference between two states that both mean data.
        and flags in (0, _FAST_DIFF_INVALID)
        and overlap == 0
    )


async def read_object_map(
    bridge: AioBridge, ioctx: Any, attributes: ImageAttributes, snap: SnapAttributes | None = None
) -> ObjectMap:
    """Read the object map of *snap*, or of the head, from *ioctx* (a ``rados.Ioctx``).

    *ioctx* is of the image's own pool and namespace, also where the data is in another pool. The
    map has at least as many objects as the attributes' size asks for. Ask ``trustworthy()``
    whether it can be relied on.

    One request; a second where the map is larger than the image, as a resize that is under way
    or was interrupted leaves it. Raises OSError (ENOENT: there is none) and NotUnderstood.
    """
    oid = f"rbd_object_map.{attributes.image_id}"
    size = attributes.size
    if snap is not None:
        oid, size = f"{oid}.{snap.snap_id:016x}", snap.size
    objects = count = _object_count(size, attributes.order)
    for _ in range(2):
        length = _encoded_bytes(count)
        # A byte more than expected, to learn whether there is more.
        data = await _read_object(bridge, ioctx, oid, length + 1)
        if len(data) <= length:
            object_map = decode_object_map(data)
            if object_map.objects < objects:
                raise NotUnderstood(f"{oid}: {object_map.objects} objects, not {objects}")
            return object_map
        count, _ = _decode_count(data)
    raise NotUnderstood(f"{oid}: more than {length} bytes")


async def _read_object(bridge: AioBridge, ioctx: Any, oid: str, length: int) -> bytes:
    action = f"{oid}: reading"
    with from_ceph(action):
        count, data = await bridge.call(action, lambda done: ioctx.aio_read(oid, length, 0, done))
    # That of a large image takes some milliseconds to decode.
    await bridge.pace.share()
    # Of an empty object the binding passes on the whole buffer, which nobody has written to.
    content: bytes = data[:count]
    return content


def decode_object_map(data: bytes) -> ObjectMap:
    """Decode a BitVector<2> (src/common/bit_vector.hpp) as object class rbd stores it.

    Raises NotUnderstood, also for a checksum that does not fit.
    """
    count, offset = _decode_count(data)
    end = offset + _packed_bytes(count)
    if end > len(data):
        raise NotUnderstood(f"states of {count} objects in {len(data) - offset} bytes")
    states = data[offset:end]
    encoded = Decoder(data, end)
    footer = Decoder(encoded.string())
    encoded.finish()
    if footer.u32() != _crc32c(data[4:offset]):
        raise NotUnderstood("a header with another checksum")
    if footer.u32() != _block_count(len(states)):
        raise NotUnderstood("another number of checksums")
    # Nothing is written to most of an image, or to nothing else: most blocks are like others.
    crcs: dict[bytes, int] = {}
    for start in range(0, len(states), _BLOCK_BYTES):
        block = states[start : start + _BLOCK_BYTES]
        if block not in crcs:
            crcs[block] = _crc32c(block)
        if footer.u32() != crcs[block]:
            raise NotUnderstood(f"states from byte {start} with another checksum")
    footer.finish()
    return ObjectMap(count, states)


def _decode_count(data: bytes) -> tuple[int, int]:
    """Return the number of objects, and the offset of their states in *data*."""
    content = Decoder(data).string()
    header = Decoder(content)
    _, _, body = header.versioned(understood=1)
    header.finish()
    count = body.u64()
    if count > _MOST_OBJECTS:
        raise NotUnderstood(f"an object map of {count} objects")
    return count, 4 + len(content)


def _crc32c(data: bytes) -> int:
    """Return Ceph's CRC-32C: from 0, and not inverted."""
    crc = 0
    for byte in data:
        crc = _CRC32C[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc


def _object_count(size: int, order: int) -> int:
    objects = -(-size >> order)
    if objects > _MOST_OBJECTS:
        raise NotUnderstood(f"an object map for {objects} objects")
    return objects


def _packed_bytes(objects: int) -> int:
    return -(-objects // _STATES_A_BYTE)


def _block_count(length: int) -> int:
    return -(-length // _BLOCK_BYTES)


def _encoded_bytes(objects: int) -> int:
    packed = _packed_bytes(objects)
    return _FRAME_BYTES + packed + _block_count(packed) * _CRC_BYTES
