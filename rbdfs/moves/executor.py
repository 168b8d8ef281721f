"""The second half of a move: the data is copied, and the source removed.

Of an image with snapshots, requests go on and files are opened when all is copied. librbd 16.2.15
copies an object one snapshot after the other, and the image itself last; who reads it in between
gets the bytes of a snapshot (measured: about one of a hundred random reads during the copy).
"""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import trio

from rbdfs.errors import InUse
from rbdfs.metadata.migration_record import State
from rbdfs.moves.copiers import Progress
from rbdfs.moves.interrupted import check_ended, finish
from rbdfs.moves.migration import image_entry
from rbdfs.moves.switch import copied_live
from rbdfs.moves.turns import Turns

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from contextlib import AbstractAsyncContextManager

    from rbdfs.files.table import HandleTable
    from rbdfs.moves.copiers import Copiers
    from rbdfs.moves.migration import Migration
    from rbdfs.moves.quiescence import Quiescence
    from rbdfs.names.catalog import Catalog

log = logging.getLogger(__name__)

# Copies between the same two pools at the same time. Each has a client, and threads, of its own.
_COPIES = 3


class Executor:
    """Executes and commits migrations that are prepared.

    Attributes:
        notice_s: how long a source that was copied stays. Other mounts look at what they have open
            every second, give up what has moved, and open its clones anew; one whose look comes
            later, for its host or the cluster is slow, would read zeros. Only space is lost by it.
        retry_s: between tries: to copy, and to remove a source that a clone open for writing may
            still need.
    """

    notice_s: ClassVar[float] = 30.0
    retry_s: ClassVar[float] = 5.0

    def __init__(self, catalog: Catalog, handles: HandleTable, copiers: Copiers) -> None:
        self._catalog = catalog
        self._handles = handles
        self._copiers = copiers
        # By the pools: one that does not answer keeps its own copies waiting, and no others.
        self._turns: dict[tuple[str, str], Turns] = {}
        self._progress: dict[Migration, Progress] = {}

    async def run(self, migration: Migration, quiescence: Quiescence) -> None:
        """Copy, and remove the source; try again what fails, until it is done.

        The image is thawed once what is read of it is right. A migration that another client has
        committed is done as well. Raises Undone for one that another client has aborted.
        """
        self._progress[migration] = Progress(migration)
        try:
            await self._run(migration, quiescence)
        finally:
            del self._progress[migration]

    def report(self) -> list[dict[str, Any]]:
        """Return image, new place and percentage of those that are not done."""
        return [progress.report() for progress in self._progress.values()]

    async def _run(self, migration: Migration, quiescence: Quiescence) -> None:
        await self._repeat(migration, partial(self._copy, migration, quiescence))
        self._progress[migration].percent = 100
        await quiescence.thaw()
        # What was opened before all was copied would show zeros for what comes from the source.
        for step in (self._renew, self._notice, self._remove_source):
            if migration.state is not None:
                await self._repeat(migration, partial(step, migration))
        try:
            # Where data is, librbd tells once it knows that the image comes from nowhere any more.
            await self._renew(migration)
        except OSError as exc:
            log.warning("%s: files may be open where they were: %s", migration, exc)
        log.info("%s: done", migration)

    async def _repeat(self, migration: Migration, step: Callable[[], Awaitable[None]]) -> None:
        """Take *step* until it succeeds, or the migration has been ended by another client."""
        told = ""
        while True:
            try:
                await step()
                return
            except OSError as exc:
                if str(exc) != told:
                    told = str(exc)
                    _report(migration, exc)
            if await check_ended(migration):
                log.warning("%s: committed by another client", migration)
                return
            await trio.sleep(self.retry_s)

    async def _copy(self, migration: Migration, quiescence: Quiescence) -> None:
        if migration.state is State.EXECUTED:
            return
        live = quiescence.over or await copied_live(migration, self._catalog)
        if live:
            await quiescence.thaw()
        else:
            log.info("%s: requests wait for the copy, for there are snapshots", migration)
        # Others may wait for days, but not those whose requests do.
        async with self._turn(migration, urgent=not live), self._copiers.copier() as copier:
            with migration.on(copier.cluster):
                await copier.stoppable(partial(migration.execute, self._progress[migration]))
        log.info("%s: copied; the source stays for %g s", migration, self.notice_s)

    async def _notice(self, _migration: Migration) -> None:
        await trio.sleep(self.notice_s)

    async def _remove_source(self, migration: Migration) -> None:
        # Before a client is made for it: a clone may be open for as long as it likes.
        await migration.refuse_open_clones()
        async with self._turn(migration, urgent=True), self._copiers.copier() as copier:
            with migration.on(copier.cluster):
                await copier.stoppable(partial(finish, migration))

    async def _renew(self, migration: Migration) -> None:
        """Open anew what is open for reading of the image, its snapshots and their clones."""
        ioctx = await migration.ioctx(migration.target)
        image = image_entry(ioctx, migration.target, migration.target_id)
        keys = {entry.image_key for entry in (image, *await migration.clones())}
        for shared in self._handles.images():
            if shared.entry.image_key in keys:
                await shared.renew()

    def _turn(self, migration: Migration, *, urgent: bool) -> AbstractAsyncContextManager[None]:
        pools = (migration.source.pool, migration.target.pool)
        return self._turns.setdefault(pools, Turns(_COPIES)).turn(urgent=urgent)


def _report(migration: Migration, exc: OSError) -> None:
    if migration.state is State.EXECUTED and isinstance(exc, InUse):
        log.info("%s: copied, but the source stays for now: %s", migration, exc)
    else:
        log.error("%s fails, and is tried again: %s", migration, exc)
