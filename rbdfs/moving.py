"""Moves of images to another pool or namespace, while files are open on them.

rename(2) holds the requests to the image back, has RBD live migration prepared, opens the files at
the new place and lets the requests go on: it answers then, because the kernel lets nobody look up
a name in either directory before. What there is to copy is copied after that, in the background.

Nothing is undone once requests go on, for an abort loses what was zeroed since. What ends half-way
is whole at the new place and stays a migration that is pending: a server that comes after this one
finishes what this mount has begun. Others' may be at work, or waiting for a decision: they are
named in the log, with the commands that end them.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import logging
from typing import TYPE_CHECKING, Any

import trio

from rbdfs.cluster import Cluster
from rbdfs.entries import Entry
from rbdfs.errors import UserError
from rbdfs.kinds import USER, image_entry
from rbdfs.migration import Migration
from rbdfs.migration import image_entry as entry_of
from rbdfs.migration_header import State
from rbdfs.migration_recovery import finish, pending, undo
from rbdfs.relocation import Relocation
from rbdfs.spec import ImageSpec

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable

    from rbdfs.catalog import Catalog
    from rbdfs.handles import HandleTable
    from rbdfs.keeping import Keeping
    from rbdfs.library import Library
    from rbdfs.options import MountOptions
    from rbdfs.shared_image import SharedImage
    from rbdfs.tree import InodeTable

log = logging.getLogger(__name__)

# Other mounts look at what they have open every second, and give up what is being moved.
_NOTICE_S = 4.0
# Between tries to remove the source, which a clone that is open for writing may still need.
_RETRY_S = 5.0
# How long another client may be in the way of going on at the source, where a move failed.
_RETURN_S = 5.0
_REPORT_PERCENT = 10


class Moves:
    """The moves of one mount."""

    def __init__(
        self,
        cluster: Cluster,
        catalog: Catalog,
        handles: HandleTable,
        inodes: InodeTable,
        library: Library,
        keeping: Keeping,
        options: MountOptions,
        nursery: trio.Nursery,
    ) -> None:
        self._cluster = cluster
        self._catalog = catalog
        self._handles = handles
        self._inodes = inodes
        self._library = library
        self._keeping = keeping
        self._options = options
        self._nursery = nursery
        self._numbers = itertools.count(1)
        self._own = frozenset({cluster.address, library.address})
        self._moving: set[str] = set()

    @classmethod
    @contextlib.asynccontextmanager
    async def running(cls, *parts: Any) -> AsyncIterator[Moves]:
        """Yield the moves of a mount; interrupt at the end of the context what is under way.

        Files have to be closed before: a writer of the image that is copied copies, for librbd,
        and what waits for it cannot be stopped.
        """
        failure: Exception | None = None
        async with trio.open_nursery() as nursery:
            try:
                yield cls(*parts, nursery)
            except Exception as exc:
                # As it is, and not in a group of the nursery's.
                failure = exc
            nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure

    async def move(self, source: Entry, target: ImageSpec) -> None:
        """Move image *source* to *target*; return when its files are open there.

        Raises OSError, and nothing is changed then: EBUSY where another client, a clone or a file
        that grows is in the way; EEXIST; ESTALE where a snapshot is open that has no name.
        """
        await self._nursery.start(self._move, source, target)

    async def inherit(self, records: Iterable[dict[str, Any]]) -> list[Relocation]:
        """Take over the moves of another server, which is gone; return where their images are.

        Each is finished, but for one that had not got as far as to have a whole target.
        """
        relocations = []
        for record in records:
            self._numbers = itertools.count(max(next(self._numbers), record["number"] + 1))
            source_id, source = record["move"]["image_id"], ImageSpec(*record["move"]["source"])
            try:
                found = await pending(self._cluster, source.pool, source.namespace)
                for migration in found:
                    if migration.source_id == source_id:
                        relocations += await self._inherit(migration, record)
                        break
                else:
                    self._keeping.moved(record["number"])
            except OSError as exc:
                log.error("the move of %s is not taken over: %s", source, exc)
        return relocations

    async def _inherit(self, migration: Migration, record: dict[str, Any]) -> list[Relocation]:
        if migration.state not in (State.PREPARED, State.EXECUTING, State.EXECUTED):
            await undo(migration)
            self._keeping.moved(record["number"])
            return []
        relocation = await self._relocation(migration)
        self._nursery.start_soon(self._go_on, migration, record)
        return [relocation]

    async def _move(
        self,
        source: Entry,
        target: ImageSpec,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        with self._remembered(source):
            async with self._copier() as copier, contextlib.AsyncExitStack() as quiet:
                images = await quiet.enter_async_context(self._handles.held(source.image_key))
                async with _shut(images):
                    migration = await self._switched(copier, source, target, images)
                await quiet.aclose()
                task_status.started()
                await self._complete(migration)
