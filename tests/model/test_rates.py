"""Rates of what meters say, and how they went."""

from __future__ import annotations

import errno

import pytest

from rbdfs.model import meters_layout as layout
from rbdfs.model.metering import Metering
from rbdfs.model.meters import Snapshot
from rbdfs.model.meters_layout import Operation
from rbdfs.model.rates import IDLE, rates
from rbdfs.model.sparkline import ASCII, sparkline


class Work:
    """Meters in which requests are counted that take as long as is said."""

    def __init__(self) -> None:
        self._memory = bytearray(layout.BYTES)
        self._memory[: len(layout.empty())] = layout.empty()
        self._now_ns = 0
        self._metering = Metering(self._memory, lambda: self._now_ns)

    def do(
        self, operation: Operation, count: int, took_s: float = 0.001, size: int = 0, error: int = 0
    ) -> None:
        number = self._metering.number("rbd/vm1")
        for _ in range(count):
            begun_ns = self._metering.begin(number, operation)
            self._now_ns += round(took_s * 1e9)
            self._metering.end(number, operation, begun_ns, size, error)

    def begin(self) -> None:
        self._metering.begin(self._metering.number("rbd/vm1"), Operation.FLUSH)

    def snapshot(self) -> Snapshot:
        return Snapshot.of(self._memory)


def test_what_was_done_in_between() -> None:
    work = Work()
    work.do(Operation.READ, 1000, size=4096)
    before = work.snapshot()
    work.do(Operation.READ, 30, took_s=0.001, size=4096)
    work.do(Operation.WRITE, 10, took_s=0.1, size=512)
    work.do(Operation.DISCARD, 4)
    work.do(Operation.WRITE, 2, took_s=0.1, error=errno.EIO)
    work.begin()
    found = rates(work.snapshot().since(before).images.values(), 2.0)
    assert (found.read.iops, found.read.bytes_s) == (15.0, 15 * 4096.0)
    assert (found.write.iops, found.write.bytes_s) == (6.0, 5 * 512.0)
    assert (found.both.iops, found.other.iops, found.iops) == (21.0, 2.0, 23.0)
    assert (found.errors, found.in_flight) == (1.0, 1)
    # Within a step of the histogram, which is a power of two.
    assert found.read.p99_s == pytest.approx(0.001, rel=0.5)
    assert found.both.p50_s == pytest.approx(0.001, rel=0.5)
    assert found.both.p99_s == pytest.approx(0.1, rel=0.5)
    assert found.other.p99_s is not None
    assert rates([], 1.0) == IDLE


@pytest.mark.parametrize(
    ("figures", "width", "line"),
    [
        ([], 4, "    "),
        ([0, 0], 4, "    "),
        ([1, 2, 4, 8], 4, "▁▂▄█"),
        ([8], 3, "  █"),
        ([0.001, 8], 2, "▁█"),
        # The highest of those in a cell, the latest last.
        ([9, 0, 0, 1, 9, 0], 3, "█▁█"),
        ([9, 0, 0, 1, 9], 3, "█ █"),
    ],
)
def test_sparkline(figures: list[float], width: int, line: str) -> None:
    assert sparkline(figures, width) == line
    assert sparkline(figures, width, ASCII).isascii()
