"""Names below the mount point, and what they stand for now.

What a pool holds comes from the inventory; here it gets the names and the shape of files.
"""

from __future__ import annotations

import contextlib
import errno
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from rbdfs.model.entry import NO_POOL, Entry, Key
from rbdfs.model.file_name import (
    FileName,
    NameTooLong,
    directory_name,
    file_name,
    parse_directory_name,
    parse_file_name,
    partition_name,
    split_partition,
)
from rbdfs.model.kinds import (
    USER,
    find_snap,
    image_entry,
    namespace_entry,
    partition_entry,
    snap_entry,
)
from rbdfs.names.listing import Listing
from rbdfs.names.reports import Reports

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence, Set

    from rbdfs.ceph.cluster import Cluster
    from rbdfs.metadata.cache import Inventory
    from rbdfs.metadata.image_header import ImageAttributes, SnapAttributes
    from rbdfs.names.listing import Expand, Item
    from rbdfs.names.partitions import PartitionTables

POOL_LIST = Entry(Key(NO_POOL))


class Catalog:
    """The entries below a mount point.

    *snapshots* says which snapshots have names: ``visible`` lists the user's, ``hidden`` finds
    them without listing them, ``all`` also finds any by id as ``IMAGE@id:N``, ``off`` has none.
    *partition_tables* is None where partitions are not wanted.
    """

    def __init__(
        self,
        cluster: Cluster,
        inventory: Inventory,
        *,
        snapshots: str = "visible",
        partition_tables: PartitionTables | None = None,
    ) -> None:
        self._cluster = cluster
        self._inventory = inventory
        self._snapshots = snapshots
        self._partition_tables = partition_tables
        self._reports = Reports()

    async def directory(self, pool: str, namespace: str = "") -> Entry:
        """Return the entry of a pool or namespace; raise OSError ENOENT where it does not exist."""
        ioctx = await self._cluster.ioctx(pool)
        if namespace and not await self._inventory.namespace_exists(pool, namespace):
            raise OSError(errno.ENOENT, f"pool {pool} has no namespace {namespace!a}")
        return Entry(Key(ioctx.get_pool_id(), namespace or None), pool, namespace)

    async def places(self, root: Entry) -> list[tuple[str, str]]:
        """Return pools and namespaces ("": the default one) that *root* has images in."""
        return await self._inventory.places(root.pool, root.namespace)

    def listing(self, parent: Entry) -> Listing:
        """Return a reading of directory *parent*, which yields file names and entries."""
        if not parent.is_directory:
            raise OSError(errno.ENOTDIR, f"{parent.spec} is not a directory")
        return Listing(partial(self._pool_parts if parent.is_pool_list else self._parts, parent))

    async def find(self, parent: Entry, name: bytes) -> Entry:
        """Return what file name *name* means in directory *parent*.

        Raises OSError: ENOENT, ENOTDIR, ENAMETOOLONG, or what reading the cluster came to.
        """
        if not parent.is_directory:
            raise OSError(errno.ENOTDIR, f"{parent.spec} is not a directory")
        try:
            if parent.is_pool_list:
                return await self._find_pool(parse_directory_name(name)[0])
            if name.startswith(b"@"):
                return await self._find_namespace(parent, parse_directory_name(name)[0])
            wanted = parse_file_name(name)
        except NameTooLong as exc:
            raise OSError(errno.ENAMETOOLONG, str(exc)) from exc
        except ValueError as exc:
            raise OSError(errno.ENOENT, str(exc)) from exc
        try:
            return await self.find_image(parent, wanted)
        except FileNotFoundError:
            # What a name means as it stands comes before a partition.
            if wanted == FileName(wanted.image):
                with contextlib.suppress(FileNotFoundError):
                    return await self._find_namespace(parent, wanted.image)
            split = split_partition(name)
            if split is None or self._partition_tables is None:
                raise
            return await self._find_partition(await self.find(parent, split[0]), split[1])

    async def find_image(self, parent: Entry, wanted: FileName) -> Entry:
        """Return the image or snapshot *wanted* in directory *parent*; raise OSError ENOENT."""
        image_id = await self._inventory.image_id(parent.pool, parent.namespace, wanted.image)
        parent = await self._present(parent)
        attributes = await self._inventory.attributes(parent, wanted.image, image_id)
        image = image_entry(parent, wanted.image, attributes)
        if wanted == FileName(wanted.image):
            return await self._measured(image, attributes, None)
        for snap in attributes.snaps if self._snapshots != "off" else ():
            by_name = wanted.snap == snap.name and snap.namespace_type == USER
            if by_name or (wanted.snap_id == snap.snap_id and self._snapshots == "all"):
                return await self._measured(snap_entry(image, snap), attributes, snap)
        raise OSError(errno.ENOENT, f"{image.spec} has no such snapshot")

    async def attributes(self, entry: Entry) -> ImageAttributes:
        """Return the attributes of the image that *entry* is, or is a snapshot of, as of now.

        Raises OSError ESTALE where the image is gone.
        """
        try:
            return await self._inventory.attributes(entry, entry.image, entry.image_id or "")
        except FileNotFoundError:
            raise OSError(errno.ESTALE, f"{entry.spec} was removed") from None

    async def current(self, entry: Entry) -> Entry:
        """Return *entry* as it is now. Raises OSError ESTALE where it is gone."""
        if entry.is_directory:
            return entry
        attributes = await self.attributes(entry)
        whole, snap = image_entry(entry, entry.image, attributes), None
        if entry.is_snapshot:
            snap = find_snap(attributes, entry.key.snap_id)
            if snap is None:
                raise OSError(errno.ESTALE, f"{entry.spec} was removed")
            whole = snap_entry(whole, snap)
        whole = await self._measured(whole, attributes, snap)
        if not entry.key.partition:
            return whole
        return await self._find_partition(whole, entry.key.partition)

    def changed(self, entry: Entry) -> None:
        """Forget the attributes of *entry*, which this mount has changed."""
        self._inventory.image_changed(entry)
        if self._partition_tables is not None:
            self._partition_tables.changed(entry)

    def directory_changed(self, parent: Entry) -> None:
        """Forget the names in *parent*, where this mount has made or removed something."""
        self._inventory.directory_changed(parent.pool, parent.namespace)

    async def usage(self, entry: Entry) -> tuple[int, int]:
        """Return ``(used, available)`` bytes of the pool of *entry*; of all in the pool list."""
        pools = await self._inventory.pools() if entry.is_pool_list else [entry.pool]
        usages = [await self._inventory.usage(pool) for pool in pools]
        # Pools share their disks: what is available is not the sum.
        return sum(used for used, _ in usages), max((room for _, room in usages), default=0)

    async def _present(self, parent: Entry) -> Entry:
        """Return directory *parent* in the pool that has its name now."""
        pool_id = (await self._cluster.ioctx(parent.pool)).get_pool_id()
        return replace(parent, key=parent.key._replace(pool_id=pool_id))

    async def _measured(
        self, entry: Entry, attributes: ImageAttributes, snap: SnapAttributes | None
    ) -> Entry:
        allocated = await self._inventory.allocated(entry, attributes, snap)
        return replace(entry, allocated=allocated)

    async def _find_pool(self, name: str) -> Entry:
        if name not in await self._inventory.pools():
            raise OSError(errno.ENOENT, f"no pool for rbd is named {name!a}")
        return await self.directory(name)

    async def _find_namespace(self, parent: Entry, name: str) -> Entry:
        # Namespaces do not nest.
        if parent.namespace or name not in await self._inventory.namespaces(parent.pool):
            raise OSError(errno.ENOENT, f"nothing is named {name!a} in {parent.spec}")
        return namespace_entry(await self._present(parent), name)

    async def _find_partition(self, whole: Entry, number: int) -> Entry:
        if whole.is_directory or whole.key.partition or self._partition_tables is None:
            raise OSError(errno.ENOENT, f"{whole.spec} has no partitions")
        for found in await self._partition_tables.partitions(whole):
            if found.number == number:
                return partition_entry(whole, number, found.offset, found.length)
        raise OSError(errno.ENOENT, f"{whole.spec} has no partition {number}")

    # Listing.

    async def _pool_parts(self, _parent: Entry) -> Sequence[Expand]:
        return [partial(self._pool_items, pool) for pool in await self._inventory.pools()]

    async def _parts(self, parent: Entry) -> Sequence[Expand]:
        names = await self._inventory.image_names(parent.pool, parent.namespace)
        namespaces = [] if parent.namespace else await self._inventory.namespaces(parent.pool)
        parent = await self._present(parent)
        parts: list[Expand] = [
            partial(self._namespace_items, parent, name, alias=name in names) for name in namespaces
        ]
        taken = names.keys() | set(namespaces)
        parts += [
            partial(self._image_items, parent, name, image_id, taken)
            for name, image_id in names.items()
        ]
        return parts

    async def _pool_items(self, pool: str) -> list[Item]:
        try:
            return self._named(await self.directory(pool), partial(directory_name, pool))
        except FileNotFoundError:
            return []  # removed meanwhile

    async def _namespace_items(self, parent: Entry, name: str, *, alias: bool) -> list[Item]:
        entry = namespace_entry(parent, name)
        return self._named(entry, partial(directory_name, name, alias=alias))

    async def _image_items(
        self, parent: Entry, name: str, image_id: str, taken: Set[str]
    ) -> list[Item]:
        try:
            attributes = await self._inventory.attributes(parent, name, image_id)
            image = image_entry(parent, name, attributes)
            entry = await self._measured(image, attributes, None)
            named = self._named(entry, partial(file_name, name))
            items = await self._with_partitions(named, name, taken)
            listed = attributes.snaps if self._snapshots in ("visible", "all") else ()
            snaps = {snap.name: snap for snap in listed if snap.namespace_type == USER}
            for snap_name, snap in snaps.items():
                entry = await self._measured(snap_entry(image, snap), attributes, snap)
                named = self._named(entry, partial(file_name, name, snap_name))
                items += await self._with_partitions(named, snap_name, snaps.keys())
        except FileNotFoundError as exc:
            await self._report_remains(parent, name, exc)
            return []
        except OSError as exc:
            self._leave_out(f"image {name!a} of {parent.spec}", exc)
            return []
        return items

    async def _with_partitions(self, items: list[Item], base: str, taken: Set[str]) -> list[Item]:
        """Add the partitions of *items*, but those whose name *taken* has, as *base* is in it."""
        if self._partition_tables is None:
            return items
        result = []
        for name, whole in items:
            result.append((name, whole))
            try:
                partitions = await self._partition_tables.partitions(whole)
            except OSError as exc:
                self._leave_out(f"the partitions of {whole.spec}", exc)
                continue
            for found in partitions:
                if f"{base}-part{found.number}" in taken:
                    continue
                entry = partition_entry(whole, found.number, found.offset, found.length)
                result += self._named(entry, partial(partition_name, name, found.number))
        return result

    async def _report_remains(self, parent: Entry, name: str, exc: OSError) -> None:
        """Report image *name*, which has no header, unless its name is gone too: removed meanwhile.

        What a removal leaves that did not come to its end can be removed again.
        """
        try:
            await self._inventory.image_id(parent.pool, parent.namespace, name)
        except FileNotFoundError:
            return
        self._reports.left_out(f"image {name!a} of {parent.spec}, or what is left of it", exc)

    def _leave_out(self, what: str, exc: OSError) -> None:
        # What cannot be read must not hide the rest; but where nothing can be read any more, an
        # empty listing would be a lie that a mirror takes for a deletion.
        if exc.errno in (errno.ESHUTDOWN, errno.ETIMEDOUT):
            raise exc
        self._reports.left_out(what, exc)

    def _named(self, entry: Entry, name: Callable[[], bytes]) -> list[Item]:
        try:
            return [(name(), entry)]
        except ValueError as exc:
            self._reports.left_out(entry.spec, exc)
            return []
