"""Moves of images to another pool or namespace, while files are open on them.

rename(2) quiesces the image, has RBD live migration prepared, and reopens the files at the new
place: it answers then, because the kernel lets nobody look up a name in either directory before.
What there is to copy is copied after that, by the executor.

Nothing is undone by this mount once requests go on, for an abort loses what was zeroed since. What
ends half-way is whole at the new place and stays a migration that is pending: a server that comes
after this one finishes what this mount has begun. Others' may be at work, or waiting for a
decision: they are named in the log, with the commands that end them. Only what no command ends is
ended here.
"""

from __future__ import annotations

import itertools
import logging
from typing import TYPE_CHECKING, Any

import trio

from rbdfs.errors import (
    BadArgument,
    Exists,
    Failure,
    InUse,
    Missing,
    NoSpace,
    NotPermitted,
    ReadOnly,
    TimedOut,
)
from rbdfs.metadata.migration_record import MIGRATING
from rbdfs.model.file_name import ImageSpec
from rbdfs.model.inode_table import ROOT_INODE
from rbdfs.moves.inheritance import Inheritance
from rbdfs.moves.interrupted import abandon, report_pending, undo
from rbdfs.moves.migration import Migration, Undone
from rbdfs.moves.move import Move
from rbdfs.moves.quiescence import Quiescence
from rbdfs.moves.survey import Survey
from rbdfs.moves.switch import close_images, follow_back, go_back, relocation_of, reopen_images

if TYPE_CHECKING:
    from rbdfs.ceph.cluster import Cluster
    from rbdfs.files.keeping import Keeping
    from rbdfs.files.table import HandleTable
    from rbdfs.model.entry import Entry, Key
    from rbdfs.model.inode_table import InodeTable
    from rbdfs.model.relocation import Relocation
    from rbdfs.moves.executor import Executor
    from rbdfs.names.catalog import Catalog

log = logging.getLogger(__name__)

# Of what these say, the next try may be better.
_PASSING = (InUse, NoSpace, TimedOut)
# What prepare raises before it changes anything.
_REFUSALS = (InUse, Exists, Missing, BadArgument, NotPermitted, ReadOnly)


class Moves:
    """The moves of one mount.

    Every one has a task of its own in *nursery*, and where its image is quiesced a second one that
    does that.

    Attributes:
        inheritance: ends what a server before this one has begun.
        done, failed: how many have ended, and how.
    """

    def __init__(
        self,
        cluster: Cluster,
        catalog: Catalog,
        handles: HandleTable,
        inodes: InodeTable,
        keeping: Keeping,
        executor: Executor,
        nursery: trio.Nursery,
        data_pool: str | None,
    ) -> None:
        """*data_pool* is where the data goes; None: where the image has it, or the target pool."""
        self._cluster = cluster
        self._catalog = catalog
        self._handles = handles
        self._inodes = inodes
        self._keeping = keeping
        self._executor = executor
        self._nursery = nursery
        self._data_pool = data_pool
        self._numbers = itertools.count(1)
        self.inheritance = Inheritance(cluster, catalog, keeping, self, nursery)
        # Of the images whose requests wait for a copy.
        self._quiescences: set[Quiescence] = set()
        self.done = self.failed = 0

    @property
    def running(self) -> int:
        """How many are prepared, and have not ended."""
        return len(self._quiescences)

    def report(self) -> list[dict[str, Any]]:
        """Return what a status tells of those that are under way, as Executor.report() does."""
        return self._executor.report()

    async def move(self, source: Entry, target: ImageSpec) -> None:
        """Move image *source* to *target*; return when its files are open there.

        Raises OSError, and nothing is changed then: EBUSY where another client, a clone or a file
        that grows is in the way; EEXIST. Where that cannot be undone at once which has failed, the
        files wait until it is.
        """
        failure = await self._nursery.start(self._move, source, target)
        if failure is not None:
            raise failure

    async def survey(self) -> None:
        """Log which migrations out of the pools of this mount nobody has ended yet."""
        await Survey(self._cluster, self._catalog).run(self._inodes.entry(ROOT_INODE))

    def reserve(self, number: int) -> None:
        """Give *number*, of a move of another server, to no other."""
        self._numbers = itertools.count(max(next(self._numbers), number + 1))

    async def quiesced(self, image: Key) -> Quiescence:
        """Quiesce *image* until it is thawed; raise InUse where it is quiesced already."""
        quiescence = Quiescence(self._handles, image)
        await self._nursery.start(quiescence.hold)
        return quiescence

    async def thaw(self) -> None:
        """Thaw what waits for a copy, so that it can be closed: no request is served any more."""
        for quiescence in list(self._quiescences):
            await quiescence.thaw()

    async def complete(self, move: Move, quiescence: Quiescence) -> None:
        """Execute and commit what is prepared, and have the keeper forget the move.

        Its files are where it has relocated them. It cannot be raised from: an unexpected exception
        fails the files whose requests waited for the copy, and leaves the rest to the next server.
        """
        migration = move.migration
        if migration is None:
            raise ValueError(f"{move}: not prepared")
        self._quiescences.add(quiescence)
        try:
            try:
                await self._executor.run(migration, quiescence)
            except Undone as exc:
                log.warning("%s; its files follow", exc)
                await self._follow_back(move, quiescence)
                self.failed += 1
            else:
                self.done += 1
            self._keeping.moved(move.number)
        except Exception as exc:
            # Nobody awaits this task: what it raised would take the mount down.
            self.failed += 1
            log.exception("%s failed", migration)
            report_pending(migration)
            if not quiescence.over:
                # Read while it is copied, they would show older bytes.
                reason = f"{move} failed: {type(exc).__name__}: {exc}"
                await quiescence.fail(Failure(reason))
        except BaseException:
            # Cancelled; more than once, if the copy was.
            report_pending(migration)
            raise
        finally:
            self._quiescences.discard(quiescence)

    async def _move(
        self,
        source: Entry,
        target: ImageSpec,
        task_status: trio.TaskStatus[OSError | None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        attributes = await self._catalog.attributes(source)
        if attributes.features & MIGRATING:
            raise InUse(f"{source.spec} is being moved already")
        await self._catalog.check_openable(source)
        spec = ImageSpec(source.pool, source.namespace, source.image)
        move = Move(next(self._numbers), spec, attributes.image_id, target)
        quiescence = await self.quiesced(source.image_key)
        try:
            self._keeping.moving(move.number, move.record())
            await self._keeping.delivered()
            try:
                await close_images(quiescence.images)
                move.relocation = await self._switch(move, source, target, quiescence)
            except OSError as exc:
                await self._go_back(move, quiescence, exc, task_status)
                return
            except Exception as exc:
                log.exception("%s failed", move)
                failure = Failure(f"{move} failed: {type(exc).__name__}: {exc}")
                await self._go_back(move, quiescence, failure, task_status)
                return
            self._relocate(move.relocation, source)
            log.info("%s: %s is there, its data follows", move.migration, target)
            task_status.started(None)
            await self.complete(move, quiescence)
        finally:
            with trio.CancelScope(shield=True):
                await quiescence.thaw()

    async def _switch(
        self, move: Move, source: Entry, target: ImageSpec, quiescence: Quiescence
    ) -> Relocation:
        """Have the migration prepared, and the images opened where they are then, or neither."""
        async with Migration.prepared(
            self._cluster, source, target, data_pool=self._data_pool
        ) as migration:
            move.migration = migration
            relocation = await relocation_of(migration, self._catalog)
            await reopen_images(quiescence.images, relocation)
            # From now on nothing is undone: whoever opens it may write.
            migration.used = True
        return relocation

    def _relocate(self, relocation: Relocation, source: Entry) -> None:
        self._handles.relocate(relocation)
        self._inodes.relocate(relocation)
        self._catalog.directory_changed(source)
        self._catalog.directory_changed(relocation.target)

    async def _go_back(
        self,
        move: Move,
        quiescence: Quiescence,
        failure: OSError,
        task_status: trio.TaskStatus[OSError | None],
    ) -> None:
        """Answer *failure*, when what was begun is undone and the files are open where they were.

        What cannot be undone now, is undone later, after the answer: the files wait for it.
        """
        self.failed += 1
        answered = False
        while True:
            try:
                await self._undo(move, failure)
            except OSError as exc:
                log.error("%s has failed (%s), and cannot be undone: %s", move, failure, exc)
                if not isinstance(exc, _PASSING):
                    # The keeper still knows of it: the next server tries again.
                    break
                if not answered:
                    task_status.started(failure)
                    answered = True
                await trio.sleep(self._executor.retry_s)
            else:
                self._keeping.moved(move.number)
                break
        await go_back(quiescence.images)
        await quiescence.thaw()
        if not answered:
            task_status.started(failure)

    async def _undo(self, move: Move, failure: OSError) -> None:
        """Undo what was begun and has come to *failure*; raise OSError."""
        if move.migration is not None:
            if move.migration.state is not None:
                await undo(move.migration)
            return
        # What was refused had not begun, and what is there is another client's.
        begun = not isinstance(failure, _REFUSALS)
        await abandon(self._cluster, move.source, move.source_id, move.target, prepared=begun)

    async def _follow_back(self, move: Move, quiescence: Quiescence) -> None:
        """Open the files where they were before the move."""
        if move.relocation is None:
            raise ValueError(f"{move}: not relocated")
        if quiescence.over:
            await quiescence.thaw()
            quiescence = await self.quiesced(move.relocation.target.image_key)
        try:
            ioctx = await self._cluster.ioctx(move.source.pool, move.source.namespace)
            relocation = move.back(ioctx.get_pool_id())
            await follow_back(quiescence.images, relocation)
            self._relocate(relocation, move.relocation.target)
        finally:
            with trio.CancelScope(shield=True):
                await quiescence.thaw()
