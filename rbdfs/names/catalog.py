"""Names below the mount point, and what they stand for now.

What a pool holds comes from the metadata cache; here it gets the names and the shape of files.
"""

from __future__ import annotations

import contextlib
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from rbdfs.errors import (
    ImageGone,
    Missing,
    NameTooLong,
    NoSuchName,
    NoSuchPool,
    NotADirectory,
    NotUnderstood,
    SnapshotGone,
)
from rbdfs.metadata.lineage import Lineages
from rbdfs.model.entry import (
    NO_POOL,
    Entry,
    Key,
    find_snap,
    image_entry,
    namespace_entry,
    partition_entry,
    snap_entry,
)
from rbdfs.model.file_name import (
    FileName,
    ImageSpec,
    parse_directory_name,
    parse_file_name,
    split_partition,
)
from rbdfs.model.image_attributes import USER
from rbdfs.names.contents import Contents
from rbdfs.names.listing import Listing

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    from rbdfs.ceph.cluster import Cluster
    from rbdfs.metadata.cache import MetadataCache
    from rbdfs.model.image_attributes import ImageAttributes, SnapAttributes
    from rbdfs.names.partitions import PartitionTables

    T = TypeVar("T")

POOL_LIST = Entry(Key(NO_POOL))


class Catalog:
    """The entries below a mount point.

    *snapshots* says which snapshots have names: ``visible`` lists the user's, ``hidden`` finds
    them without listing them, ``all`` also finds any by id as ``IMAGE@id:N``, ``off`` has none.
    *partition_tables* is None where partitions are not wanted. *data_pool* is where the data of new
    images goes; None is what the cluster's configuration says.
    """

    def __init__(
        self,
        cluster: Cluster,
        cache: MetadataCache,
        lineages: Lineages | None = None,
        *,
        snapshots: str = "visible",
        partition_tables: PartitionTables | None = None,
        data_pool: str | None = None,
    ) -> None:
        self._cluster = cluster
        self._data_pool = data_pool
        self._cache = cache
        self._lineages = lineages or Lineages(cluster, cache)
        self._snapshots = snapshots
        self.partition_tables = partition_tables
        self._contents = Contents(
            self, cache, snapshots=snapshots, partition_tables=partition_tables
        )

    async def directory(self, pool: str, namespace: str = "") -> Entry:
        """Return the entry of a pool or namespace; raise OSError ENOENT where it does not exist."""
        ioctx = await self._cluster.ioctx(pool)
        if namespace and not await self._cache.namespace_exists(pool, namespace):
            raise NoSuchPool(f"pool {pool} has no namespace {namespace!a}")
        return Entry(Key(ioctx.get_pool_id(), namespace or None), pool, namespace)

    async def places(self, root: Entry) -> list[tuple[str, str]]:
        """Return pools and namespaces ("": the default one) that *root* has images in."""
        return await self._cache.places(root.pool, root.namespace)

    def listing(self, parent: Entry) -> Listing:
        """Return a reading of directory *parent*, which yields file names and entries."""
        if not parent.is_directory:
            raise NotADirectory(f"{parent.spec} is not a directory")
        return Listing(partial(self._contents.parts, parent))

    async def find(self, parent: Entry, name: bytes, *, known: bool = False) -> Entry:
        """Return what file name *name* means in directory *parent*.

        With *known*, what it meant last will do where the cluster does not answer in time. Raises
        OSError: ENOENT, ENOTDIR, ENAMETOOLONG, or what reading the cluster came to.
        """
        if known:
            # That there is no such name may have been true last, and is not any more.
            with contextlib.suppress(Missing):
                return await self._find(parent, name, known=True)
        return await self._find(parent, name, known=False)

    async def _find(self, parent: Entry, name: bytes, *, known: bool) -> Entry:
        if not parent.is_directory:
            raise NotADirectory(f"{parent.spec} is not a directory")
        if parent.is_pool_list:
            return await self._find_pool(_parsed(parse_directory_name, name)[0])
        if name.startswith(b"@"):
            namespace = _parsed(parse_directory_name, name)[0]
            return await self._find_namespace(parent, namespace, known=known)
        wanted = _parsed(parse_file_name, name)
        try:
            return await self.find_image(parent, wanted, known=known)
        except Missing:
            # What a name means as it stands comes before a partition.
            if wanted == FileName(wanted.image):
                with contextlib.suppress(Missing):
                    return await self._find_namespace(parent, wanted.image, known=known)
            split = split_partition(name)
            if split is None or self.partition_tables is None:
                raise
            whole = await self._find(parent, split[0], known=known)
            return await self._find_partition(whole, split[1], known=known)

    async def find_image(self, parent: Entry, wanted: FileName, *, known: bool = False) -> Entry:
        """Return the image or snapshot *wanted* in directory *parent*; raise OSError ENOENT."""
        try:
            return await self._find_image(parent, wanted, known=known)
        except NotUnderstood as exc:
            spec = ImageSpec(parent.pool, parent.namespace, wanted.image, wanted.snap)
            raise NotUnderstood(f"{spec}: {exc.strerror}") from exc

    async def _find_image(self, parent: Entry, wanted: FileName, *, known: bool) -> Entry:
        image_id = await self._cache.image_id(
            parent.pool, parent.namespace, wanted.image, known=known
        )
        parent = await self.present(parent)
        attributes = await self._cache.attributes(parent, wanted.image, image_id, known=known)
        image = image_entry(parent, wanted.image, attributes)
        if wanted == FileName(wanted.image):
            return await self.measured(image, attributes, None, known=known)
        for snap in attributes.snaps if self._snapshots != "off" else ():
            by_name = wanted.snap == snap.name and snap.namespace_type == USER
            if by_name or (wanted.snap_id == snap.snap_id and self._snapshots == "all"):
                whole = snap_entry(image, snap)
                return await self.measured(whole, attributes, snap, known=known)
        raise NoSuchName(f"{image.spec} has no such snapshot")

    async def attributes(
        self, entry: Entry, *, known: bool = False, newer: bool = False
    ) -> ImageAttributes:
        """Return the attributes of the image that *entry* is, or is a snapshot of, as of now.

        *newer* ones are of after the call. Raises OSError ESTALE where the image is gone.
        """
        try:
            name, image_id = entry.image, entry.image_id or ""
            return await self._cache.attributes(entry, name, image_id, known=known, newer=newer)
        except Missing:
            raise ImageGone(f"{entry.spec} was removed") from None

    async def size(self, entry: Entry, *, newer: bool = False) -> int:
        """Return the bytes of the image or snapshot that *entry* is (in) now, from its header.

        A *newer* answer is of after the call. Raises OSError ESTALE where it is gone.
        """
        attributes = await self.attributes(entry, newer=newer)
        if not entry.is_snapshot:
            return attributes.size
        snap = find_snap(attributes, entry.key.snap_id)
        if snap is None:
            raise SnapshotGone(f"{entry.spec} was removed")
        return snap.size

    async def check_openable(self, entry: Entry) -> None:
        """Raise OSError for an image that librbd must not open: its parents have no end."""
        await self._lineages.check(entry)

    async def current(self, entry: Entry, *, known: bool = False) -> Entry:
        """Return *entry* as it is now. Raises OSError ESTALE where it is gone.

        With *known*, as it was last will do where the cluster does not answer in time.
        """
        if entry.is_directory:
            return entry
        attributes = await self.attributes(entry, known=known)
        whole, snap = image_entry(entry, entry.image, attributes), None
        if entry.is_snapshot:
            snap = find_snap(attributes, entry.key.snap_id)
            if snap is None:
                raise SnapshotGone(f"{entry.spec} was removed")
            whole = snap_entry(whole, snap)
        whole = await self.measured(whole, attributes, snap, known=known)
        if not entry.key.partition:
            return whole
        return await self._find_partition(whole, entry.key.partition, known=known)

    def is_latest(self, entry: Entry) -> bool:
        """Return whether *entry* has the size that was read last, and nothing was changed since."""
        if entry.is_directory or entry.key.partition:
            return True
        attributes = self._cache.last_attributes(entry, entry.image, entry.image_id or "")
        if attributes is None or not entry.is_snapshot:
            return attributes is not None and attributes.size == entry.size
        snap = find_snap(attributes, entry.key.snap_id)
        return snap is not None and snap.size == entry.size

    def changed(self, entry: Entry) -> None:
        """Forget the attributes of *entry*, which this mount has changed."""
        self._cache.image_changed(entry)
        if self.partition_tables is not None:
            self.partition_tables.changed(entry)

    def directory_changed(self, parent: Entry) -> None:
        """Forget the names in *parent*, where this mount has made or removed something."""
        self._cache.directory_changed(parent.pool, parent.namespace)

    async def usage(self, entry: Entry) -> tuple[int, int]:
        """Return ``(used, available)`` bytes of the pool of *entry*; of all in the pool list.

        The data of images may be in other pools, which count as well: those of images that were
        looked at, and the one that new images have it in. Where that is known, what is available
        is what fits there.
        """
        names = await self._cache.pools() if entry.is_pool_list else [entry.pool]
        own = {(await self._cluster.ioctx(name)).get_pool_id() for name in names}
        target = await self._new_data_pool()
        pools = own.union(*map(self._cache.data_pools, own), () if target is None else (target,))
        usages = {pool_id: await self._cache.usage(pool_id) for pool_id in pools}
        # Pools share their disks: what is available is not the sum.
        room = max((usage.available for usage in usages.values()), default=0)
        if target is not None:
            room = usages[target].available
        return sum(usage.used for usage in usages.values()), room

    async def _new_data_pool(self) -> int | None:
        name = self._data_pool or self._cluster.setting("rbd_default_data_pool")
        return (await self._cluster.ioctx(name)).get_pool_id() if name else None

    async def present(self, parent: Entry) -> Entry:
        """Return directory *parent* in the pool that has its name now."""
        pool_id = (await self._cluster.ioctx(parent.pool)).get_pool_id()
        return replace(parent, key=parent.key._replace(pool_id=pool_id))

    async def measured(
        self,
        entry: Entry,
        attributes: ImageAttributes,
        snap: SnapAttributes | None,
        *,
        known: bool = False,
    ) -> Entry:
        """Return *entry* with the bytes that it takes."""
        allocated = await self._cache.allocated(entry, attributes, snap, known=known)
        return replace(entry, allocated=allocated)

    async def _find_pool(self, name: str) -> Entry:
        if name not in await self._cache.pools():
            raise NoSuchPool(f"no pool for rbd is named {name!a}")
        return await self.directory(name)

    async def _find_namespace(self, parent: Entry, name: str, *, known: bool) -> Entry:
        # Namespaces do not nest.
        if parent.namespace or name not in await self._cache.namespaces(parent.pool, known=known):
            raise NoSuchName(f"nothing is named {name!a} in {parent.spec}")
        return namespace_entry(await self.present(parent), name)

    async def _find_partition(self, whole: Entry, number: int, *, known: bool) -> Entry:
        if whole.is_directory or whole.key.partition or self.partition_tables is None:
            raise NoSuchName(f"{whole.spec} has no partitions")
        lane = self._cache.lane(whole.pool, known=known)
        for found in await self.partition_tables.partitions(whole, lane):
            if found.number == number:
                return partition_entry(whole, number, found.offset, found.length)
        raise NoSuchName(f"{whole.spec} has no partition {number}")


def _parsed(parse: Callable[[bytes], T], name: bytes) -> T:
    """Return what *parse* makes of a file name; raise NoSuchName where that is nothing's."""
    try:
        return parse(name)
    except NameTooLong:
        raise
    except ValueError as exc:
        raise NoSuchName(str(exc)) from exc
