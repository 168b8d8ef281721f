"""The extent map against a model: one flag a granule."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from rbdfs.model.extents import ExtentMap

if TYPE_CHECKING:
    from collections.abc import Callable

LIMIT = 200
OFFSETS = st.integers(0, LIMIT)
LENGTHS = st.integers(0, 60)


class Model:
    """What the map must say, the slow way: a byte for each granule, whatever the size is."""

    def __init__(self, size: int, granule: int) -> None:
        self.size, self.granule = size, granule
        self.flags = bytearray(4 * LIMIT)

    def mark_data(self, off: int, length: int) -> None:
        for byte in range(off, off + length):
            self.flags[byte // self.granule] = 1

    def mark_hole(self, off: int, length: int) -> None:
        for index in range(len(self.flags)):
            start = index * self.granule
            end = start + self.granule
            if start < self.size < end:
                end = self.size
            if off <= start and end <= off + length:
                self.flags[index] = 0

    def resize(self, size: int) -> None:
        if size < self.size:
            whole = -(-size // self.granule)
            self.flags[whole:] = bytes(len(self.flags) - whole)
        self.size = size

    def data(self) -> list[int]:
        return [byte for byte in range(self.size) if self.flags[byte // self.granule]]


def seek(find: Callable[[int], int], off: int) -> int | str:
    """Return what *find* returns, or the name of the errno it raises."""
    try:
        return find(off)
    except OSError as exc:
        return errno.errorcode[exc.errno or 0]


def assert_same(extents: ExtentMap, model: Model) -> None:
    data = model.data()
    assert extents.size == model.size
    assert extents.allocated_bytes == len(data)
    assert [byte for off, length in extents for byte in range(off, off + length)] == data
    in_data = set(data)
    for off in range(-1, model.size + 2):
        inside = 0 <= off < model.size
        after = [byte for byte in data if byte >= off]
        assert seek(extents.seek_data, off) == (after[0] if inside and after else "ENXIO")
        hole = off
        while hole in in_data:
            hole += 1
        assert seek(extents.seek_hole, off) == (hole if inside else "ENXIO")


@given(
    st.integers(0, LIMIT),
    st.sampled_from([1, 4, 16]),
    st.lists(st.tuples(OFFSETS, LENGTHS, st.booleans()), max_size=12),
)
def test_built_from_a_diff_in_any_order(
    size: int, granule: int, diff: list[tuple[int, int, bool]]
) -> None:
    """Where extents contradict each other, it is data."""
    model = Model(size, granule)
    for off, length, exists in diff:
        if exists:
            model.mark_data(off, length)
    assert_same(ExtentMap(size, iter(diff), granule=granule), model)


class MapFollowsModel(RuleBasedStateMachine):
    """Random writes, zeroes and resizes."""

    @initialize(size=OFFSETS, granule=st.sampled_from([1, 4, 16]))
    def make(self, size: int, granule: int) -> None:
        self.extents = ExtentMap(size, granule=granule)
        self.model = Model(size, granule)

    @rule(off=OFFSETS, length=LENGTHS)
    def write(self, off: int, length: int) -> None:
        self.extents.mark_data(off, length)
        self.model.mark_data(off, length)

    @rule(off=OFFSETS, length=LENGTHS)
    def zero(self, off: int, length: int) -> None:
        self.extents.mark_hole(off, length)
        self.model.mark_hole(off, length)

    @rule()
    def zero_all(self) -> None:
        self.extents.mark_hole(0, self.model.size)
        self.model.mark_hole(0, self.model.size)
        assert self.extents.allocated_bytes == 0

    @rule(size=OFFSETS)
    def resize(self, size: int) -> None:
        self.extents.resize(size)
        self.model.resize(size)

    @precondition(lambda self: hasattr(self, "model"))
    @invariant()
    def same(self) -> None:
        assert_same(self.extents, self.model)


TestMapFollowsModel = MapFollowsModel.TestCase


def test_extents_that_touch_are_one() -> None:
    extents = ExtentMap(400, ((off, 4, True) for off in range(0, 400, 4)), granule=4)
    assert len(extents) == 1
    extents.mark_hole(100, 4)
    extents.mark_hole(200, 4)
    assert list(extents) == [(0, 100), (104, 96), (204, 196)]
    extents.mark_data(102, 1)
    assert list(extents) == [(0, 200), (204, 196)]
    extents.mark_data(196, 9)
    assert list(extents) == [(0, 400)]


def test_end_of_the_image_counts_as_a_hole() -> None:
    extents = ExtentMap(10_000, [(0, 10_000, True)])
    assert extents.seek_hole(0) == 10_000
    assert extents.seek_data(9_999) == 9_999
    assert extents.allocated_bytes == 10_000
    extents.resize(20_000)
    # The granule that held the old end may hold data up to its own end.
    assert extents.seek_hole(0) == 12_288
    assert seek(extents.seek_data, 12_288) == "ENXIO"


def test_shrunk_and_grown_again_is_a_hole() -> None:
    extents = ExtentMap(1 << 20, [(0, 1 << 20, True)])
    extents.resize(4096)
    extents.resize(1 << 20)
    assert list(extents) == [(0, 4096)]


def test_write_past_the_known_end_is_data_once_the_image_has_grown() -> None:
    extents = ExtentMap(4096)
    extents.mark_data(8192, 4096)
    assert extents.allocated_bytes == 0
    assert seek(extents.seek_data, 0) == "ENXIO"
    extents.resize(12_288)
    assert extents.seek_data(0) == 8192


def test_part_of_a_granule_is_no_hole() -> None:
    extents = ExtentMap(3 * 4096, [(0, 3 * 4096, True)])
    extents.mark_hole(1, 2 * 4096 - 1)
    assert list(extents) == [(0, 4096), (8192, 4096)]
    extents.mark_hole(0, 4095)
    assert list(extents) == [(0, 4096), (8192, 4096)]


@pytest.mark.parametrize(("off", "length"), [(-1, 1), (0, -1)])
def test_negative_range(off: int, length: int) -> None:
    extents = ExtentMap(4096)
    for mark in (extents.mark_data, extents.mark_hole):
        with pytest.raises(ValueError, match="no extent"):
            mark(off, length)
    with pytest.raises(ValueError, match="no extent"):
        ExtentMap(4096, [(off, length, True)])


def test_negative_size() -> None:
    with pytest.raises(ValueError, match="no map"):
        ExtentMap(-1)
    with pytest.raises(ValueError, match="no map"):
        ExtentMap(1, granule=0)
    with pytest.raises(ValueError, match="no image"):
        ExtentMap(1).resize(-1)


def test_image_beyond_any_disk() -> None:
    """Sizes stay exact up to the largest offset of the kernel."""
    end = 2**63 - 1
    extents = ExtentMap(end, [(end - 5000, 5000, True)])
    assert extents.seek_hole(end - 1) == end
    assert extents.seek_data(0) == (end - 5000) // 4096 * 4096
