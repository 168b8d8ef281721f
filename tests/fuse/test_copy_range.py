"""Copies between files of a mount, where what is written to does not answer."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import trio
from trio.testing import wait_all_tasks_blocked

from rbdfs.fuse.copy_range import RangeCopies

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

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


def copy(
    copies: RangeCopies, files: Files, source: str, target: str
) -> Callable[[], Awaitable[int]]:
    """A copy of 64 MiB from a file in one pool to one in another."""
    ends = (files.file(source, target), 0, files.file(target, source), 0)
    return partial(copies.copy_range, *ends, 64 * MIB)


async def test_a_pool_that_is_full_costs_bounded_memory_and_no_other_pool_its_copies() -> None:
    copies, files = range_copies(), Files()
    files.away = {"hdd"}
    async with trio.open_nursery() as nursery:
        for _ in range(64):
            nursery.start_soon(copy(copies, files, "ssd", "hdd"))
        await wait_all_tasks_blocked()
        assert files.held["hdd"] == files.most["hdd"] == 128 * MIB
        assert await copy(copies, files, "hdd", "ssd")() == 64 * MIB
        files.answers.set()
    assert files.held == {"hdd": 0, "ssd": 0}
    assert files.most["hdd"] == 128 * MIB


async def test_a_pool_that_cannot_be_read_costs_no_other_copy_into_the_same_pool() -> None:
    copies, files = range_copies(), Files()
    files.silent = {"hdd"}
    async with trio.open_nursery() as nursery:
        for _ in range(64):
            nursery.start_soon(copy(copies, files, "hdd", "ssd"))
        await wait_all_tasks_blocked()
        assert await copy(copies, files, "ssd", "ssd")() == 64 * MIB
        files.answers.set()
