"""What is found in a part of an object map is what the whole of it tells."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

import pytest
from fuzzing.parts import crc32c
from hypothesis import given
from hypothesis import strategies as st

from rbdfs.errors import NotUnderstood
from rbdfs.metadata.map_search import MapSearch, NotRead
from rbdfs.model.image_attributes import ImageAttributes

if TYPE_CHECKING:
    from collections.abc import Callable

BLOCK = 4096


def stored(states: dict[int, int], count: int) -> bytes:
    """The object map of *count* objects, as an OSD keeps it."""
    packed = bytearray(-(-count // 4))
    for number, state in states.items():
        packed[number // 4] |= state << 6 - 2 * (number % 4)
    header = struct.pack("<BBIQ", 1, 1, 8, count)
    known: dict[bytes, int] = {}
    blocks = [bytes(packed[at : at + BLOCK]) for at in range(0, len(packed), BLOCK)]
    crcs = [known.setdefault(block, crc32c(block) if any(block) else 0) for block in blocks]
    footer = struct.pack(f"<{2 + len(crcs)}I", crc32c(header), len(crcs), *crcs)
    return b"".join(
        (struct.pack("<I", len(header)), header, packed, struct.pack("<I", len(footer)), footer)
    )


class Osd:
    """As a rados.Ioctx, and as the bridge to it; *before* each read something may happen."""

    def __init__(self, data: bytes, before: Callable[[Osd, int], None] = lambda *_: None) -> None:
        self.data, self.read, self._reads, self._before = data, 0, 0, before

    async def call(self, action: str, submit: Any) -> tuple[int, bytes]:
        self._before(self, self._reads)
        self._reads += 1
        off, length = submit(None)
        found = self.data[off : off + length]
        self.read += len(found)
        return len(found), found

    def aio_read(self, oid: str, length: int, off: int, done: object) -> tuple[int, int]:
        return off, length


def search(osd: Osd, objects: int) -> MapSearch:
    attributes = ImageAttributes("1", objects << 22, 22, 8, 0, 0, 0, (), -1, None, 0, False)
    return MapSearch(osd, osd, attributes)  # type: ignore[arg-type]


@given(
    count=st.sampled_from([1, 5, 16383, 16384, 16385, 5 * 16384 + 7]),
    beyond=st.sampled_from([0, 3, 20000]),
    picks=st.lists(st.tuples(st.floats(0, 1), st.integers(1, 3), st.integers(1, 20000))),
    starts=st.lists(st.floats(0, 1), min_size=1, max_size=5),
)
async def test_first_object(
    count: int, beyond: int, picks: list[tuple[float, int, int]], starts: list[float]
) -> None:
    states = {
        number: state
        for at, state, length in picks
        for number in range(int(at * count), min(int(at * count) + length, count))
    }
    objects = search(Osd(stored(states, count + beyond)), count)
    for start in starts:
        number = min(int(start * count), count - 1)
        for data in (True, False):
            expected = number
            while expected < count and (expected in states) is not data:
                expected += 1
            assert await objects.find(number, data=data) == expected


async def test_little_is_read_of_a_large_map() -> None:
    count = 100_000_000
    osd = Osd(stored({5: 1, 90_000_000: 1}, count))
    assert await search(osd, count).find(3, data=True) == 5
    assert osd.read < 40_000
    assert await search(osd, count).find(90_000_000, data=False) == 90_000_001
    assert osd.read < 80_000
    assert await search(osd, count).find(6, data=True) == 90_000_000


async def test_a_map_that_changes_while_it_is_read() -> None:
    count = 3 * 16384
    later = stored({7: 1, 40000: 1}, count)

    def change(osd: Osd, reads: int) -> None:
        if reads == 2:
            osd.data = later

    objects = search(Osd(stored({7: 1}, count), change), count)
    assert await objects.find(0, data=True) == 7
    assert await objects.find(8, data=True) == 40000


async def test_a_map_that_grows_while_it_is_read() -> None:
    count = 16384

    def grow(osd: Osd, reads: int) -> None:
        osd.data = stored({7: 1}, count + 20000 * min(reads, 5))

    assert await search(Osd(b"", grow), count).find(8, data=True) == count


async def test_a_map_that_is_never_right() -> None:
    good = stored({7: 1}, 16384)
    for at in range(len(good) - 12):
        if at < 60 or at > len(good) - 40:
            damaged = bytearray(good)
            damaged[at] ^= 0x10
            with pytest.raises(NotUnderstood):
                await search(Osd(bytes(damaged)), 16384).find(0, data=True)
    with pytest.raises(NotUnderstood):
        await search(Osd(stored({}, 16383)), 16384).find(0, data=True)


async def test_nothing_more_is_read_when_sealed() -> None:
    osd = Osd(stored({5: 1, 40000: 1}, 50000))
    objects = search(osd, 50000)
    assert await objects.find(3, data=True) == 5
    objects.sealed, before = True, osd.read
    assert await objects.find(5, data=False) == 6
    with pytest.raises(NotRead):
        await objects.find(6, data=True)
    assert osd.read == before
    assert await objects.find(0, data=True) == 5
