"""Partition tables: MBR, with logical partitions, and GPT.

An input: a byte of flags, eight for the size of the image; then pieces of it, each a place (four
bytes, in sectors, from the end if the top bit is set) and a chunk. With a flag, what is written as
the header of a GPT gets the checksums that it should have.
"""

from __future__ import annotations

import struct
import zlib

from fuzzing.parts import Parts, at_once, sparse
from rbdfs.model.partition_table import (
    MAX_NUMBER,
    Partition,
    read_partitions,
    read_partitions_async,
)

_LARGE_SECTORS, _SEALED, _MBR = 1, 2, 4
_FROM_END = 1 << 31
# What is read in all (partition_table.MAX_GPT_ENTRIES), and no table is longer.
_MOST_READ, _MOST_AT_ONCE = 1 << 20, 1 << 17
_HEADER = struct.Struct("<8sIIII")


class _Image:
    def __init__(self, parts: Parts) -> None:
        flags = parts.number()
        self.sector = 4096 if flags & _LARGE_SECTORS else 512
        self.size = parts.number(8)
        self._pieces: list[tuple[int, bytes]] = []
        self._read_bytes = 0
        if flags & _MBR:
            self._pieces += [(446 + 4, b"\xee" if flags & _SEALED else b"\x83"), (510, b"\x55\xaa")]
            self._pieces.append((446 + 8, struct.pack("<II", 1, 0xFFFFFFFF)))
        while parts:
            at, data = parts.number(4), parts.chunk()
            off = at * self.sector
            if at & _FROM_END:
                off = max(0, self.size // self.sector - (at ^ _FROM_END)) * self.sector
            self._pieces.append((off, data))
        if flags & _SEALED:
            self._seal()

    def _seal(self) -> None:
        for index, (off, data) in enumerate(self._pieces):
            if data[:8] == b"EFI PART" and len(data) >= 92:
                entries_lba, count, size = struct.unpack_from("<QII", data, 72)
                table = sparse(
                    self._pieces, entries_lba * self.sector, min(count * size, _MOST_AT_ONCE)
                )
                data = data[:88] + struct.pack("<I", zlib.crc32(table)) + data[92:]
                header_size = int.from_bytes(data[12:16], "little")
                header = data[:16] + bytes(4) + data[20:header_size]
                crc = zlib.crc32(header.ljust(min(header_size, 4096), b"\0"))
                self._pieces[index] = off, data[:16] + struct.pack("<I", crc) + data[20:]

    def read(self, off: int, length: int) -> bytes:
        assert 0 < length <= _MOST_AT_ONCE
        assert 0 <= off <= off + length <= self.size
        self._read_bytes += length
        assert self._read_bytes <= 2 * _MOST_READ  # by both readers
        return sparse(self._pieces, off, length)

    async def read_async(self, off: int, length: int) -> bytes:
        return self.read(off, length)


def check(data: bytes) -> None:
    image = _Image(Parts(data))
    found = read_partitions(image.size, image.read, image.sector)
    again = at_once(read_partitions_async(image.size, image.read_async, image.sector))
    assert again == found
    _check_partitions(found, image.size)


def _check_partitions(found: list[Partition], size: int) -> None:
    numbers = [each.number for each in found]
    assert numbers == sorted(set(numbers)), "in order of their numbers"
    assert all(1 <= number <= MAX_NUMBER for number in numbers)
    end = 0
    for each in sorted(found, key=lambda each: each.offset):
        assert each.length > 0
        assert each.offset > 0, "the table itself is in no partition"
        assert each.offset >= end, "no two overlap"
        end = each.offset + each.length
    assert end <= size
