"""The lag of the Trio thread, as `rbdfs status` tells it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio

from rbdfs.model import figures
from rbdfs.model.metering import Metering
from rbdfs.server.lag import Lag
from tests.support.servers import ask

if TYPE_CHECKING:
    from tests.support.mounts import Mount

BOUNDS = ["1", "2", "5", "10", "20", "50", "100", "200", "500", "1000", "more"]


class Clock:
    """Nanoseconds, which pass only where a task takes them."""

    now_ns = 0

    def __call__(self) -> int:
        return self.now_ns


async def test_each_turn_is_counted_by_its_length() -> None:
    clock = Clock()
    metering = Metering.unread(clock)
    lag = Lag(metering)
    trio.lowlevel.add_instrument(lag)
    try:
        for turn_ms in (1, 3, 40, 50, 5000):
            # Waits for what comes from elsewhere: a new turn begins with it.
            await trio.to_thread.run_sync(int)
            clock.now_ns += turn_ms * 1_000_000
            await trio.lowlevel.checkpoint()
    finally:
        trio.lowlevel.remove_instrument(lag)
    report = lag.report()
    assert report["longest_ms"] == 5000.0
    # All other turns took no time.
    assert {bound for bound, turns in report["turns"].items() if turns} == {"1", "5", "50", "more"}
    assert [report["turns"][bound] for bound in ("5", "50", "more")] == [1, 2, 1]
    counted = [metering.figure(figures.turns(bound)).value for bound in (0.05, figures.LONGER)]
    assert counted == [2, 1]
    assert metering.figure(figures.TURNS_SUM).value == pytest.approx(5.094)


def test_status_tells_it(mount: Mount, native: None) -> None:
    lag = ask(mount, "status")["lag"]
    assert lag["longest_ms"] > 0
    assert list(lag["turns"]) == BOUNDS
    assert sum(ask(mount, "status")["lag"]["turns"].values()) > sum(lag["turns"].values())
