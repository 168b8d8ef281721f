"""The data in a part of an image, as copying takes it from the map of extents."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from rbdfs.model.extents import ExtentMap

SIZE = 200
RANGES = st.tuples(st.integers(0, SIZE - 1), st.integers(1, 60))


@given(extents=st.lists(RANGES), part=RANGES, granule=st.sampled_from([1, 8]))
def test_data_within_a_range(
    extents: list[tuple[int, int]], part: tuple[int, int], granule: int
) -> None:
    extent_map = ExtentMap(SIZE, [(*extent, True) for extent in extents], granule=granule)
    off, length = part[0], min(part[1], SIZE - part[0])
    data = {byte for start, size in extent_map for byte in range(start, start + size)}
    found = list(extent_map.within(off, length))
    assert found == sorted(found)
    assert all(start < end for start, end in found)
    covered = [byte for start, end in found for byte in range(start, end)]
    assert covered == sorted(data & set(range(off, off + length)))
