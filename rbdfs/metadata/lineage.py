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

from rbdfs.metadata.image_meta import pool_name
from rbdfs.metadata.migration_record import State
from rbdfs.model.entry import Entry, Key

if TYPE_CHECKING:
    from rbdfs.ceph.cluster import Cluster
    from rbdfs.metadata.cache import MetadataCache

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Lineage:
    """An image, its parent, the parent of that, and so on.

    Attributes:
        images: the keys of all of them.
        moved_away: whether the image is the source of a live migration, and soon to be gone.
        copying: whether one of them is the target of a live migration that has not been executed.
        copied: whether all of them can be opened, and read right.
    """

    images: tuple[Key, ...]
    moved_away: bool
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


class Lineages:
    """Reads lineages from headers; opens nothing."""

    def __init__(self, cluster: Cluster, cache: MetadataCache) -> None:
        self._cluster = cluster
        self._cache = cache
        self._pools: dict[int, str] = {}

    async def of(self, entry: Entry) -> Lineage:
        """Return the lineage of the image that *entry* is, or is a snapshot of; raise OSError."""
        images = [entry.image_key]
        moved_away, copying, copied = False, False, True
        while True:
            attributes = await self._cache.attributes(entry, entry.image, entry.image_id or "")
            migration = await self._cache.migration(entry, attributes)
            if migration is not None and migration.is_source:
                moved_away = moved_away or len(images) == 1
            elif migration is not None and migration.state is not State.EXECUTED:
                copying = True
                if attributes.snaps:
                    copied = False
            parent = attributes.parent
            if parent is None:
                return Lineage(tuple(images), moved_away, copying, copied)
            images.append(Key(parent.pool_id, parent.pool_namespace, parent.image_id))
            pool = await self._pool(parent.pool_id)
            entry = Entry(images[-1], pool, parent.pool_namespace)

    async def known(self, entry: Entry) -> Lineage | None:
        """Return the lineage as of() does, or None where it cannot be told."""
        try:
            return await self.of(entry)
        except OSError as exc:
            log.debug("what %s was cloned from is not known: %s", entry.spec, exc)
            return None

    async def _pool(self, pool_id: int) -> str:
        # Finding it asks the monitors, which an open image does not need.
        if pool_id not in self._pools:
            self._pools[pool_id] = await pool_name(self._cluster, pool_id)
        return self._pools[pool_id]
