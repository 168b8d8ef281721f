"""Numbers that the kernel has from a server before: each is found, and nothing else is kept."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import trio

from rbdfs.errors import Gone, NoSuchName, TimedOut
from rbdfs.fuse.inherited_inodes import InheritedInodes
from rbdfs.model.entry import Entry, Key
from rbdfs.model.inode_table import InodeTable
from rbdfs.names.listing import Listing

ROOT = Entry(Key(1, ""), pool="rbd")
TENANT = Entry(Key(1, "tenant"), pool="rbd", namespace="tenant")


class Directories:
    """A catalog of what tests say; counts how often each directory is read."""

    def __init__(self) -> None:
        self.images = {f"vm{number}": image(f"vm{number}") for number in range(100)}
        self.readings: list[str] = []
        self.failing = False

    def listing(self, parent: Entry) -> Listing:
        async def items() -> list[tuple[bytes, Entry]]:
            self.readings.append(parent.namespace or "")
            if parent == TENANT:
                if self.failing:
                    raise TimedOut("the cluster does not answer")
                return [(b"inside", replace(image("inside"), namespace="tenant"))]
            found = [(name.encode(), entry) for name, entry in self.images.items()]
            return [*found, (b"tenant", TENANT)]

        async def parts() -> list[Any]:
            return [items]

        return Listing(parts)

    async def find(self, parent: Entry, name: bytes) -> Entry:
        await trio.lowlevel.checkpoint()
        if self.failing:
            raise TimedOut("the cluster does not answer")
        if parent == ROOT and name.decode() in self.images:
            return self.images[name.decode()]
        raise NoSuchName(f"{name!r}")


def image(name: str, image_id: str = "") -> Entry:
    return Entry(Key(1, "", image_id or f"id-{name}"), pool="rbd", image=name)


def inherited(nursery: trio.Nursery) -> tuple[Directories, InodeTable, InheritedInodes]:
    catalog, inodes = Directories(), InodeTable(ROOT)
    unchecked: Any = catalog
    return catalog, inodes, InheritedInodes(unchecked, inodes, nursery)


async def test_what_nobody_asks_for_is_not_kept(nursery: trio.Nursery) -> None:
    catalog, inodes, found = inherited(nursery)
    for name in ("vm7", "vm8"):
        number = inodes.number(catalog.images[name].key)
        assert await found.entry(number) == catalog.images[name]
    with pytest.raises(Gone):
        await found.entry(99)
    assert len(inodes) == 3
    assert sorted(catalog.readings) == ["", "tenant"]


async def test_a_name_that_has_changed_since(nursery: trio.Nursery) -> None:
    catalog, inodes, found = inherited(nursery)
    numbers = [inodes.number(catalog.images[name].key) for name in ("vm1", "vm2", "vm3")]
    await found.entry(numbers[0])
    renamed = replace(catalog.images.pop("vm2"), image="new")
    catalog.images["new"] = renamed
    assert await found.entry(numbers[1]) == renamed
    catalog.images["vm3"] = image("vm3", "another one")
    with pytest.raises(Gone):
        await found.entry(numbers[2])


async def test_only_what_could_not_be_read_is_read_again(nursery: trio.Nursery) -> None:
    catalog, inodes, found = inherited(nursery)
    catalog.failing = True
    inside = inodes.number(replace(image("inside"), namespace="tenant").key)
    with pytest.raises(Gone):
        await found.entry(inside)
    assert catalog.readings.count("") == 1
    catalog.failing = False
    assert (await found.entry(inside)).image == "inside"
    assert catalog.readings.count("") == 1


async def test_two_who_ask_and_one_who_gives_up(nursery: trio.Nursery) -> None:
    """And a cluster that does not answer for a while: what is there is found afterwards."""
    catalog, inodes, found = inherited(nursery)
    numbers = [inodes.number(catalog.images[name].key) for name in ("vm1", "vm2", "vm3")]
    await found.entry(numbers[0])
    with trio.CancelScope() as given_up:
        given_up.cancel()
        await found.entry(numbers[1])
    assert given_up.cancelled_caught
    entries = []

    async def ask() -> None:
        entries.append(await found.entry(numbers[1]))

    async with trio.open_nursery() as both:
        both.start_soon(ask)
        both.start_soon(ask)
    assert entries == [catalog.images["vm2"]] * 2
    catalog.failing = True
    with pytest.raises(TimedOut):
        await found.entry(numbers[2])
    catalog.failing = False
    assert await found.entry(numbers[2]) == catalog.images["vm3"]
