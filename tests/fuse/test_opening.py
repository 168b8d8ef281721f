"""Opens that the kernel sends again to a new server, which has their files from the one before."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

from rbdfs.ceph.aio import AioBridge
from rbdfs.ceph.image import Image
from rbdfs.files.data_path import PythonDataPath
from rbdfs.files.keeping import OpenFile, Unremembered
from rbdfs.files.reopening import Checks, Failed
from rbdfs.files.table import HandleTable
from rbdfs.fuse.directory_handles import OpenDirectories
from rbdfs.fuse.mounted import Mounted
from rbdfs.fuse.operations import Operations
from rbdfs.model.entry import Entry, Key
from rbdfs.model.inode_table import InodeTable
from tests.support.fakes import FakeContent, FakeImage

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from rbdfs.files.handle import Handle

ROOT = Entry(Key(1, ""), pool="rbd")
VM1 = Entry(Key(1, "", "id"), pool="rbd", image="vm1", size=4096)
INODE, REQUEST = 7, 8
LEFT = OpenFile(3, INODE, VM1, True, request=REQUEST)


@dataclass
class StuckPool:
    """Opens images once it `answers`."""

    content: FakeContent = field(default_factory=lambda: FakeContent(bytearray(4096)))
    answers: trio.Event = field(default_factory=trio.Event)
    address: str = "127.0.0.1:0/4100"
    addresses: frozenset[str] = frozenset({"127.0.0.1:0/4100"})
    opened: list[bool] = field(default_factory=list)

    async def open(self, entry: Entry, *, read_only: bool) -> Image:
        await self.answers.wait()
        self.opened.append(read_only)
        fake = FakeImage(self.content, read_only=read_only)
        return Image(AioBridge(), fake, entry.spec, size=fake.size(), read_only=read_only)


@dataclass
class Waiting:
    """A server that has taken over a file from one that had not answered its open."""

    pool: StuckPool = field(default_factory=StuckPool)
    inodes: InodeTable = field(default_factory=lambda: InodeTable(ROOT))

    def __post_init__(self) -> None:
        unchecked: Any = self.pool
        self.table = HandleTable(PythonDataPath(unchecked), Unremembered(), lock_mode=None)
        # Nobody else is asked before the file is open.
        others: Any = None
        directories = OpenDirectories(others, Unremembered())
        parts = (others, self.inodes, others, self.table, directories)
        self.mounted = Mounted(*parts, *(others,) * 7)
        self.operations = Operations(self.mounted, Unremembered())
        self.inodes.restore(VM1, INODE)
        self.inodes.opened(INODE, VM1)

    async def restore(self, nursery: trio.Nursery) -> None:
        async def passes(_entry: Entry) -> None:
            pass

        async def all_pass(_handles: list[Handle]) -> list[Failed]:
            return []

        self.table.restore(LEFT, None)
        await self.table.reopen(nursery, Checks(passes, all_pass))


async def close_refused(waiting: Waiting) -> None:
    await waiting.operations.close_refused(REQUEST)


async def open_again(waiting: Waiting) -> None:
    await waiting.mounted.open(INODE, 2, request=REQUEST)


@pytest.mark.parametrize("late", [False, True], ids=["", "late"])
@pytest.mark.parametrize("ask", [open_again, close_refused])
async def test_who_gives_up_before_its_image_is_open_leaves_no_file(
    ask: Callable[[Waiting], Awaitable[None]], late: bool
) -> None:
    """The kernel hears of no file, and so it never has it closed.

    One that is late is of an image that a move was interrupted of, and is restored when it is known
    where that is.
    """
    waiting, scope = Waiting(), trio.CancelScope()

    async def give_up() -> None:
        with scope:
            await ask(waiting)

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            if late:
                waiting.table.late.expect([LEFT])
            else:
                await waiting.restore(nursery)
            nursery.start_soon(give_up)
            await trio.testing.wait_all_tasks_blocked()
            scope.cancel()
            await trio.testing.wait_all_tasks_blocked()
            if late:
                await waiting.restore(nursery)
                waiting.table.late.arrived([LEFT.fh])
                await trio.testing.wait_all_tasks_blocked()
            waiting.pool.answers.set()
    # As the server had it that is gone: so its lock is taken, and given up.
    assert waiting.pool.opened == [False]
    assert (len(waiting.table), waiting.table.images()) == (0, [])
    assert waiting.pool.content.opened == []
