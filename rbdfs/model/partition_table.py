"""Partition tables: where the partitions of an image are, numbered as Linux numbers them.

The parser does no I/O: scan() is a generator that yields the (offset, length) it wants to read and
is sent the bytes.  It takes MBR, with logical partitions, and GPT, with the backup at the end of
the image, for sectors of 512 and 4096 bytes.

What to believe follows the kernel (block/partitions/msdos.c and efi.c) and libblkid, with one
difference: a table that contradicts itself or the image shows nothing at all, where the kernel
would show the parts it believes.  Partitions are written to, and then a wrong place is data loss.
"""

from __future__ import annotations

import itertools
import struct
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from rbdfs.errors import Incomplete

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator, Iterator

MAX_NUMBER = 255
"""Largest partition number: the kernel's (DISK_MAX_PARTS is 256, and 0 is the disk)."""

MAX_GPT_ENTRIES = 1024
"""Longest GPT read, in entries of 128 bytes; every common tool writes 128.

Both tables for both sector sizes are then 4 * 128 KiB, and four chains of MAX_NUMBER tables in an
MBR as much: all that is ever read stays below 1 MiB.
"""

_SECTOR_SIZES = (512, 4096)
_SIGNATURE = b"\x55\xaa"
_EXTENDED = (0x05, 0x0F, 0x85)
_PROTECTIVE = 0xEE
_MBR_ENTRY = struct.Struct("<B3xB3xII")
_GPT_HEADER = struct.Struct("<8s4xII4xQ8xQQ16xQIII")
_GPT_ENTRY = struct.Struct("<16s16xQQ80x")
_UNUSED = bytes(16)


@dataclass(frozen=True, slots=True)
class Partition:
    """Partition *number* (as in ``sda1``) at ``offset``~``length``, both in bytes."""

    number: int
    offset: int
    length: int


class _BadTable(Exception):
    """The partition table contradicts itself or the image."""


class _MbrEntry(NamedTuple):
    boot: int
    type: int
    start: int
    """In sectors; what it is relative to depends on the table."""
    sectors: int

    @property
    def extended(self) -> bool:
        return self.type in _EXTENDED


class _GptHeader(NamedTuple):
    magic: bytes
    header_size: int
    header_crc: int
    my_lba: int
    first_usable: int
    last_usable: int
    entries_lba: int
    entry_count: int
    entry_size: int
    entries_crc: int

    @property
    def entries_bytes(self) -> int:
        return self.entry_count * self.entry_size


def read_partitions(
    size: int, read: Callable[[int, int], bytes], sector: int = 512
) -> list[Partition]:
    """Run scan() on a *read* that takes (offset, length) in bytes; raises what either raises."""
    steps = scan(size, sector)
    try:
        request = next(steps)
        while True:
            request = steps.send(read(*request))
    except StopIteration as stop:
        return list(stop.value)


async def read_partitions_async(
    size: int, read: Callable[[int, int], Awaitable[bytes]], sector: int = 512
) -> list[Partition]:
    """Run scan() on a *read* that is awaited."""
    steps = scan(size, sector)
    try:
        request = next(steps)
        while True:
            request = steps.send(await read(*request))
    except StopIteration as stop:
        return list(stop.value)


def scan(size: int, sector: int) -> Generator[tuple[int, int], bytes, list[Partition]]:
    """Find the partitions of an image of *size* bytes, in order of their numbers.

    *sector* is the sector size, in bytes, of an MBR that does not tell it.

    Yields what to read, (offset, length) in bytes inside the image, and is sent it.  No table, or
    none to be believed, is an empty list.  Raises OSError EIO if it is sent fewer bytes.
    """
    if size < 512:
        return []
    try:
        boot_sector = yield from _read(size, 0, 512)
        entries = _mbr_entries(boot_sector)
        if not _is_mbr(boot_sector, entries):
            return []
        protective = [entry for entry in entries if entry.type == _PROTECTIVE]
        if protective:
            # As the kernel: what an MBR says beside its protective entry does not count.
            if all(entry.start != 1 for entry in protective):
                return []
            return (yield from _scan_gpt(size))
        return (yield from _scan_mbr(size, entries, sector))
    except _BadTable:
        return []


def _read(size: int, off: int, length: int) -> Generator[tuple[int, int], bytes, bytes]:
    if off + length > size:
        raise _BadTable
    data = yield off, length
    if len(data) != length:
        raise Incomplete(f"short read at {off}~{length}: {len(data)} bytes")
    return data


def _is_mbr(boot_sector: bytes, entries: list[_MbrEntry]) -> bool:
    """Tell an MBR from the boot sector of a file system, which has the same signature."""
    return (
        boot_sector[510:512] == _SIGNATURE
        and all(entry.boot in (0x00, 0x80) for entry in entries)
        and boot_sector[3:11] not in (b"NTFS    ", b"EXFAT   ")
        and not _is_fat(boot_sector)
    )


def _is_fat(boot_sector: bytes) -> bool:
    """Check the BIOS parameter block, by the rules of libblkid and of the kernel's fat driver."""
    sector, cluster, reserved, fats = struct.unpack_from("<HBHB", boot_sector, 11)
    return (
        sector in (512, 1024, 2048, 4096)
        and cluster.bit_count() == 1
        and reserved > 0
        and fats > 0
        and (boot_sector[21] == 0xF0 or boot_sector[21] >= 0xF8)
    )


def _mbr_entries(sector: bytes) -> list[_MbrEntry]:
    return [_MbrEntry(*_MBR_ENTRY.unpack_from(sector, 446 + 16 * index)) for index in range(4)]


def _scan_mbr(
    size: int, entries: list[_MbrEntry], default: int
) -> Generator[tuple[int, int], bytes, list[Partition]]:
    # As the kernel: the size alone tells a used entry, and an unused one keeps its number.
    used = {number: entry for number, entry in enumerate(entries, 1) if entry.sectors}
    containers = [entry for entry in used.values() if entry.extended]
    sector = yield from _mbr_sector_size(size, containers, default)
    primaries = [
        Partition(number, entry.start * sector, entry.sectors * sector)
        for number, entry in used.items()
    ]
    _check_disjoint(primaries, sector, size)
    found = [partition for partition in primaries if not used[partition.number].extended]
    numbers = itertools.count(5)
    for container in containers:
        found += yield from _scan_logical(size, container, sector, numbers)
    if any(partition.number > MAX_NUMBER for partition in found):
        raise _BadTable
    return found


def _mbr_sector_size(
    size: int, containers: list[_MbrEntry], default: int
) -> Generator[tuple[int, int], bytes, int]:
    """Return the sector size by which an extended partition begins with a table of its own.

    Nothing else in an MBR tells it: the kernel has it from the device, and fdisk -b, partx -S and
    losetup -b from their users.  What begins at a partition by one size or the other proves
    nothing, as old data may.
    """
    for container in containers:
        for sector in _SECTOR_SIZES:
            if container.start * sector + 512 <= size:
                data = yield from _read(size, container.start * sector, 512)
                if data[510:] == _SIGNATURE:
                    return sector
    return default


def _scan_logical(
    size: int, container: _MbrEntry, sector: int, numbers: Iterator[int]
) -> Generator[tuple[int, int], bytes, list[Partition]]:
    """Follow the chain of tables inside one extended partition."""
    start, end = container.start, container.start + container.sectors
    found: list[Partition] = []
    table, table_sectors = start, container.sectors
    tables: set[int] = set()
    while table not in tables and len(tables) < MAX_NUMBER:
        tables.add(table)
        data = yield from _read(size, table * sector, 512)
        if data[510:] != _SIGNATURE:
            if table == start:
                return []  # an extended partition that was never filled
            raise _BadTable
        entries = [entry for entry in enumerate(_mbr_entries(data)) if entry[1].sectors]
        for index, entry in entries:
            # As the kernel: the third and the fourth entry may hold anything.
            past_table = entry.start + entry.sectors > min(table_sectors, end - table)
            if entry.extended or (index >= 2 and past_table):
                continue
            offset = (table + entry.start) * sector
            found.append(Partition(next(numbers), offset, entry.sectors * sector))
        link = next((entry for _, entry in entries if entry.extended), None)
        if link is None:
            links = [Partition(0, lba * sector, sector) for lba in tables]
            _check_disjoint(found + links, start * sector, end * sector)
            return found
        table, table_sectors = start + link.start, link.sectors
    raise _BadTable  # a loop, or more than there are numbers for


def _scan_gpt(size: int) -> Generator[tuple[int, int], bytes, list[Partition]]:
    """Take the first table that is whole: primary before backup, 512 before 4096."""
    for primary in (True, False):
        for sector in _SECTOR_SIZES:
            lba = 1 if primary else size // sector - 1
            header = yield from _read_gpt_header(size, sector, lba)
            if header is None:
                continue
            table = yield from _read(size, header.entries_lba * sector, header.entries_bytes)
            if zlib.crc32(table) == header.entries_crc:
                return _gpt_partitions(header, table, sector)
    return []


def _read_gpt_header(
    size: int, sector: int, lba: int
) -> Generator[tuple[int, int], bytes, _GptHeader | None]:
    """Return the header in sector *lba*, None unless it passes is_gpt_valid() of efi.c."""
    if lba < 1 or (lba + 1) * sector > size:
        return None
    raw = yield from _read(size, lba * sector, sector)
    header = _GptHeader(*_GPT_HEADER.unpack_from(raw))
    valid = (
        header.magic == b"EFI PART"
        and _GPT_HEADER.size <= header.header_size <= sector
        and zlib.crc32(raw[:16] + bytes(4) + raw[20 : header.header_size]) == header.header_crc
        and header.my_lba == lba
        and 1 < header.first_usable <= header.last_usable < size // sector
        and header.entry_size == _GPT_ENTRY.size
        and 0 < header.entry_count <= MAX_GPT_ENTRIES
        and header.entries_lba * sector + header.entries_bytes <= size
    )
    return header if valid else None


def _gpt_partitions(header: _GptHeader, table: bytes, sector: int) -> list[Partition]:
    found = []
    for number, (type_guid, first, last) in enumerate(_GPT_ENTRY.iter_unpack(table), 1):
        if type_guid == _UNUSED:
            continue
        if number > MAX_NUMBER:
            raise _BadTable
        found.append(Partition(number, first * sector, (last - first + 1) * sector))
    _check_disjoint(found, header.first_usable * sector, (header.last_usable + 1) * sector)
    return found


def _check_disjoint(partitions: list[Partition], start: int, end: int) -> None:
    """Raise _BadTable unless all lie between *start* and *end*, not empty and not overlapping."""
    for partition in sorted(partitions, key=lambda each: each.offset):
        if partition.offset < start or partition.length < 1:
            raise _BadTable
        start = partition.offset + partition.length
    if start > end:
        raise _BadTable
