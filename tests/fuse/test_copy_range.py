"""Copies between files of a mount, where what is written to does not answer."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import trio
from trio.testing import wait_all_tasks_blocked

from rbdfs.fuse.copy_range import RangeCopies

MIB = 1 << 20


class Files:
    """Files that are all data, of pools some of which do not answer until `answers` is set."""

    def __init__(self) -> None:
        self.away: set[str] = set()  # what is written
        self.silent: set[str] = set()  # what is read
        self.answers = trio.Event()
        self.held = dict.fromkeys(("hdd", "ssd"), 0)  # bytes read and not written yet
        self.most = dict(self.held)

    def file(self, pool: str, peer: str) -> Any:
        async def read(_off: int, size: int) -> Any:
            await trio.lowlevel.checkpoint()
            if pool in self.silent:
                await self.answers.wait()
            self.held[peer] += size
            self.most[peer] = max(self.most[peer], self.held[peer])
            return range(size)

        async def write(_off: int, data: Any) -> int:
            if pool in self.away:
                await self.answers.wait()
            self.held[pool] -= len(data)
            return len(data)

        entry = SimpleNamespace(pool=pool, offset=0, spec=f"{pool}/image")
        return SimpleNamespace(
            entry=entry, shared=object(), length=1 << 30, growing=False, read=read, write=write
        )


def range_copies() -> RangeCopies:
    async def data_within(_source: Any, off: int, length: int) -> list[tuple[int, int]]:
        return [(off, off + length)]

    holes: Any = SimpleNamespace(data_within=data_within)
    return RangeCopies(holes)


async def test_a_pool_that_is_full_costs_bounded_memory_and_no_other_pool_its_copies() -> None:
    copies, files = range_copies(), Files()
    files.away = {"hdd"}
    async with trio.open_nursery() as nursery:
        for _ in range(64):
            each = (files.file("ssd", "hdd"), 0, files.file("hdd", "ssd"), 0, 64 * MIB)
            nursery.start_soon(copies.copy_range, *each)
        await wait_all_tasks_blocked()
        assert files.held["hdd"] == files.most["hdd"] == 128 * MIB
        to_other = (files.file("hdd", "ssd"), 0, files.file("ssd", "hdd"), 0, 64 * MIB)
        assert await copies.copy_range(*to_other) == 64 * MIB
        files.answers.set()
    assert files.held == {"hdd": 0, "ssd": 0}
    assert files.most["hdd"] == 128 * MIB


async def test_a_pool_that_cannot_be_read_costs_no_other_copy_into_the_same_pool() -> None:
    copies, files = range_copies(), Files()
    files.silent = {"hdd"}
    async with trio.open_nursery() as nursery:
        for _ in range(64):
            each = (files.file("hdd", "ssd"), 0, files.file("ssd", "hdd"), 0, 64 * MIB)
            nursery.start_soon(copies.copy_range, *each)
        await wait_all_tasks_blocked()
        within = (files.file("ssd", "ssd"), 0, files.file("ssd", "ssd"), 0, 64 * MIB)
        assert await copies.copy_range(*within) == 64 * MIB
        files.answers.set()
