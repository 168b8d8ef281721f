"""Moves of images to another pool or namespace, while files are open on them.

rename(2) quiesces the image, has RBD live migration prepared, reopens the files at the new place
and thaws them: it answers then, because the kernel lets nobody look up
a name in either directory before. What there is to copy is copied after that, by completion.py.

Nothing is undone once requests go on, for an abort loses what was zeroed since. What ends half-way
is whole at the new place and stays a migration that is pending: a server that comes after this one
finishes what this mount has begun. Others' may be at work, or waiting for a decision: they are
named in the log, with the commands that end them. Only what no command ends is ended here.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import trio

from rbdfs.errors import Gone, InUse
from rbdfs.metadata.migration_record import MIGRATING, State
from rbdfs.model.file_name import ImageSpec, parse_file_name
from rbdfs.model.inode_table import ROOT_INODE
from rbdfs.moves.interrupted import (
    pending,
    take_back,
    take_back_alone,
    undo,
)
from rbdfs.moves.migration import Migration, image_entry
from rbdfs.moves.switch import close_images, go_back, relocation_of, reopen_images

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rbdfs.ceph.cluster import Cluster
    from rbdfs.files.keeping import Keeping
    from rbdfs.files.shared_image import SharedImage
    from rbdfs.files.table import HandleTable
    from rbdfs.model.entry import Entry, Key
    from rbdfs.model.inode_table import InodeTable
    from rbdfs.model.relocation import Relocation
    from rbdfs.moves.finish import Finish
    from rbdfs.names.catalog import Catalog

log = logging.getLogger(__name__)

_WITH_TARGET = (State.PREPARED, State.EXECUTING, State.EXECUTED)


@dataclass(slots=True)
class Move:
    """One move, from its beginning to the end of the migration, if it comes to one.

    Attributes:
        number: what the keeper knows it by.
        migration: None until it is prepared.
    """

    number: int
    source: ImageSpec
    source_id: str
    target: ImageSpec
    migration: Migration | None = None

    def record(self) -> dict[str, Any]:
        """Return what another server needs to go on with it, fit for JSON."""
        source, target = (
            (spec.pool, spec.namespace, spec.image) for spec in (self.source, self.target)
        )
        return {"source": source, "image_id": self.source_id, "target": target}

    @classmethod
    def from_record(cls, number: int, record: dict[str, Any]) -> Move:
        """Return move *number* that record() has written, in this version or another one."""
        source, target = ImageSpec(*record["source"]), ImageSpec(*record["target"])
        return cls(number, source, record["image_id"], target)

    @property
    def over(self) -> bool:
        return self.migration is None or self.migration.state is None


class Moves:
    """The moves of one mount."""

    def __init__(
        self,
        cluster: Cluster,
        catalog: Catalog,
        handles: HandleTable,
        inodes: InodeTable,
        keeping: Keeping,
        finish: Finish,
        nursery: trio.Nursery,
        data_pool: str | None,
    ) -> None:
        """*data_pool* is where the data goes; None: where the image has it, or the target pool."""
        self._cluster = cluster
        self._catalog = catalog
        self._handles = handles
        self._inodes = inodes
        self._keeping = keeping
        self._finish = finish
        self._nursery = nursery
        self._data_pool = data_pool
        self._numbers = itertools.count(1)
        self._inherited: list[tuple[Move, Key]] = []
        # Sources and targets of moves that a server before this one has begun.
        self._made: set[tuple[ImageSpec, ImageSpec]] = set()
        # The images that stay quiesced for a copy.
        self._quiescences: set[contextlib.AsyncExitStack] = set()

    async def move(self, source: Entry, target: ImageSpec) -> None:
        """Move image *source* to *target*; return when its files are open there.

        Raises OSError, and nothing is changed then: EBUSY where another client, a clone or a file
        that grows is in the way; EEXIST.
        """
        await self._nursery.start(self._move, source, target)

    async def inherit(self, records: dict[int, dict[str, Any]]) -> list[Relocation]:
        """Take over the moves of another server, which is gone; return where their images are.

        Each is finished, but for one that had not got as far as to have a whole target.
        """
        relocations = []
        for number, record in records.items():
            move = Move.from_record(number, record)
            self._made.add((move.source, move.target))
            self._numbers = itertools.count(max(next(self._numbers), move.number + 1))
            try:
                relocation = await self._inherit(move)
            except OSError as exc:
                log.error("the move of %s is not taken over: %s", move.source, exc)
                continue
            if relocation is not None:
                relocations.append(relocation)
                self._inherited.append((move, relocation.target.image_key))
        return relocations

    def was_made(self, parent: Entry, name: bytes, new_parent: Entry, new_name: bytes) -> bool:
        """Tell whether a server before this one has made this move, if its source is not there."""
        try:
            source, target = parse_file_name(name).image, parse_file_name(new_name).image
        except ValueError:
            return False
        move = (
            ImageSpec(parent.pool, parent.namespace, source),
            ImageSpec(new_parent.pool, new_parent.namespace, target),
        )
        return move in self._made

    async def go_on(self) -> None:
        """Go on in the background with what was inherited, when all files are open again."""
        while self._inherited:
            await self._nursery.start(self._go_on, *self._inherited.pop())

    async def thaw(self) -> None:
        """Thaw what waits for a copy, so that it can be closed: no request is served any more."""
        for quiescence in list(self._quiescences):
            await quiescence.aclose()

    async def report_pending(self) -> None:
        """Log which migrations out of the pools of this mount nobody has ended yet."""
        root = self._inodes.entry(ROOT_INODE)
        try:
            for pool, namespace in await self._catalog.places(root):
                found = await pending(self._cluster, pool, namespace)
                for migration in found.migrations:
                    _report_pending(migration)
                for source_id, source in found.unmarked.items():
                    self._nursery.start_soon(take_back_alone, self._cluster, source, source_id)
        except OSError as exc:
            log.warning("cannot tell whether images are being moved: %s", exc)

    async def _inherit(self, move: Move) -> Relocation | None:
        found = await pending(self._cluster, move.source.pool, move.source.namespace)
        move.migration = next(
            (one for one in found.migrations if one.source_id == move.source_id), None
        )
        if move.migration is not None and move.migration.state not in _WITH_TARGET:
            await undo(move.migration)
            log.info("%s: not prepared: undone", move.migration)
        if move.source_id in found.unmarked:
            # Its client is gone: it was this mount's server.
            await take_back(self._cluster, move.source, move.source_id)
            log.info("migration of %s to %s: not prepared: undone", move.source, move.target)
        elif move.migration is None and await self._is_gone(move):
            log.info("migration of %s to %s: done", move.source, move.target)
        if move.migration is None or move.over:
            self._keeping.moved(move.number)
            return None
        return await relocation_of(move.migration, self._catalog)

    async def _is_gone(self, move: Move) -> bool:
        ioctx = await self._cluster.ioctx(move.source.pool, move.source.namespace)
        source = image_entry(ioctx, move.source, move.source_id)
        try:
            await self._catalog.attributes(source)
        except Gone:
            return True
        return False

    async def _go_on(
        self, move: Move, image: Key, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        async with contextlib.AsyncExitStack() as quiescence:
            await quiescence.enter_async_context(self._handles.quiesced(image))
            task_status.started()
            await self._complete(move, quiescence)

    async def _move(
        self,
        source: Entry,
        target: ImageSpec,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        attributes = await self._catalog.attributes(source)
        if attributes.features & MIGRATING:
            raise InUse(f"{source.spec} is being moved already")
        spec = ImageSpec(source.pool, source.namespace, source.image)
        move = Move(next(self._numbers), spec, attributes.image_id, target)
        async with contextlib.AsyncExitStack() as quiescence:
            images = await quiescence.enter_async_context(self._handles.quiesced(source.image_key))
            self._keeping.moving(move.number, move.record())
            try:
                await close_images(images)
                try:
                    await self._switch(move, source, target, images)
                except Exception:
                    await go_back(images)
                    raise
            except Exception:
                if move.over:
                    self._keeping.moved(move.number)
                raise
            task_status.started()
            await self._complete(move, quiescence)

    async def _switch(
        self, move: Move, source: Entry, target: ImageSpec, images: Iterable[SharedImage]
    ) -> None:
        """Have the migration prepared, and *images* opened where they are then; all or nothing."""
        async with Migration.prepared(
            self._cluster, source, target, data_pool=self._data_pool
        ) as migration:
            move.migration = migration
            relocation = await relocation_of(migration, self._catalog)
            await reopen_images(images, relocation)
            # From now on nothing is undone: whoever opens it may write.
            migration.used = True
        self._handles.relocate(relocation)
        self._inodes.relocate(relocation)
        self._catalog.directory_changed(source)
        self._catalog.directory_changed(relocation.target)
        log.info("%s: %s is there, its data follows", migration, target)

    async def _complete(self, move: Move, quiescence: contextlib.AsyncExitStack) -> None:
        assert move.migration is not None
        self._quiescences.add(quiescence)
        try:
            await self._finish.run(move.migration, quiescence)
        except Exception:
            # Nobody awaits this task: what it raised would take the mount down.
            log.exception("%s failed", move.migration)
        except BaseException:
            # Cancelled; more than once, if the copy was.
            _report_pending(move.migration)
            raise
        else:
            self._keeping.moved(move.number)
        finally:
            self._quiescences.remove(quiescence)


def _report_pending(migration: Migration) -> None:
    if migration.state is State.EXECUTED:
        log.warning("%s is copied: `rbd migration commit %s` ends it", migration, migration.target)
    elif migration.state in _WITH_TARGET:
        log.warning(
            "%s is not complete: `rbd migration execute %s` and `rbd migration commit` finish it",
            migration,
            migration.target,
        )
    else:
        log.warning(
            "%s is not complete: `rbd migration abort %s` undoes it", migration, migration.source
        )
