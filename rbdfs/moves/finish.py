"""The second half of a move: the data is copied, and the source removed.

Of an image with snapshots, requests go on and files are opened when all is copied. librbd 16.2.15
copies an object one snapshot after the other, and the image itself last; who reads it in between
gets the bytes of a snapshot (measured: about one of a hundred random reads during the copy).
"""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING

import trio

from rbdfs.errors import InUse
from rbdfs.metadata.migration_record import State
from rbdfs.moves.copier import Progress
from rbdfs.moves.interrupted import finish
from rbdfs.moves.migration import image_entry
from rbdfs.moves.switch import copied_live

if TYPE_CHECKING:
    import contextlib

    from rbdfs.files.table import HandleTable
    from rbdfs.moves.copier import Copier, Copying
    from rbdfs.moves.migration import Migration
    from rbdfs.names.catalog import Catalog

log = logging.getLogger(__name__)

# Other mounts look at what they have open every second, give up what has moved, and open its clones
# anew.
_NOTICE_S = 3.0
# Between tries: to copy, and to remove a source that a clone open for writing may still need.
_RETRY_S = 5.0


class Finish:
    """Brings migrations that are prepared to their end."""

    def __init__(self, catalog: Catalog, handles: HandleTable, copying: Copying) -> None:
        self._catalog = catalog
        self._handles = handles
        self._copying = copying

    async def run(self, migration: Migration, quiescence: contextlib.AsyncExitStack) -> None:
        """Copy, and remove the source; try again what fails, until it is done.

        The image is quiesced; closing *quiescence* thaws it, once what is read of it is right.
        """
        while True:
            try:
                async with self._copying.copier() as copier:
                    migration.cluster = copier.cluster
                    await self._copy(copier, migration, quiescence)
                    await self._remove_source(copier, migration)
                log.info("%s: done", migration)
                return
            except OSError as exc:
                log.error("%s fails, and is tried again in %g s: %s", migration, _RETRY_S, exc)
            await trio.sleep(_RETRY_S)

    async def _copy(
        self, copier: Copier, migration: Migration, quiescence: contextlib.AsyncExitStack
    ) -> None:
        if migration.state is not State.EXECUTED:
            if await copied_live(migration, self._catalog):
                await quiescence.aclose()
            else:
                log.info("%s: requests wait for the copy, for there are snapshots", migration)
            await copier.stoppable(partial(migration.execute, Progress(migration)))
        await quiescence.aclose()
        # Opened before that, librbd would show zeros for what comes from the source.
        await self._renew(migration)

    async def _remove_source(self, copier: Copier, migration: Migration) -> None:
        await trio.sleep(_NOTICE_S)
        while True:
            try:
                await copier.stoppable(partial(finish, migration))
                break
            except InUse as exc:
                log.info("%s: copied, but the source stays for now: %s", migration, exc)
            await trio.sleep(_RETRY_S)
        # Where data is, librbd tells once it knows that the image comes from nowhere any more.
        await self._renew(migration)

    async def _renew(self, migration: Migration) -> None:
        """Open anew what is open for reading of the image, its snapshots and their clones."""
        ioctx = await migration.ioctx(migration.target)
        image = image_entry(ioctx, migration.target, migration.target_id)
        keys = {entry.image_key for entry in (image, *await migration.clones())}
        for shared in self._handles.images():
            if shared.entry.image_key in keys:
                await shared.renew()
