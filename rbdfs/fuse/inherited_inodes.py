"""Inodes that the kernel knows from a server before this one: found when it asks for them.

A number follows from the key of what it stands for, so whatever can be listed can be found. It is
looked for only when the kernel asks for a number that this server has not told it of, which is
rare: it looks names up anew every second.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import trio

from rbdfs.model.inode_table import ROOT_INODE

if TYPE_CHECKING:
    from rbdfs.model.entry import Entry
    from rbdfs.model.inode_table import InodeTable
    from rbdfs.names.catalog import Catalog

log = logging.getLogger(__name__)


class InheritedInodes:
    """The inodes of a mount, whoever has told the kernel of them.

    *nursery* is where the mount is read, each pool by itself: one that does not answer keeps
    those waiting who ask for what may be in it, and nobody else.
    """

    def __init__(self, catalog: Catalog, inodes: InodeTable, nursery: trio.Nursery) -> None:
        self._catalog = catalog
        self._inodes = inodes
        self._nursery = nursery
        self._wanted: dict[int, trio.Event] = {}
        self._reading = self._complete = False
        self._failures = 0

    async def entry(self, number: int) -> Entry:
        """Return what *number* stands for; raise OSError ESTALE where nothing does (any more)."""
        if number not in self._inodes and not self._complete:
            if not self._reading:
                self._reading = True
                self._nursery.start_soon(self._read)
            await self._wanted.setdefault(number, trio.Event()).wait()
        return self._inodes.entry(number)

    async def _read(self) -> None:
        log.info("looking for what the kernel was told by another server")
        self._failures = 0
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._read_directory, self._inodes.entry(ROOT_INODE), nursery)
        # What could not be read is tried again for the next who asks.
        self._reading, self._complete = False, not self._failures
        while self._wanted:
            self._wanted.popitem()[1].set()

    async def _read_directory(self, parent: Entry, nursery: trio.Nursery) -> None:
        try:
            listing, index = self._catalog.listing(parent), 0
            while (item := await listing.item(index)) is not None:
                self._found(item[1])
                if item[1].is_directory:
                    nursery.start_soon(self._read_directory, item[1], nursery)
                index += 1
        except Exception as exc:
            # Nobody awaits this task: what it raised would take the mount down.
            log.warning("cannot look for inodes in %s: %s", parent.spec, exc)
            self._failures += 1

    def _found(self, entry: Entry) -> None:
        self._inodes.restore(entry)
        event = self._wanted.pop(self._inodes.number(entry.key), None)
        if event is not None:
            event.set()
