"""Partition tables as sfdisk and fdisk write them, broken ones, and noise."""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
import zlib
from typing import TYPE_CHECKING

import pytest
from fuzzing.parts import sparse
from hypothesis import given
from hypothesis import strategies as st

from rbdfs.model.partition_table import (
    MAX_GPT_ENTRIES,
    Partition,
    read_partitions,
    read_partitions_async,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

MIB = 1 << 20
SIZE = 64 * MIB
LINUX, EXTENDED, PROTECTIVE = 0x83, 0x05, 0xEE
UUID = b"\x11" * 16


def tool(name: str) -> str:
    path = shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")
    if path is None:
        pytest.skip(f"{name} is not installed (packages fdisk, util-linux, e2fsprogs)")
    return path


class Disk:
    """A sparse image in memory, which counts what is read of it."""

    def __init__(self, size: int = SIZE, pieces: Iterable[tuple[int, bytes]] = ()) -> None:
        self.size = size
        self.pieces: list[tuple[int, bytes]] = list(pieces)
        self.read_bytes = 0

    def write(self, off: int, data: bytes) -> Disk:
        self.pieces.append((off, data))
        return self

    def read(self, off: int, length: int) -> bytes:
        assert length > 0
        assert 0 <= off <= off + length <= self.size
        self.read_bytes += length
        return sparse(self.pieces, off, length)

    def partitions(self) -> list[Partition]:
        found = read_partitions(self.size, self.read)
        assert self.read_bytes <= MIB
        return found


def partitions_of(path: Path, sector: int = 512) -> list[Partition]:
    with path.open("rb") as file:

        def read(off: int, length: int) -> bytes:
            file.seek(off)
            return file.read(length)

        return read_partitions(path.stat().st_size, read, sector)


def by_sfdisk(path: Path) -> list[Partition]:
    out = subprocess.run([tool("sfdisk"), "--json", path], check=True, capture_output=True)
    table = json.loads(out.stdout)["partitiontable"]
    return [
        Partition(
            int(each["node"].removeprefix(str(path))), each["start"] * 512, each["size"] * 512
        )
        for each in table.get("partitions", [])
        if each["type"] not in ("5", "f", "85")
    ]


def by_libblkid(path: Path, sector: int) -> list[Partition]:
    """What libblkid finds; partx counts in units of 512 bytes whatever the sector size is."""
    command = [tool("partx"), "-S", str(sector), "-g", "-o", "NR,START,SECTORS,TYPE", str(path)]
    out = subprocess.run(command, check=True, capture_output=True, text=True)
    rows = [line.split() for line in out.stdout.splitlines()]
    return [
        Partition(int(row[0]), int(row[1]) * 512, int(row[2]) * 512)
        for row in rows
        if row[3] not in ("0x5", "0xf", "0x85")
    ]


SCRIPTS = {
    "gpt": "label: gpt\n,10M\n,5M\n",
    "gpt with a gap": "label: gpt\n2: size=1M\n7: size=2M\n128: size=3M\n",
    "gpt out of order": "label: gpt\n1: start=40960,size=2048\n2: start=2048,size=2048\n",
    "gpt of 4 entries": "label: gpt\ntable-length: 4\n,10M\n",
    "gpt of 1024 entries": "label: gpt\ntable-length: 1024\n,10M\n200: size=1M\n",
    "empty gpt": "label: gpt\n",
    "mbr": "label: dos\n,10M\n,5M,L,*\n",
    "mbr with a gap": "label: dos\n2: size=1M\n4: size=2M\n",
    "logical": "label: dos\n,10M\n,,E\n,5M\n,6M\n,7M\n",
    "extended of type f": "label: dos\n2: size=20M,type=f\n5: size=1M\n6: size=2M\n",
    "extended of type 85": "label: dos\n2: size=20M,type=85\n5: size=1M\n6: size=2M\n",
    "extended first": (
        "label: dos\n1: start=40960,size=20M,type=5\n3: start=2048,size=1M\n5: size=1M\n"
    ),
    "extended and empty": "label: dos\n,10M\n,,E\n",
    "empty mbr": "label: dos\n",
}


@pytest.mark.parametrize("script", SCRIPTS.values(), ids=SCRIPTS)
def test_as_sfdisk_writes_it(script: str, tmp_path: Path) -> None:
    path = tmp_path / "disk"
    with path.open("wb") as file:
        file.truncate(SIZE)
    subprocess.run([tool("sfdisk"), "-q", path], input=script.encode(), check=True)
    assert partitions_of(path) == by_sfdisk(path) == by_libblkid(path, 512)


def test_many_logical_partitions(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    with path.open("wb") as file:
        file.truncate(4 * SIZE)
    script = "label: dos\n4: type=5\n" + ",1M\n" * 53
    subprocess.run([tool("sfdisk"), "-q", path], input=script.encode(), check=True)
    assert [each.number for each in partitions_of(path)] == list(range(5, 58))
    assert partitions_of(path) == by_sfdisk(path)


@pytest.mark.parametrize(
    "keys",
    ["g n 5 - +10M n 2 - +5M", "o n p 1 - +10M n e 2 - - n - +5M n - +6M"],
    ids=["gpt", "logical"],
)
@pytest.mark.parametrize("sector", [512, 4096])
def test_as_fdisk_writes_it(keys: str, sector: int, tmp_path: Path) -> None:
    path = tmp_path / "disk"
    with path.open("wb") as file:
        file.truncate(SIZE)
    # A dash stands for an empty answer: fdisk's default.
    answers = "".join(f"{key.strip('-')}\n" for key in [*keys.split(), "w"])
    command = [tool("fdisk"), "-b", str(sector), str(path)]
    subprocess.run(command, input=answers.encode(), check=True, stdout=subprocess.DEVNULL)
    found = partitions_of(path)
    assert len(found) in (2, 3)
    assert found == by_libblkid(path, sector)


@pytest.mark.parametrize("sector", [512, 4096])
def test_mbr_that_does_not_tell_its_sector_size(sector: int, tmp_path: Path) -> None:
    path = tmp_path / "disk"
    with path.open("wb") as file:
        file.truncate(SIZE)
    command = [tool("fdisk"), "-b", str(sector), str(path)]
    answers = b"o\nn\np\n1\n\n+10M\nn\np\n2\n\n+5M\nw\n"
    subprocess.run(command, input=answers, check=True, stdout=subprocess.DEVNULL)
    found = partitions_of(path, sector)
    assert [part.length for part in found] == [10 * MIB, 5 * MIB]
    assert found == by_libblkid(path, sector)
    # By the other size they are elsewhere, or outside the image.
    assert partitions_of(path, 4608 - sector) != found


@pytest.mark.parametrize("keys", ["g n 1 - +10M", "o n e 2 - - n - +5M"], ids=["gpt", "logical"])
@pytest.mark.parametrize("sector", [512, 4096])
def test_table_that_tells_its_sector_size(keys: str, sector: int, tmp_path: Path) -> None:
    path = tmp_path / "disk"
    with path.open("wb") as file:
        file.truncate(SIZE)
    answers = "".join(f"{key.strip('-')}\n" for key in [*keys.split(), "w"])
    command = [tool("fdisk"), "-b", str(sector), str(path)]
    subprocess.run(command, input=answers.encode(), check=True, stdout=subprocess.DEVNULL)
    assert partitions_of(path, 512) == partitions_of(path, 4096) != []


def gpt(
    entries: dict[int, tuple[int, int]],
    *,
    size: int = SIZE,
    sector: int = 512,
    backup: bool = False,
    changes: dict[str, int] | None = None,
) -> Disk:
    """Write one GPT of {number: (first, last)} with right checksums; *changes* to its header."""
    sectors = size // sector
    changes = changes or {}
    count = changes.get("count", 128)
    table = bytearray(128 * max(1, min(count, 2 * MAX_GPT_ENTRIES)))
    for number, (first, last) in entries.items():
        struct.pack_into("<16s16sQQ", table, 128 * (number - 1), UUID, UUID, first, last)
    table_sectors = -(-len(table) // sector)
    lba = sectors - 1 if backup else 1
    fields = {
        "header_size": 92,
        "my_lba": lba,
        "first": 2 + table_sectors,
        "last": sectors - 2 - table_sectors,
        "table": lba - table_sectors if backup else 2,
        "count": count,
        "entry_size": 128,
        "table_crc": zlib.crc32(table),
    } | changes
    header = struct.pack(
        "<8sIIIIQQQQ16sQIII",
        b"EFI PART",
        0x10000,
        fields["header_size"],
        0,
        0,
        fields["my_lba"],
        sectors - lba,
        fields["first"],
        fields["last"],
        UUID,
        fields["table"],
        fields["count"],
        fields["entry_size"],
        fields["table_crc"],
    ).ljust(sector, b"\0")
    crc = fields.get("header_crc", zlib.crc32(header[: fields["header_size"]]))
    header = header[:16] + struct.pack("<I", crc) + header[20:]
    disk = Disk(size, [(0, boot_sector((PROTECTIVE, 1, sectors - 1)))])
    disk.write(lba * sector, header)
    return disk.write(fields["table"] * sector, bytes(table))


def boot_sector(*entries: tuple[int, int, int], boot: int = 0) -> bytes:
    """An MBR or EBR of (type, start, sectors) in its first slots."""
    data = bytearray(512)
    for index, (kind, start, sectors) in enumerate(entries):
        struct.pack_into("<B3xB3xII", data, 446 + 16 * index, boot, kind, start, sectors)
    data[510:] = b"\x55\xaa"
    return bytes(data)


def both(primary: Disk, backup: Disk) -> Disk:
    return Disk(primary.size, [*primary.pieces, *backup.pieces])


ONE = {1: (2048, 4095)}
ONE_FOUND = [Partition(1, 2048 * 512, MIB)]


@pytest.mark.parametrize("sector", [512, 4096])
@pytest.mark.parametrize("backup", [False, True])
def test_one_gpt_is_enough(sector: int, backup: bool) -> None:
    disk = gpt(ONE, sector=sector, backup=backup)
    assert disk.partitions() == [Partition(1, 2048 * sector, 2048 * sector)]


@pytest.mark.parametrize(
    "damage",
    [
        {"header_crc": 0},
        {"table_crc": 0},
        {"header_size": 91},
        {"header_size": 513},
        {"my_lba": 2},
        {"first": 1},
        {"last": SIZE // 512},
        {"first": 5000, "last": 4999},
        {"entry_size": 127},
        {"entry_size": 256},
        {"entry_size": 0},
        {"count": 0},
        {"count": MAX_GPT_ENTRIES + 1},
        {"count": 1_000_000},
        {"count": 2**32 - 1},
        {"table": 1},
        {"table": SIZE // 512 - 20, "count": MAX_GPT_ENTRIES},
        {"table": 2**64 - 1},
    ],
    ids=str,
)
def test_damaged_gpt(damage: dict[str, int]) -> None:
    """A damaged primary yields to the backup; both damaged are no table."""
    damaged = gpt(ONE, changes=damage)
    assert damaged.partitions() == []
    other = gpt({3: (6144, 8191)}, backup=True)
    assert both(damaged, other).partitions() == [Partition(3, 3 * MIB, MIB)]
    damaged_backup = gpt(ONE, backup=True, changes={"header_crc": 0})
    assert both(damaged, damaged_backup).partitions() == []


def test_primary_gpt_counts_before_the_backup() -> None:
    assert both(gpt(ONE), gpt({3: (6144, 8191)}, backup=True)).partitions() == ONE_FOUND


@pytest.mark.parametrize(
    "lie",
    [
        {2: (4095, 5000)},  # overlap
        {2: (3000, 3001)},  # one inside the other
        {2: (5000, 4999)},  # no length
        {2: (5000, 4000)},  # less than none
        {2: (5000, 2**64 - 1)},
        {2: (2**64 - 1, 2**64 - 1)},
        {2: (SIZE // 512 - 34, SIZE // 512 - 1)},  # over the backup table
        {2: (1, 1)},  # over the header
        {2: (0, 100)},
    ],
    ids=str,
)
def test_gpt_that_lies(lie: dict[int, tuple[int, int]]) -> None:
    """Nothing of it is shown, nor of a backup that says otherwise."""
    assert gpt(ONE | lie).partitions() == []
    assert both(gpt(ONE | lie), gpt(ONE, backup=True)).partitions() == []


def test_gpt_with_more_numbers_than_linux_has() -> None:
    last = {255: (6144, 8191)}
    assert [each.number for each in gpt(ONE | last, changes={"count": 1024}).partitions()] == [
        1,
        255,
    ]
    assert gpt(ONE | {256: (6144, 8191)}, changes={"count": 1024}).partitions() == []


def test_gpt_needs_its_protective_mbr() -> None:
    disk = gpt(ONE)
    assert disk.write(0, bytes(512)).partitions() == []
    assert disk.write(0, boot_sector((PROTECTIVE, 2, 100))).partitions() == []
    # A hybrid MBR: the GPT counts, also where it is damaged.
    hybrid = boot_sector((LINUX, 2048, 10), (PROTECTIVE, 1, 100))
    assert disk.write(0, hybrid).partitions() == ONE_FOUND
    assert disk.write(512, bytes(512)).partitions() == []


def mbr(*entries: tuple[int, int, int], **tables: tuple[tuple[int, int, int], ...]) -> Disk:
    """An MBR, and EBRs given as at4096=((type, start, sectors), ...)."""
    disk = Disk(pieces=[(0, boot_sector(*entries))])
    for sector, table in tables.items():
        disk.write(512 * int(sector.removeprefix("at")), boot_sector(*table))
    return disk


PRIMARY = (LINUX, 2048, 2048)
CONTAINER = (EXTENDED, 4096, 40960)


def test_mbr_with_logical_partitions() -> None:
    disk = mbr(
        PRIMARY,
        CONTAINER,
        at4096=((LINUX, 63, 1000), (EXTENDED, 8192, 4096)),
        # The fourth slot would end past this table's part: it is taken as garbage.
        at12288=((LINUX, 2048, 1024), (0, 0, 0), (LINUX, 3072, 1024), (LINUX, 4000, 97)),
    )
    assert disk.partitions() == [
        Partition(1, MIB, MIB),
        Partition(5, (4096 + 63) * 512, 1000 * 512),
        Partition(6, (12288 + 2048) * 512, MIB // 2),
        Partition(7, (12288 + 3072) * 512, MIB // 2),
    ]


def test_empty_links_take_no_number() -> None:
    disk = mbr(
        CONTAINER,
        at4096=((EXTENDED, 8192, 4096),),
        at12288=((0, 0, 0), (EXTENDED, 16384, 4096)),
        at20480=((LINUX, 1, 1),),
    )
    assert disk.partitions() == [Partition(5, 20481 * 512, 512)]


def test_extended_partition_never_filled() -> None:
    assert mbr(PRIMARY, CONTAINER).partitions() == [Partition(1, MIB, MIB)]


@pytest.mark.parametrize(
    "disk",
    [
        mbr(PRIMARY, (LINUX, 4095, 10)),
        mbr(PRIMARY, (LINUX, 3000, 1)),
        mbr(PRIMARY, (LINUX, 0, 10)),
        mbr(PRIMARY, (LINUX, SIZE // 512 - 1, 2)),
        mbr(PRIMARY, (LINUX, 2**32 - 1, 1)),
        mbr(PRIMARY, (LINUX, 4096, 2**32 - 1)),
        mbr(PRIMARY, (EXTENDED, 3000, 5000)),
        mbr(PRIMARY, (EXTENDED, SIZE // 512, 5000)),
        # Logical partitions: outside, over a table, overlapping.
        mbr(PRIMARY, CONTAINER, at4096=((LINUX, 63, 40960),)),
        mbr(PRIMARY, CONTAINER, at4096=((LINUX, 0, 63),)),
        mbr(PRIMARY, CONTAINER, at4096=((LINUX, 2**32 - 1, 1),)),
        mbr(PRIMARY, CONTAINER, at4096=((LINUX, 1, 10), (LINUX, 10, 10))),
        mbr(
            PRIMARY,
            CONTAINER,
            at4096=((LINUX, 1, 8192), (EXTENDED, 8192, 100)),
            at12288=((LINUX, 1, 1),),
        ),
        # Links: to itself, in a circle, out of the partition, to no table.
        mbr(PRIMARY, CONTAINER, at4096=((LINUX, 1, 1), (EXTENDED, 0, 100))),
        mbr(
            PRIMARY,
            CONTAINER,
            at4096=((LINUX, 1, 1), (EXTENDED, 100, 100)),
            at4196=((LINUX, 1, 1), (EXTENDED, 200, 100)),
            at4296=((LINUX, 1, 1), (EXTENDED, 100, 100)),
        ),
        mbr(PRIMARY, CONTAINER, at4096=((LINUX, 1, 1), (EXTENDED, 40960, 100))),
        mbr(PRIMARY, CONTAINER, at4096=((LINUX, 1, 1), (EXTENDED, 2**32 - 1, 100))),
        mbr(PRIMARY, CONTAINER, at4096=((LINUX, 1, 1), (EXTENDED, 8192, 100))),
    ],
)
def test_mbr_that_lies(disk: Disk) -> None:
    assert disk.partitions() == []


@pytest.mark.parametrize(("links", "shown"), [(251, 251), (252, 0), (5000, 0)])
def test_endless_chain(links: int, shown: int) -> None:
    """As many as Linux has numbers for, and the reading stops soon after."""
    disk = mbr((EXTENDED, 100, SIZE // 512 - 100))
    for index in range(links):
        link = (EXTENDED, 4 * (index + 1), 4) if index < links - 1 else (0, 0, 0)
        disk.write((100 + 4 * index) * 512, boot_sector((LINUX, 1, 2), link))
    assert len(disk.partitions()) == shown


def fat_boot_sector() -> bytes:
    """The start of a FAT16 file system, and text where an MBR has its table."""
    data = bytearray(boot_sector(PRIMARY))
    data[:3] = b"\xeb\x3c\x90"
    struct.pack_into("<8sHBHBHHBH", data, 3, b"mkfs.fat", 512, 4, 4, 2, 512, 0, 0xF8, 128)
    return bytes(data)


def named_boot_sector(name: bytes) -> bytes:
    data = bytearray(boot_sector(PRIMARY))
    data[3:11] = name
    return bytes(data)


@pytest.mark.parametrize(
    "data",
    [
        fat_boot_sector(),
        named_boot_sector(b"NTFS    "),
        named_boot_sector(b"EXFAT   "),
        boot_sector(PRIMARY, boot=0x01),
        boot_sector(PRIMARY, boot=0xFF),
        boot_sector(PRIMARY)[:510] + bytes(2),
        boot_sector(PRIMARY)[:510] + b"\xaa\x55",
        b"\x55\xaa" * 256,
        bytes(512),
    ],
)
def test_boot_sector_of_a_file_system(data: bytes) -> None:
    assert Disk(pieces=[(0, data)]).partitions() == []


def test_active_partition() -> None:
    assert Disk(pieces=[(0, boot_sector(PRIMARY, boot=0x80))]).partitions() == ONE_FOUND


def test_file_system_without_a_table(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    with path.open("wb") as file:
        file.truncate(SIZE)
    subprocess.run([tool("mkfs.ext4"), path], check=True, capture_output=True)
    assert partitions_of(path) == []


@pytest.mark.parametrize("size", [0, 1, 511, 512, 513, 1024, 4096, 8191])
def test_small_image(size: int) -> None:
    disk = gpt(ONE)
    disk.size = size
    assert disk.partitions() == []
    disk = mbr(PRIMARY, CONTAINER)
    disk.size = size
    assert disk.partitions() == []


def test_short_read_is_an_error() -> None:
    with pytest.raises(OSError, match=r"short read at 0~512"):
        read_partitions(SIZE, lambda _off, length: bytes(length - 1))


async def test_read_that_is_awaited() -> None:
    disk = gpt(ONE)

    async def read(off: int, length: int) -> bytes:
        return disk.read(off, length)

    assert await read_partitions_async(SIZE, read) == ONE_FOUND


def assert_sound(disk: Disk) -> None:
    """Whatever is found lies inside the image and does not overlap."""
    found = disk.partitions()
    assert [each.number for each in found] == sorted({each.number for each in found})
    end = 512
    for each in sorted(found, key=lambda each: each.offset):
        assert each.offset >= end
        assert each.length > 0
        end = each.offset + each.length
        assert end <= disk.size


# Near enough to be believed now and then.
SECTORS = st.integers(0, 60) | st.integers(0, 2**32 - 1)
SLOTS = st.lists(
    st.tuples(st.sampled_from([0, LINUX, EXTENDED, 0x0F, PROTECTIVE]), SECTORS, SECTORS), max_size=4
)


@given(st.dictionaries(st.integers(1, 60), SLOTS, max_size=12), SLOTS, st.integers(0, 60 * 512))
def test_random_mbr(
    tables: dict[int, list[tuple[int, int, int]]], first: list[tuple[int, int, int]], size: int
) -> None:
    disk = Disk(size, [(0, boot_sector(*first))])
    for sector, entries in tables.items():
        disk.write(sector * 512, boot_sector(*entries))
    assert_sound(disk)


@given(
    st.dictionaries(
        st.integers(1, 128), st.tuples(st.integers(30, 200), st.integers(30, 200)), max_size=4
    ),
    st.dictionaries(
        st.sampled_from(["first", "last", "table", "count", "entry_size", "my_lba", "header_size"]),
        st.integers(0, 200),
    ),
    st.booleans(),
)
def test_random_gpt(
    entries: dict[int, tuple[int, int]], changes: dict[str, int], backup: bool
) -> None:
    changes.pop("count", None)
    assert_sound(gpt(entries, size=300 * 512, backup=backup, changes=changes))


@given(st.binary(max_size=600), st.integers(0, 20_000), st.booleans())
def test_noise(data: bytes, size: int, signed: bool) -> None:
    disk = Disk(size, [(0, data), (510, b"\x55\xaa" * signed)])
    for sector in (512, 4096):
        disk.write(sector, b"EFI PART" + data)
    assert_sound(disk)


@pytest.mark.parametrize("make", [lambda: gpt(ONE), lambda: mbr(PRIMARY, CONTAINER)])
@given(flips=st.lists(st.tuples(st.integers(0, 2048), st.integers(0, 255)), max_size=5))
def test_flipped_bytes(make: Callable[[], Disk], flips: list[tuple[int, int]]) -> None:
    disk = make()
    for off, value in flips:
        disk.write(off, bytes([value]))
    assert_sound(disk)
