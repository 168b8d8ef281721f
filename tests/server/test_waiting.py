"""What waits for the cluster is told of, whoever else does not answer."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import trio

from rbdfs.model.entry import Entry, Key
from rbdfs.server.waiting import Waiting

if TYPE_CHECKING:
    import pytest

IMAGES = [Entry(Key(number, "", "1"), f"pool{number}", image="vm1") for number in (1, 2)]


def waiting(answered: trio.Event, trouble: Any) -> Waiting:
    """Of a mount whose images all wait, and cannot be opened until the cluster has answered."""

    async def value(_entry: Entry, _name: bytes) -> bytes:
        # A thread that is in librbd.
        with trio.CancelScope(shield=True):
            await answered.wait()
        return b"10.0.0.1:0/1 client.1"

    class Operations:
        running: tuple[Any, ...] = ()
        mounted = SimpleNamespace(
            handles=SimpleNamespace(shared=lambda _entry: None), xattrs=SimpleNamespace(value=value)
        )

    freshness = SimpleNamespace(
        waiting=lambda: [(SimpleNamespace(entry=entry), 11.0) for entry in IMAGES]
    )
    path = SimpleNamespace(
        waiting=lambda _seconds: (0.0, {}), opener=SimpleNamespace(addresses=frozenset())
    )
    parts: Any = (Operations(), path, freshness, trouble)
    return Waiting(*parts)


async def said(trouble: Any, caplog: pytest.LogCaptureFixture) -> list[str]:
    """What the log says within half a minute."""
    answered = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(waiting(answered, trouble).run)
        await trio.sleep(30)
        lines = [record.getMessage() for record in caplog.records]
        nursery.cancel_scope.cancel()
        answered.set()
    return lines


async def test_an_image_that_cannot_be_opened_to_see_its_lock(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async def nothing(_pool: str) -> None: ...

    assert await said(nothing, caplog) == [
        f"pool{number}/vm1 waits for the cluster since 11 s: the cluster does not say why"
        for number in (1, 2)
    ]


async def test_monitors_that_do_not_answer(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async def silence(_pool: str) -> None:
        await trio.sleep_forever()

    assert await said(silence, caplog) == [
        f"pool{number}/vm1 waits for the cluster since 11 s: the monitors do not answer"
        for number in (1, 2)
    ]
