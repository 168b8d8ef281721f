"""Stamps of an image that several ask for at once."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import trio
from trio.testing import wait_all_tasks_blocked

from rbdfs.files.timestamps import Timestamps


class Image:
    """One that was written to."""

    read_only, changes = False, 1


class Stamps:
    """Counts them; each takes until `answers` is set."""

    def __init__(self) -> None:
        self.count = 0
        self.answers = trio.Event()

    async def stamp(self, _entry: Any) -> None:
        self.count += 1
        await self.answers.wait()


async def test_what_was_written_is_stamped_once() -> None:
    """A stat and the close beside it: a second stamp would move a time that was told already."""
    stamps, image = Stamps(), Image()
    timestamps = Timestamps(stamps)
    shared: Any = SimpleNamespace(image=image, entry=SimpleNamespace(image_id="id"))
    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(timestamps.catch_up, shared)
        await wait_all_tasks_blocked()
        stamps.answers.set()
    assert stamps.count == 1
    assert not timestamps.behind(shared)
    image.changes += 1
    await timestamps.catch_up(shared)
    assert stamps.count == 2
