"""What directories contain: file names and entries of images, snapshots, partitions, namespaces."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import trio

from rbdfs.errors import PASSING, Fenced, Missing, NoMemory, NotUnderstood, PoolGone
from rbdfs.model.entry import image_entry, namespace_entry, partition_entry, snap_entry
from rbdfs.model.file_name import directory_name, file_name, partition_name
from rbdfs.model.image_attributes import USER
from rbdfs.names.listing import Reports

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from rbdfs.metadata.cache import MetadataCache
    from rbdfs.model.entry import Entry
    from rbdfs.model.image_attributes import ImageAttributes, SnapAttributes
    from rbdfs.names.catalog import Catalog
    from rbdfs.names.listing import Expand, Item
    from rbdfs.names.partitions import PartitionTables

# Of one image, whose object maps are read for what they take; other images are looked at beside it.
_SNAPS_AT_ONCE = 8


class Contents:
    """Reads directories for a catalog; what cannot be read is left out, and reported once."""

    def __init__(
        self,
        catalog: Catalog,
        cache: MetadataCache,
        *,
        snapshots: str,
        partition_tables: PartitionTables | None,
    ) -> None:
        self._catalog = catalog
        self._cache = cache
        self._snapshots = snapshots
        self._partition_tables = partition_tables
        self._reports = Reports()

    async def parts(self, parent: Entry) -> Sequence[Expand]:
        """Return the parts of directory *parent* in order, each a function that returns items."""
        if parent.is_pool_list:
            return [partial(self._pool_items, pool) for pool in await self._cache.pools()]
        names = await self._cache.image_names(parent.pool, parent.namespace, known=True)
        namespaces = [] if parent.namespace else await self._namespaces(parent)
        parent = await self._catalog.present(parent)
        parts: list[Expand] = [
            partial(self._namespace_items, parent, name, alias=name in names) for name in namespaces
        ]
        taken = names.keys() | set(namespaces)
        parts += [
            partial(self._image_items, parent, name, image_id, taken)
            for name, image_id in names.items()
        ]
        return parts

    async def _namespaces(self, parent: Entry) -> list[str]:
        try:
            return await self._cache.namespaces(parent.pool, known=True)
        except NotUnderstood as exc:
            self._leave_out(f"the namespaces of {parent.spec}", exc)
            return []

    async def _pool_items(self, pool: str) -> list[Item]:
        try:
            return self._named(await self._catalog.directory(pool), partial(directory_name, pool))
        except Missing:
            return []  # removed meanwhile

    async def _namespace_items(self, parent: Entry, name: str, *, alias: bool) -> list[Item]:
        entry = namespace_entry(parent, name)
        return self._named(entry, partial(directory_name, name, alias=alias))

    async def _image_items(
        self, parent: Entry, name: str, image_id: str, taken: Collection[str]
    ) -> list[Item]:
        try:
            attributes = await self._cache.attributes(parent, name, image_id, known=True)
            image = image_entry(parent, name, attributes)
            entry = await self._catalog.measured(image, attributes, None, known=True)
            named = self._named(entry, partial(file_name, name))
            items = await self._with_partitions(named, name, taken)
        except Missing as exc:
            return await self._instead_of(parent, name, image_id, taken, exc)
        except Exception as exc:
            self._leave_out(f"image {name!a} of {parent.spec}", exc)
            return []
        return items + await self._snap_items(image, attributes)

    async def _snap_items(self, image: Entry, attributes: ImageAttributes) -> list[Item]:
        """Return the snapshots of *image* that are listed, some of them looked at beside others."""
        listed = attributes.snaps if self._snapshots in ("visible", "all") else ()
        snaps = {snap.name: snap for snap in listed if snap.namespace_type == USER}
        results: dict[str, list[Item]] = {}
        errors: list[OSError] = []
        waiting = iter(snaps.values())

        async def look() -> None:
            for snap in waiting:
                await self._cache.pace.share()
                try:
                    results[snap.name] = await self._snap_item(image, attributes, snap, snaps)
                except OSError as exc:
                    errors.append(exc)
                    return

        async with trio.open_nursery() as nursery:
            for _ in range(min(len(snaps), _SNAPS_AT_ONCE)):
                nursery.start_soon(look)
        if errors:
            raise errors[0]
        return [item for name in snaps for item in results[name]]

    async def _snap_item(
        self,
        image: Entry,
        attributes: ImageAttributes,
        snap: SnapAttributes,
        taken: Collection[str],
    ) -> list[Item]:
        try:
            entry = await self._catalog.measured(
                snap_entry(image, snap), attributes, snap, known=True
            )
            named = self._named(entry, partial(file_name, image.image, snap.name))
            return await self._with_partitions(named, snap.name, taken)
        except Exception as exc:
            self._leave_out(f"snapshot {snap.name!a} of {image.spec}", exc)
            return []

    async def _with_partitions(
        self, items: list[Item], base: str, taken: Collection[str]
    ) -> list[Item]:
        """Add the partitions of *items*, but those whose name *taken* has, as *base* is in it."""
        if self._partition_tables is None:
            return items
        result = []
        for name, whole in items:
            lane = self._cache.lane(whole.pool, known=True)
            result.append((name, whole))
            try:
                partitions = await self._partition_tables.partitions(whole, lane)
            except Exception as exc:
                self._leave_out(f"the partitions of {whole.spec}", exc)
                continue
            for found in partitions:
                if f"{base}-part{found.number}" in taken:
                    continue
                entry = partition_entry(whole, found.number, found.offset, found.length)
                result += self._named(entry, partial(partition_name, name, found.number))
        return result

    async def _instead_of(
        self, parent: Entry, name: str, image_id: str, taken: Collection[str], missing: OSError
    ) -> list[Item]:
        """Return what has *name* instead of the image with *image_id*, which has no header.

        It was removed meanwhile, or replaced by another one. What a removal leaves that did not
        come to its end is reported: it can be removed again.
        """
        what = f"image {name!a} of {parent.spec}, or what is left of it"
        try:
            found = await self._cache.image_id(parent.pool, parent.namespace, name)
        except Missing:
            return []
        except NotUnderstood as exc:
            self._leave_out(what, exc)
            return []
        if found != image_id:
            return await self._image_items(parent, name, found, taken)
        self._leave_out(what, missing)
        return []

    def _leave_out(self, what: str, exc: Exception) -> None:
        """Report that *what* cannot be read, which must not hide the rest; raise what passes.

        A host or a cluster that cannot answer now says nothing of *what*: a listing without it
        would be a lie that a mirror takes for a deletion.
        """
        # A thread that cannot be started is a RuntimeError. So is a recursion too deep, which is a
        # mistake of ours, and will be one tomorrow.
        if isinstance(exc, (MemoryError, RuntimeError)) and not isinstance(exc, RecursionError):
            raise NoMemory(f"{what}: {exc or type(exc).__name__}") from exc
        if isinstance(exc, (Fenced, PoolGone)):
            raise exc
        if isinstance(exc, OSError) and exc.errno in PASSING:
            raise exc
        self._reports.left_out(what, exc)

    def _named(self, entry: Entry, name: Callable[[], bytes]) -> list[Item]:
        try:
            return [(name(), entry)]
        except ValueError as exc:
            self._reports.left_out(entry.spec, exc)
            return []
