"""How Ceph stores an object map: a BitVector<2> (src/common/bit_vector.hpp).

A header, which has the number of objects; their states; and a footer, which has the checksums of
the header and of each block of states.
"""

from __future__ import annotations

from rbdfs.errors import NotUnderstood
from rbdfs.model.encoding import Decoder

STATES_A_BYTE = 4
"""The states are nonexistent 0, exists 1, pending 2 (about to be removed) and exists, clean 3
(include/rbd/object_map_types.h). A byte holds four of two bits each, the first in its top bits."""

HEADER_BYTES = 18
"""A length, version, compat, a length and the count."""

BLOCK_BYTES = 4096
"""What one checksum of states is for."""

# A length, the checksum of the header and the number of those of the states; and each of these.
_FOOTER_BYTES = 12
_CRC_BYTES = 4
# Ceph makes no larger map (MAX_OBJECT_MAP_OBJECT_COUNT in cls/rbd/cls_rbd_types.h).
_MOST_OBJECTS = 256_000_000


def _crc32c_table() -> tuple[int, ...]:
    table = []
    for crc in range(256):
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
        table.append(crc)
    return tuple(table)


_CRC32C = _crc32c_table()


def decode_count(data: bytes) -> tuple[int, int]:
    """Return the number of objects, and the offset of their states in *data*."""
    content = Decoder(data).string()
    header = Decoder(content)
    _, _, body = header.versioned(understood=1)
    header.finish()
    count = body.u64()
    if count > _MOST_OBJECTS:
        raise NotUnderstood(f"an object map of {count} objects")
    return count, 4 + len(content)


def decode_footer(header: bytes, data: bytes) -> list[int]:
    """Return the checksum of each block of states, from what follows the states of a map.

    *header* is what precedes them. Raises NotUnderstood.
    """
    count, _ = decode_count(header)
    encoded = Decoder(data)
    footer = Decoder(encoded.string())
    encoded.finish()
    if footer.u32() != _crc32c(header[4:]):
        raise NotUnderstood("a header with another checksum")
    blocks = footer.u32()
    if blocks != _block_count(count):
        raise NotUnderstood("another number of checksums")
    crcs = [footer.u32() for _ in range(blocks)]
    footer.finish()
    return crcs


def check_blocks(states: bytes, crcs: list[int]) -> None:
    """Raise NotUnderstood unless *states*, whole blocks, have these checksums."""
    starts = range(0, len(states), BLOCK_BYTES)
    if len(starts) != len(crcs):
        raise NotUnderstood(f"{len(crcs)} checksums for {len(states)} bytes of states")
    # Many blocks of an image are like others.
    known: dict[bytes, int] = {}
    for start, crc in zip(starts, crcs, strict=True):
        block = states[start : start + BLOCK_BYTES]
        if block not in known:
            known[block] = _crc32c(block)
        if crc != known[block]:
            raise NotUnderstood(f"states from byte {start} with another checksum")


def _crc32c(data: bytes) -> int:
    """Return Ceph's CRC-32C: from 0, and not inverted."""
    crc = 0
    # Zeros in front leave it 0, and nothing is written to most of an image.
    for byte in data.lstrip(b"\0"):
        crc = _CRC32C[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc


def object_count(size: int, order: int) -> int:
    """Return how many objects an image has; raise NotUnderstood for more than a map can have."""
    objects = -(-size >> order)
    if objects > _MOST_OBJECTS:
        raise NotUnderstood(f"an object map for {objects} objects")
    return objects


def packed_bytes(objects: int) -> int:
    """Return how long the states of so many objects are."""
    return -(-objects // STATES_A_BYTE)


def _block_count(objects: int) -> int:
    return -(-packed_bytes(objects) // BLOCK_BYTES)


def footer_bytes(objects: int) -> int:
    """Return how much follows the states of so many objects."""
    return _FOOTER_BYTES + _block_count(objects) * _CRC_BYTES
