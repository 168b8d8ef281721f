"""What is written: blocks that tell which file, block, writer and version they are."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

BLOCK = 4096
# A block is one unit again and again, so that a block of two writes shows both.
_UNIT = struct.Struct("<4sIIIIII")
UNIT = _UNIT.size + 4
_MAGIC = b"soak"
_ZERO = bytes(UNIT)


@dataclass(frozen=True, order=True)
class Mark:
    """Where a unit belongs, and what wrote it."""

    file: int
    block: int
    writer: int
    version: int

    def __str__(self) -> str:
        return f"version {self.version} of user {self.writer}"


@dataclass(frozen=True)
class Damaged:
    """A unit that nobody has written."""

    found: bytes

    def __str__(self) -> str:
        return f"damaged: {self.found[:16].hex()}..."


Value = Mark | Damaged | None
"""What a unit of a block may be; None is zeros."""


def unit(mark: Mark) -> bytes:
    head = _UNIT.pack(_MAGIC, mark.file, mark.block, mark.writer, mark.version, 0, 0)
    return head + struct.pack("<I", zlib.crc32(head))


def pattern(file: int, writer: int, version: int, off: int, size: int) -> bytes:
    """The bytes ``off~size`` of a file that *writer* has filled with *version*."""
    first, last = off // BLOCK, (off + size + BLOCK - 1) // BLOCK
    whole = b"".join(
        unit(Mark(file, block, writer, version)) * (BLOCK // UNIT) for block in range(first, last)
    )
    return whole[off - first * BLOCK :][:size]


def values(data: bytes, file: int, block: int) -> set[Value]:
    """What a whole block, the one numbered *block* of *file*, was found to hold."""
    if data == data[:UNIT] * (len(data) // UNIT):
        return {_value(data[:UNIT], file, block)}
    return {_value(data[start : start + UNIT], file, block) for start in range(0, len(data), UNIT)}


def _value(found: bytes, file: int, block: int) -> Value:
    if found == _ZERO:
        return None
    if found[:4] != _MAGIC or len(found) != UNIT:
        return Damaged(found)
    if struct.unpack("<I", found[-4:])[0] != zlib.crc32(found[:-4]):
        return Damaged(found)
    _, in_file, in_block, writer, version, _, _ = _UNIT.unpack(found[:-4])
    if (in_file, in_block) != (file, block):
        return Damaged(found)
    return Mark(in_file, in_block, writer, version)


def describe_difference(expected: bytes, found: bytes) -> str:
    """Where two contents differ, for a person."""
    if len(expected) != len(found) and expected[: len(found)] == found[: len(expected)]:
        return f"{len(found)} bytes instead of {len(expected)}"
    first = next(
        (off for off, (a, b) in enumerate(zip(expected, found, strict=False)) if a != b),
        min(len(expected), len(found)),
    )
    there = found[first : first + 64]
    what = "zeros" if not any(there) else repr(there[:24])
    differing = sum(
        expected[off : off + BLOCK] != found[off : off + BLOCK]
        for off in range(0, max(len(expected), len(found)), BLOCK)
    )
    return (
        f"{len(found)} bytes (expected {len(expected)}), {differing} blocks differ, "
        f"the first byte at {first}: {what}"
    )
