"""One reading of a directory."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from rbdfs.model.entry import Entry, Key
from rbdfs.names.listing import Listing

if TYPE_CHECKING:
    from rbdfs.names.listing import Expand, Item

PARALLEL = 64


class Directory:
    """Parts by name, each an image with so many snapshots; part 0 has no image any more."""

    def __init__(self, *counts: int) -> None:
        self.counts = list(counts)
        self.reads = 0
        self.fetched: list[int] = []
        self.failing: set[int] = set()
        self.going_on = trio.Event()
        self.going_on.set()
        self.running: set[int] = set()
        self.most_running = 0

    async def load(self) -> list[Expand]:
        self.reads += 1
        await trio.lowlevel.checkpoint()
        return [self._part(number, count) for number, count in enumerate(self.counts)]

    def _part(self, number: int, count: int) -> Expand:
        async def expand() -> list[Item]:
            self.running.add(number)
            self.most_running = max(self.most_running, len(self.running))
            try:
                await self.going_on.wait()
                await trio.testing.wait_all_tasks_blocked()
                # Later parts first: order must not depend on who is quicker.
                while number != max(self.running):
                    await trio.lowlevel.checkpoint()
            finally:
                self.running.remove(number)
            self.fetched.append(number)
            if number in self.failing:
                raise OSError(errno.EACCES, f"part {number}")
            return items(number, count)

        return expand

    def names(self) -> list[bytes]:
        return [name for part, count in enumerate(self.counts) for name, _ in items(part, count)]


def items(part: int, count: int) -> list[Item]:
    return [
        (b"%d@%d" % (part, number), Entry(Key(1, "", str(part), number))) for number in range(count)
    ]


async def names(listing: Listing, start: int = 0) -> list[bytes]:
    found: list[bytes] = []
    while (item := await listing.item(start + len(found))) is not None:
        found.append(item[0])
    return found


async def test_items_come_in_order_and_end() -> None:
    directory = Directory(3, 1, 0, 2)
    listing = Listing(directory.load)
    assert await names(listing) == directory.names()
    assert await listing.item(6) is None
    assert await listing.item(10**9) is None
    assert directory.reads == 1


async def test_an_empty_directory() -> None:
    assert await Listing(Directory().load).item(0) is None


async def test_parts_without_items_are_passed_over() -> None:
    directory = Directory(*[0] * (3 * PARALLEL), 1)
    assert await names(Listing(directory.load)) == directory.names() != []


async def test_any_item_may_be_asked_for() -> None:
    """The kernel goes on where its buffer was full, and seekdir() goes back."""
    directory = Directory(*[2] * 200)
    listing = Listing(directory.load)
    assert await names(listing, 300) == directory.names()[300:]
    assert await names(listing, 5) == directory.names()[5:]
    assert len(directory.fetched) == 200, "nothing is fetched twice"


async def test_parts_are_fetched_ahead_in_bounded_parallel() -> None:
    directory = Directory(*[1] * 200)
    listing = Listing(directory.load)
    await listing.item(0)
    assert len(directory.fetched) == directory.most_running == PARALLEL
    await listing.item(PARALLEL - 1)
    assert len(directory.fetched) == PARALLEL
    await names(listing)
    assert directory.most_running == PARALLEL
    assert len(directory.fetched) == 200


async def test_readers_beside_each_other_fetch_once() -> None:
    directory = Directory(*[1] * 100)
    listing = Listing(directory.load)
    found: list[list[bytes]] = []

    async def read() -> None:
        found.append(await names(listing))

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(read)
    assert found == [directory.names()] * 3
    assert (directory.reads, len(directory.fetched)) == (1, 100)


async def test_rewind_reads_anew_and_nothing_else_does() -> None:
    directory = Directory(1, 1)
    listing = Listing(directory.load)
    before = await names(listing)
    directory.counts = [1, 1, 1]
    assert await names(listing) == before, "an open directory does not change under its reader"
    listing.rewind()
    assert await names(listing) == directory.names()


async def test_an_error_leaves_no_gap() -> None:
    """A listing that lacks entries without saying so would be mirrored as a deletion."""
    directory = Directory(*[1] * 70)
    directory.failing = {3, 66}
    listing = Listing(directory.load)
    with pytest.raises(OSError, match="part 3") as caught:
        await names(listing)
    assert caught.value.errno == errno.EACCES
    directory.failing = {66}
    for index, name in enumerate(directory.names()[:PARALLEL]):
        item = await listing.item(index)
        assert item is not None
        assert item[0] == name
    with pytest.raises(OSError, match="part 66"):
        await listing.item(PARALLEL)
    directory.failing = set()
    assert await names(listing) == directory.names()


async def test_an_error_of_the_directory_itself_is_raised_and_not_kept() -> None:
    async def load() -> list[Expand]:
        if not errors:
            return []
        raise errors.pop()

    errors = [OSError(errno.ENOENT, "no such pool")]
    listing = Listing(load)
    with pytest.raises(OSError, match="no such pool"):
        await listing.item(0)
    assert await listing.item(0) is None


async def test_a_cancelled_reader_leaves_a_listing_that_works() -> None:
    directory = Directory(*[1] * 10)
    listing = Listing(directory.load)
    directory.going_on = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(names, listing)
        await trio.testing.wait_all_tasks_blocked()
        assert len(directory.running) == 10
        nursery.cancel_scope.cancel()
    assert (directory.running, directory.fetched) == (set(), [])
    directory.going_on.set()
    assert await names(listing) == directory.names()


async def test_rewind_beside_a_fetch_gives_the_new_reading() -> None:
    directory = Directory(*[1] * 5)
    listing = Listing(directory.load)
    directory.going_on = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(listing.item, 0)
        await trio.testing.wait_all_tasks_blocked()
        directory.counts = [1, 2]
        listing.rewind()
        directory.going_on.set()
    assert await names(listing) == directory.names()


async def test_what_was_read_costs_no_turn_of_the_loop() -> None:
    directory = Directory(3)
    listing = Listing(directory.load)
    await names(listing)
    with trio.testing.assert_no_checkpoints():
        assert [await listing.item(index) for index in range(3)] == items(0, 3)
