"""The moves that a server before this one has begun, and that this one ends."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import trio

from rbdfs.errors import Gone
from rbdfs.model.file_name import ImageSpec, parse_file_name
from rbdfs.moves.interrupted import (
    WITH_TARGET,
    abandon,
    is_open,
    pending,
    take_back_alone,
)
from rbdfs.moves.migration import image_entry
from rbdfs.moves.move import Move
from rbdfs.moves.switch import relocation_of

if TYPE_CHECKING:
    from rbdfs.ceph.cluster import Cluster
    from rbdfs.files.keeping import Keeping
    from rbdfs.model.entry import Entry
    from rbdfs.moves.moves import Moves
    from rbdfs.names.catalog import Catalog

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Inherited:
    """A move of another server.

    Attributes:
        found: set when it is known how far the move has come: it is relocated then, or over.
        restored: to be set when its files are open again, or known to be lost.
    """

    move: Move
    found: trio.Event = field(default_factory=trio.Event)
    restored: trio.Event = field(default_factory=trio.Event)


class Inheritance:
    """Ends the moves of another server of this mount, which is gone and fenced."""

    def __init__(
        self,
        cluster: Cluster,
        catalog: Catalog,
        keeping: Keeping,
        moves: Moves,
        nursery: trio.Nursery,
    ) -> None:
        self._cluster = cluster
        self._catalog = catalog
        self._keeping = keeping
        self._moves = moves
        self._nursery = nursery
        self._inherited: list[Inherited] = []
        # Sources and targets of those that have come to their target.
        self._made: set[tuple[ImageSpec, ImageSpec]] = set()

    def inherit(self, records: dict[int, dict[str, Any]]) -> list[Inherited]:
        """Take over the moves of another server, which is gone, each by itself in the background.

        Each is finished, but for one that had not got as far as to have a whole target.
        """
        for number, record in records.items():
            one = Inherited(Move.from_record(number, record))
            self._moves.reserve(number)
            self._inherited.append(one)
            self._nursery.start_soon(self._find, one)
        return self._inherited

    async def was_made(
        self, parent: Entry, name: bytes, new_parent: Entry, new_name: bytes
    ) -> bool:
        """Tell whether a server before this one has made this move; wait until that is known."""
        try:
            source, target = parse_file_name(name).image, parse_file_name(new_name).image
        except ValueError:
            return False
        move = (
            ImageSpec(parent.pool, parent.namespace, source),
            ImageSpec(new_parent.pool, new_parent.namespace, target),
        )
        for one in self._inherited:
            if (one.move.source, one.move.target) == move:
                await one.found.wait()
        return move in self._made

    async def go_on(self, move: Move) -> None:
        """Go on with *move*, whose files are being opened, in the background; quiesce it first."""
        await self._nursery.start(self._go_on, move)

    async def _go_on(
        self, move: Move, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        if move.relocation is None:
            raise ValueError(f"{move}: not relocated")
        quiescence = await self._moves.quiesced(move.relocation.target.image_key)
        try:
            task_status.started()
            await self._moves.complete(move, quiescence)
        finally:
            with trio.CancelScope(shield=True):
                await quiescence.thaw()

    async def _find(self, one: Inherited) -> None:
        try:
            await self._inherit(one.move)
        except OSError as exc:
            log.error("the %s is not taken over: %s", one.move, exc)
        except Exception:
            # One move that nobody expected must not take all files along.
            log.exception("the %s is not taken over", one.move)
        one.found.set()

    async def _inherit(self, move: Move) -> None:
        """Learn how far *move* has come: it is relocated then, or over."""
        found = await pending(self._cluster, move.source.pool, move.source.namespace)
        begun = [one for one in found.migrations if one.source_id == move.source_id]
        for migration in begun:
            if migration.target == move.target and migration.state in WITH_TARGET:
                move.migration = migration
                move.relocation = await relocation_of(migration, self._catalog)
                self._made.add((move.source, move.target))
                return
        if begun or move.source_id in found.unmarked:
            await abandon(self._cluster, move.source, move.source_id, move.target, prepared=False)
        if move.source_id in found.unmarked and await is_open(
            self._cluster, move.source, move.source_id
        ):
            # Another client is at it, which may have died as well.
            self._nursery.start_soon(self._take_back, move)
            return
        if not begun and move.source_id not in found.unmarked and await self._is_gone(move):
            log.info("migration of %s to %s: done", move.source, move.target)
            self._made.add((move.source, move.target))
        self._keeping.moved(move.number)

    async def _take_back(self, move: Move) -> None:
        await take_back_alone(self._cluster, move.source, move.source_id)
        self._keeping.moved(move.number)

    async def _is_gone(self, move: Move) -> bool:
        ioctx = await self._cluster.ioctx(move.source.pool, move.source.namespace)
        source = image_entry(ioctx, move.source, move.source_id)
        try:
            await self._catalog.attributes(source)
        except Gone:
            return True
        return False
