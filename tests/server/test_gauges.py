"""What a server is doing is written into the meters, and costs the mount nothing if it fails."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import trio

from rbdfs.model.metering import Metering
from rbdfs.server.gauges import Gauges

if TYPE_CHECKING:
    import pytest


async def test_a_fault_in_counting_ends_nothing(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    class Handles(list[Any]):
        lost = ()
        faulty = True

        def images(self) -> list[Any]:
            if self.faulty:
                raise KeyError("an image")
            return []

    handles, no_looks = Handles([None] * 3), SimpleNamespace(looks=dict)
    mounted: Any = SimpleNamespace(
        handles=handles,
        freshness=None,
        metering=Metering.unread(),
        moves=None,
        holes=SimpleNamespace(finder=no_looks),
    )
    parts: Any = (mounted, SimpleNamespace(fences=0), no_looks)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(Gauges(*parts).run)
        await trio.sleep(0.5)
        handles.faulty = False
        await trio.sleep(1)
        nursery.cancel_scope.cancel()
    assert mounted.metering.figure("files_open").value == 3
    (record,) = caplog.records
    assert (record.levelno, record.getMessage()) == (logging.ERROR, "counting what is open failed")
