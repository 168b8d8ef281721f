"""Where the meters of a mount are in their memory, as datapath/src/meters.h has it in C.

64-bit words in the order of the host: a header, the figures, and a place for each image, with a
meter for each operation and writer. A change of it is another VERSION, which servers of this one
do not count in; words that are spare are zero.
"""

from __future__ import annotations

import enum
import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from mmap import mmap

    Buffer = bytes | bytearray | memoryview | mmap

MAGIC = int.from_bytes(b"rbdfsmtr", "little")
VERSION = 1
WORD = 8
HEADER_BYTES = 4096
FIGURES, FIGURE_BYTES, FIGURE_NAME_BYTES = 128, 64, 56
FIGURES_OFFSET = HEADER_BYTES
IMAGES, IMAGE_BYTES, KEY_BYTES = 4096, 8192, 1272
IMAGES_OFFSET = FIGURES_OFFSET + FIGURES * FIGURE_BYTES
BYTES = IMAGES_OFFSET + IMAGES * IMAGE_BYTES
"""Of the whole memory. It is sparse: what was never used takes none."""

BUCKETS, ERRORS = 24, 8
METER_BYTES = 384
METERS_OFFSET = WORD + KEY_BYTES
"""Where the meters of an image begin in its place."""
NATIVE, PYTHON = range(2)
"""Who writes a meter: each has its own, of all operations."""
# Words from the begin of a meter.
IN_FLIGHT, SUM_NS, FIRST_BUCKET = 0, 2, 3
TRANSFERRED = 1
FIRST_ERROR = FIRST_BUCKET + BUCKETS
USED_OFFSET, ANSWERED_OFFSET = 8 * WORD, 16 * WORD

_HEADER = struct.Struct("=8Q")
_HEADER_VALUES = (
    *(MAGIC, VERSION, IMAGES, IMAGE_BYTES, IMAGES_OFFSET),
    *(FIGURES, FIGURE_BYTES, FIGURES_OFFSET),
)

OTHERS = ""
"""The key of images that have no place of their own: they are too many, or the name is too long."""
BOUNDS_S = tuple(16e-6 * (1 << i) for i in range(BUCKETS - 1))
"""The upper bounds of the buckets in seconds, but of the last, which has none: 16 us to 67 s."""


class Operation(enum.IntEnum):
    """What the kernel asks of an image, by its place among the meters."""

    READ = 0
    WRITE = 1
    FLUSH = 2
    """fsync(2)"""
    DISCARD = 3
    """fallocate(2) that punches a hole"""
    WRITE_ZEROES = 4
    """fallocate(2) that zeroes"""
    SEEK = 5
    """lseek(2) for data and holes"""
    COPY = 6
    """copy_file_range(2), counted for the image that is written"""
    CLOSE = 7
    """close(2), which flushes what was written"""
    ALLOCATE = 8
    """fallocate(2) that reserves, for which there is nothing to do"""


OPERATIONS = len(Operation)


def empty() -> bytes:
    """Return what the memory begins with when nothing was counted; the rest of it is zeros."""
    # The first image is OTHERS.
    return _HEADER.pack(*_HEADER_VALUES) + struct.pack("=Q", 1)


def used_bytes(header: Buffer) -> int:
    """Return how many bytes of the memory, which begins with *header*, there is something in.

    *header* has HEADER_BYTES. Raises ValueError as images_used() does.
    """
    return IMAGES_OFFSET + images_used(memoryview(header).cast("B")) * IMAGE_BYTES


def meter_offset(number: int, operation: int, writer: int) -> int:
    """Return where the meter of an operation of the image with this *number* is, in bytes."""
    image = IMAGES_OFFSET + number * IMAGE_BYTES
    return image + METERS_OFFSET + (writer * OPERATIONS + operation) * METER_BYTES


def keys_in(memory: memoryview, used: int) -> Iterator[str]:
    """Yield the keys of the images in use, in the order of their numbers."""
    for number in range(used):
        begin = IMAGES_OFFSET + number * IMAGE_BYTES
        (length,) = struct.unpack_from("=Q", memory, begin)
        key = bytes(memory[begin + WORD : begin + WORD + min(length, KEY_BYTES)])
        yield key.decode("utf-8", "replace")


def figures_in(memory: memoryview) -> Iterator[tuple[str, float]]:
    """Yield names and values of the figures, in the order of their places."""
    for i in range(FIGURES):
        name, value = struct.unpack_from(
            f"={FIGURE_NAME_BYTES}sd", memory, FIGURES_OFFSET + i * FIGURE_BYTES
        )
        if not (text := name.rstrip(b"\0")):
            return
        yield text.decode("ascii", "replace"), value


def images_used(memory: memoryview) -> int:
    """Return how many images are in use; raise ValueError for what is no memory of this version."""
    if len(memory) < HEADER_BYTES or _HEADER.unpack_from(memory) != _HEADER_VALUES:
        raise ValueError("not the meters of a mount, or of another version")
    (used,) = struct.unpack_from("=Q", memory, USED_OFFSET)
    if not 1 <= used <= IMAGES:
        raise ValueError(f"meters of {used} images")
    return int(used)
