"""Where images and snapshots hold data, as their object maps tell; opens nothing.

Whoever writes to an image marks an object in the map, on the OSD, before the write goes there. So
what the map calls a hole was one when the map was read, whoever has the image open for writing:
what was acknowledged before that, in any client, is data. Holes of a clone are its own only where
what it was cloned from has one too; that is a snapshot, and never changes.
"""

from __future__ import annotations

import logging
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any, TypeVar

import trio

from rbdfs.ceph.single_flight import SingleFlight, looks
from rbdfs.errors import Missing, NotPermitted, NotUnderstood
from rbdfs.metadata.image_header import MAX_DEPTH, omap_reader, read_head, read_header
from rbdfs.metadata.map_search import MapSearch
from rbdfs.metadata.object_map import decoded, parent_overlap, read_object_map, tells_own_data
from rbdfs.model.entry import Entry, Key, find_snap
from rbdfs.model.extents import ExtentMap

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from rbdfs.ceph.cluster import Cluster
    from rbdfs.model.image_attributes import ImageAttributes, ParentSpec, SnapAttributes

log = logging.getLogger(__name__)

T = TypeVar("T")

# The extents of snapshots are kept so long in seconds, and so much of them.
_FOR_GOOD_S = 86400.0
_SNAPSHOTS_BYTES = 64 << 20
_EXTENT_BYTES = 16


class Data:
    """The data of one image or snapshot.

    Attributes:
        size: bytes of it.
    """

    def __init__(
        self,
        size: int,
        shown: ExtentMap | None,
        overlap: int,
        order: int = 0,
        search: MapSearch | None = None,
    ) -> None:
        """*shown* is data up to *overlap*, beside what *search* finds, in objects of ``2**order``.

        That of a clone's parent, for which the clone has no objects.
        """
        self.size = size
        self._shown, self._overlap, self._order, self._search = shown, overlap, order, search

    @classmethod
    def known(cls, extents: ExtentMap) -> Data:
        """Return what is all known."""
        return cls(extents.size, extents, extents.size)

    def seal(self) -> None:
        """Have nothing more read: what is not known yet raises NotRead, and nothing is awaited."""
        if self._search is not None:
            self._search.sealed = True

    async def seek_data(self, off: int) -> int:
        """Return the first offset at or after *off*, inside the image, with data; or the size."""
        return min(await self._own(off, data=True), self._next_shown(off)[0])

    async def seek_hole(self, off: int) -> int:
        """Return the first offset at or after *off*, inside the image, in a hole; or the size."""
        while off < self.size:
            found = await self._own(off, data=False)
            start, end = self._next_shown(found)
            if found < start:
                return found
            off = end
        return self.size

    def _next_shown(self, off: int) -> tuple[int, int]:
        nothing = (self.size, self.size)
        if self._shown is None or off >= self._overlap:
            return nothing
        return next(self._shown.within(off, self._overlap - off), nothing)

    async def within(self, off: int, length: int) -> list[tuple[int, int]]:
        """Return ``(start, end)`` of all data in *off*~*length*, in order."""
        found, end = [], off + length
        while off < end and (start := await self.seek_data(off)) < end:
            off = min(end, await self.seek_hole(start))
            found.append((start, off))
        return found

    async def _own(self, off: int, *, data: bool) -> int:
        if self._search is None:
            return self.size if data else off
        number = await self._search.find(off >> self._order, data=data)
        return min(max(off, number << self._order), self.size)


class DataFinder:
    """Finds the data of images and snapshots.

    Both methods return None where nobody can tell: without a valid object map above all.
    """

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        # One large map at a time, as in MetadataCache.
        self._decoding = trio.CapacityLimiter(1)
        # Snapshots, which never change.
        self._snapshots: SingleFlight[ExtentMap] = SingleFlight(
            _FOR_GOOD_S, _SNAPSHOTS_BYTES, weigh=_bytes, nursery=cluster.background
        )

    def looks(self) -> dict[str, tuple[int, int]]:
        """Return hits and misses, as NameCache.looks()."""
        return {"extents": looks(self._snapshots)}

    async def head(self, entry: Entry, find: Callable[[Data], Awaitable[T]]) -> T | None:
        """Return what *find* finds in the image of *entry*, as of after this call.

        Raises OSError, but not where the map cannot be read or understood.
        """
        if entry.image_id is None:
            return None
        try:
            ioctx = await self._cluster.ioctx_of(entry)
            read_omap = omap_reader(self._cluster.bridge, ioctx)
            attributes = await read_head(read_omap, entry.image_id)
            if not tells_own_data(attributes):
                return None
            shown, overlap = None, parent_overlap(attributes) or 0
            if attributes.parent is not None and overlap:
                shown = await self._kept(_entry_of(attributes.parent))
            search = MapSearch(self._cluster.bridge, ioctx, attributes, self._decoding)
            found = await find(Data(attributes.size, shown, overlap, attributes.order, search))
            # It may have become invalid in between. A parent that is gone by now had less to show.
            if tells_own_data(await read_head(read_omap, entry.image_id)):
                return found
        except (Missing, NotPermitted, NotUnderstood) as exc:
            log.debug("data of %s: %s", entry.spec, exc)
        return None

    async def snapshot(self, entry: Entry) -> ExtentMap | None:
        """Return where the snapshot *entry* holds data; raises OSError as head()."""
        if entry.image_id is None:
            return None
        try:
            return await self._kept(entry.whole)
        except (Missing, NotPermitted, NotUnderstood) as exc:
            log.debug("data of %s: %s", entry.spec, exc)
            return None

    async def _kept(self, snapshot: Entry) -> ExtentMap:
        load = partial(self._load, snapshot, MAX_DEPTH)
        return await self._snapshots.get(snapshot.key, load)

    async def _load(self, snapshot: Entry, depth: int) -> ExtentMap:
        """Return where *snapshot* holds data, in itself or in its *depth* ancestors at most."""
        ioctx = await self._cluster.ioctx_of(snapshot)
        attributes, snap = await self._attributes(ioctx, snapshot)
        parts = (self._cluster.bridge, ioctx, attributes, snap, self._decoding)
        states = await read_object_map(*parts)
        # It may have become invalid in between.
        await self._attributes(ioctx, snapshot)
        extents, size = states.extents(size=snap.size, order=attributes.order), snap.size
        if overlap := snap.parent_overlap:
            parent = attributes.parent or attributes.snap_parent
            if parent is None or depth == 0:
                raise NotUnderstood(f"{snapshot.spec}: a parent that cannot be told")
            inherited = await self._load(_entry_of(parent), depth - 1)
            shown = inherited.within(0, min(overlap, size))
            extents = chain(extents, ((start, end - start, True) for start, end in shown))
        build = partial(ExtentMap, size, extents, granule=1 << attributes.order)
        return await decoded(len(states.states), build, self._decoding)

    async def _attributes(
        self, ioctx: Any, snapshot: Entry
    ) -> tuple[ImageAttributes, SnapAttributes]:
        """Return what the header tells of *snapshot*; raise OSError unless its map is valid."""
        read_omap = omap_reader(self._cluster.bridge, ioctx)
        attributes = await read_header(read_omap, snapshot.image_id or "")
        snap = find_snap(attributes, snapshot.key.snap_id)
        if snap is None:
            raise Missing(f"{snapshot.spec}: no such snapshot")
        if not tells_own_data(attributes, snap) or snap.parent_overlap is None:
            raise NotUnderstood(f"{snapshot.spec} has no valid object map")
        return attributes, snap


def _entry_of(parent: ParentSpec) -> Entry:
    key = Key(parent.pool_id, parent.pool_namespace, parent.image_id, parent.snap_id)
    # Pools go by their ids; the name is for messages.
    return Entry(key, f"id:{parent.pool_id}", parent.pool_namespace)


def _bytes(extents: ExtentMap) -> int:
    return _EXTENT_BYTES * (1 + len(extents))
