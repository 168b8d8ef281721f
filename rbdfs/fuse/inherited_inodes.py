"""Inodes that the kernel knows from a server before this one: found when it asks for them.

A number follows from the key of what it stands for, so whatever can be listed can be found. It is
looked for only when the kernel asks for a number that this server has not told it of, which is
rare: it looks names up anew every second.
"""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING

import trio

from rbdfs.errors import Missing
from rbdfs.model.inode_table import ROOT_INODE

if TYPE_CHECKING:
    from rbdfs.model.entry import Entry
    from rbdfs.model.inode_table import InodeTable
    from rbdfs.names.catalog import Catalog

log = logging.getLogger(__name__)


class InheritedInodes:
    """The inodes of a mount, whoever has told the kernel of them.

    *nursery* is where the mount is read, each pool by itself: one that does not answer keeps
    those waiting who ask for what may be in it, and nobody else. It is read once; of what nobody
    has asked for yet, the place and the name are kept.
    """

    def __init__(self, catalog: Catalog, inodes: InodeTable, nursery: trio.Nursery) -> None:
        self._catalog = catalog
        self._inodes = inodes
        self._nursery = nursery
        self._wanted: dict[int, trio.Event] = {}
        self._places: dict[int, tuple[Entry, bytes]] = {}
        self._unread: list[Entry] = [inodes.entry(ROOT_INODE)]
        self._reading = False

    async def entry(self, number: int) -> Entry:
        """Return what *number* stands for; raise OSError ESTALE where nothing does (any more)."""
        if number in self._places and number not in self._inodes:
            await self._look_at(number)
        # One reading that is under way may have passed it before it was renamed.
        for _ in range(2):
            if number in self._inodes or not (self._reading or self._unread):
                break
            if not self._reading:
                self._reading = True
                self._nursery.start_soon(self._read)
            await self._wanted.setdefault(number, trio.Event()).wait()
        return self._inodes.entry(number)

    async def _look_at(self, number: int) -> None:
        """Know *number*, or have the directory read again where it was seen; raise OSError.

        Others may ask for it meanwhile: its place is forgotten only when that is settled.
        """
        parent, name = self._places[number]
        found = None
        with contextlib.suppress(Missing):
            found = await self._catalog.find(parent, name)
        if self._places.pop(number, None) is None:
            return
        if found is not None and self._inodes.number(found.key) == number:
            self._inodes.restore(found)
        else:
            # It has another name by now, or has gone.
            self._unread.append(parent)

    async def _read(self) -> None:
        log.info("looking for what the kernel was told by another server")
        unread, self._unread = self._unread, []
        async with trio.open_nursery() as nursery:
            for parent in unread:
                nursery.start_soon(self._read_directory, parent, nursery)
        self._reading = False
        while self._wanted:
            self._wanted.popitem()[1].set()

    async def _read_directory(self, parent: Entry, nursery: trio.Nursery) -> None:
        try:
            listing, index = self._catalog.listing(parent), 0
            while (item := await listing.item(index)) is not None:
                self._found(parent, *item)
                if item[1].is_directory:
                    nursery.start_soon(self._read_directory, item[1], nursery)
                index += 1
        except Exception as exc:
            # Nobody awaits this task: what it raised would take the mount down.
            log.warning("cannot look for inodes in %s: %s", parent.spec, exc)
            # It is tried again for the next who asks.
            self._unread.append(parent)

    def _found(self, parent: Entry, name: bytes, entry: Entry) -> None:
        number = self._inodes.number(entry.key)
        event = self._wanted.pop(number, None)
        if event is not None:
            self._inodes.restore(entry)
            event.set()
        elif number not in self._inodes:
            self._places[number] = parent, name
