"""Where the data of an image is: in itself, and in the snapshots that it was cloned from.

librbd 16.2.15 looks for that when it opens an image, and not again. Where one of these images is
moved by a live migration, whoever has opened it before all was copied reads zeros after the commit
(migration.py has what was measured). And a target with snapshots is not to be read while it is
copied: an object is copied one snapshot after the other, and shows older bytes until the last.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rbdfs.errors import Gone, ImageGone, Missing, NotUnderstood, PoolGone
from rbdfs.metadata.image_header import MAX_DEPTH
from rbdfs.metadata.migration_record import MIGRATING, State
from rbdfs.model.entry import Entry, Key, find_snap

if TYPE_CHECKING:
    from rbdfs.ceph.cluster import Cluster
    from rbdfs.metadata.cache import MetadataCache
    from rbdfs.metadata.migration_record import MigrationHeader
    from rbdfs.model.image_attributes import ImageAttributes

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Lineage:
    """An image, its parent, the parent of that, and so on.

    Attributes:
        images: the keys of all of them; of a parent the snapshot that the one before comes from.
        moved_away: whether the image is the source of a live migration, and soon to be gone.
        arriving: whether the image is the target of a live migration that has not been executed.
        copying: whether one of them is.
        copied: whether all of them can be opened, and read right.
    """

    images: tuple[Key, ...]
    moved_away: bool
    arriving: bool
    copying: bool
    copied: bool

    def outdates(self, found: Lineage | None) -> bool:
        """Tell whether librbd has to open again what it opened when the lineage was *found*.

        It has found the data where it was then: it would read zeros where an image was flattened
        and what it came from was removed, or where one was moved. None says that nobody knows
        what it has found. Not before all is copied: until then it would find the wrong place again.
        """
        if not self.copied or self.copying:
            return False
        return found is None or found.copying or found.images != self.images


@dataclass(frozen=True, slots=True)
class _Ancestor:
    """An image of a lineage; ``migration`` is its record of one, from it or to it.

    The image before it was cloned from its snapshot with ``snap_id``; 0 where there is none.
    """

    entry: Entry
    snap_id: int
    attributes: ImageAttributes
    migration: MigrationHeader | None


class Lineages:
    """Reads lineages from headers; opens nothing."""

    def __init__(self, cluster: Cluster, cache: MetadataCache) -> None:
        self._cluster = cluster
        self._cache = cache
        self._pools: dict[int, str] = {}

    async def of(self, entry: Entry, *, newer: bool = False) -> Lineage:
        """Return the lineage of the image that *entry* is, or is a snapshot of.

        With *newer* the parents are asked after the call, and not remembered. Raises OSError;
        NotUnderstood for an image that librbd must not open, as check() does.
        """
        moved_away, arriving, copying, copied = False, False, False, True
        line = await self._line(entry, newer=newer)
        for index, ancestor in enumerate(line):
            migration = ancestor.migration
            if migration is not None and migration.is_source:
                moved_away = moved_away or index == 0
            elif migration is not None and migration.state is not State.EXECUTED:
                copying = True
                arriving = arriving or index == 0
                if ancestor.attributes.snaps:
                    copied = False
        images = tuple(each.entry.image_key._replace(snap_id=each.snap_id) for each in line)
        return Lineage(images, moved_away, arriving, copying, copied)

    async def known(self, entry: Entry) -> Lineage | None:
        """Return the lineage as of() does, or None where it cannot be told.

        Raises NotUnderstood for an image that librbd must not open, as check() does.
        """
        try:
            return await self.of(entry)
        except NotUnderstood:
            raise
        except OSError as exc:
            log.debug("what %s was cloned from is not known: %s", entry.spec, exc)
            return None

    async def is_there(self, lineage: Lineage) -> bool:
        """Tell whether all snapshots that *lineage* had data in are still there; raise OSError.

        Then whatever librbd has read of them until now was right.
        """
        for key in lineage.images[1:]:
            try:
                pool = await self._pool(key.pool_id)
                entry = Entry(key, pool, key.namespace or "")
                found = await self._cache.attributes(entry, "", entry.image_id or "", newer=True)
            except (Missing, Gone):
                return False
            if find_snap(found, key.snap_id) is None:
                return False
        return True

    async def check(self, entry: Entry) -> None:
        """Raise OSError unless librbd can be let loose on the image of *entry*.

        It opens the parent too, the parent of that, and so on, and the source of a migration.
        Whoever may write to a header can make an image its own ancestor: librbd 16.2 would go round
        until it has no memory left. It asks without an end for the record of a migration that has
        none, and aborts the process where the source is not there (measured).
        """
        await self._line(entry)

    async def _line(
        self,
        entry: Entry,
        *,
        newer: bool = False,
        depth: int = 0,
        checked: set[Key] | None = None,
    ) -> list[_Ancestor]:
        """Return the image of *entry* and all that it was cloned from, as of() says.

        It is *depth* parents away from the image that was asked for; the sources of migrations
        that are *checked* are not asked for again.
        """
        checked = set() if checked is None else checked
        spec, line = entry.spec, [await self._ancestor(entry, entry.image)]
        while True:
            await self._check_source(line[-1], depth + len(line) - 1, checked)
            attributes = line[-1].attributes
            parent = attributes.parent or attributes.snap_parent
            if parent is None:
                return line
            if depth + len(line) >= MAX_DEPTH:
                raise NotUnderstood(f"{spec}: more than {MAX_DEPTH} parents, or a circle")
            key = Key(parent.pool_id, parent.pool_namespace, parent.image_id)
            entry = Entry(key, await self._pool(parent.pool_id), parent.pool_namespace)
            try:
                line.append(await self._ancestor(entry, "", parent.snap_id, newer=newer))
            except (Missing, PoolGone) as exc:
                raise ImageGone(f"{spec}: parent {parent.image_id} is gone") from exc

    async def _ancestor(
        self, entry: Entry, name: str, snap_id: int = 0, *, newer: bool = False
    ) -> _Ancestor:
        attributes = await self._cache.attributes(entry, name, entry.image_id or "", newer=newer)
        migration = await self._cache.migration(entry, attributes)
        if migration is None and attributes.features & MIGRATING:
            # It may have ended since the header was read.
            self._cache.image_changed(entry)
            attributes = await self._cache.attributes(entry, name, entry.image_id or "")
            migration = await self._cache.migration(entry, attributes)
            if migration is None and attributes.features & MIGRATING:
                raise NotUnderstood(f"{entry.spec} is being moved, but not from or to anywhere")
        return _Ancestor(entry, snap_id, attributes, migration)

    async def _check_source(self, ancestor: _Ancestor, depth: int, checked: set[Key]) -> None:
        """Raise NotUnderstood unless librbd can open the source of the migration to *ancestor*.

        The source has the parents that the target has. One of them may be the target itself: only
        a *depth* that is counted through sources comes to an end there. What they all have in
        common is *checked* once; otherwise each migration on the way would double it.
        """
        target, migration = ancestor.entry, ancestor.migration
        if migration is None or migration.is_source:
            return
        if migration.pool_id < 0 or not migration.image_id:
            return  # an import from elsewhere; format 1, which has no parents and no records
        key = Key(migration.pool_id, migration.namespace, migration.image_id)
        source = Entry(key, await self._pool(key.pool_id), migration.namespace, migration.image)
        if key == target.image_key:
            raise NotUnderstood(f"{target.spec} is to be moved onto itself")
        if key in checked:
            return
        try:
            attributes = await self._cache.attributes(source, source.image, migration.image_id)
            other = await self._cache.migration(source, attributes)
            if other is not None and not other.is_source:
                raise NotUnderstood(f"{target.spec} is moved from what is moved from elsewhere")
            await self._line(source, depth=depth, checked=checked)
        except (Missing, Gone) as exc:
            raise NotUnderstood(f"{target.spec} is moved from an image that is not there") from exc
        checked.add(key)

    async def _pool(self, pool_id: int) -> str:
        """Return the name of a pool, which messages have; of one that is gone, its number."""
        if pool_id not in self._pools:
            try:
                self._pools[pool_id] = await self._cluster.pool_name(pool_id)
            except Missing:
                return f"id:{pool_id}"
        return self._pools[pool_id]
