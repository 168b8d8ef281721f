"""Making, removing and renaming images, snapshots and namespaces: what `-o manage` allows.

Every method raises OSError with the errno that the system call behind it would give.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, NoReturn, TypeVar

import trio

from rbdfs.ceph import directory_changes
from rbdfs.ceph.blocking_image import changing, encoded, opened_for_change
from rbdfs.ceph.pool_threads import PoolLimiters
from rbdfs.errors import (
    BadArgument,
    Elsewhere,
    Exists,
    InUse,
    IsADirectory,
    Missing,
    NotADirectory,
    NotEmpty,
    NotPermitted,
)
from rbdfs.model.file_name import FileName, ImageSpec
from rbdfs.names.half_made import HalfMade
from rbdfs.names.new_names import parse_new, parse_new_namespace
from rbdfs.names.trash import Trash

if TYPE_CHECKING:
    from collections.abc import Callable

    from rbdfs.ceph.cluster import Cluster
    from rbdfs.model.entry import Entry
    from rbdfs.names.catalog import Catalog

    Begin = Callable[[], None]

T = TypeVar("T")

log = logging.getLogger(__name__)

_RENAME_NOREPLACE = 1
# A pool that does not answer keeps its own threads, not those of other pools.
_THREADS_A_POOL = 4


def _nothing() -> None: ...


class Management:
    """Changes to what there is below the mount point.

    What makes something calls *begin* when nothing stands in its way, before it changes anything.

    *data_pool* and *object_size* (bytes, a power of two) are for images that are made; None means
    what the cluster's configuration says. *remove_snapshots* is what a mount has to be asked for in
    so many words: no trash keeps a snapshot, and tools that clear a directory remove all of them
    before the images, which could have been brought back with them.
    """

    def __init__(
        self,
        cluster: Cluster,
        catalog: Catalog,
        *,
        data_pool: str | None = None,
        object_size: int | None = None,
        remove_snapshots: bool = False,
    ) -> None:
        self._cluster = cluster
        self._catalog = catalog
        self._data_pool = data_pool
        self._order = None if object_size is None else object_size.bit_length() - 1
        self._remove_snapshots = remove_snapshots
        self._has_refused = False
        # Where images that are removed or replaced go.
        self.trash = Trash(cluster, self.change)
        # What is in the way of who goes on with the changes of a dead client.
        self.half_made = HalfMade(cluster, self.change)
        self._limiters = PoolLimiters(_THREADS_A_POOL)

    async def create(self, parent: Entry, name: bytes, begin: Begin = _nothing) -> Entry:
        """Make an image of size 0 with the cluster's default features; return it.

        Raises OSError: EEXIST, ENAMETOOLONG, EINVAL for what is no file name, EPERM for the name
        of a snapshot and in the list of pools.
        """
        wanted = parse_new(name)
        if parent.is_pool_list or wanted != FileName(wanted.image):
            _refuse(f"making {name!r} in {parent.spec}")
        await self.require_absent(parent, name)
        if self._data_pool is not None:
            await self._cluster.ioctx(self._data_pool)
        ioctx = await self._cluster.ioctx(parent.pool, parent.namespace)
        make = partial(
            directory_changes.create_image, ioctx, wanted.image, self._order, self._data_pool
        )
        begin()
        await self.change(parent, f"making {name!r} in {parent.spec}", make)
        return await self._catalog.find(parent, name)

    async def unlink(self, entry: Entry) -> None:
        """Move an image to the RBD trash, with its snapshots; remove a snapshot.

        Raises OSError: EBUSY for an image that somebody watches or has locked, and for a protected
        snapshot; EISDIR; EPERM for a partition, for snapshots that are not a user's, and for any
        snapshot unless the mount was asked to remove them.
        """
        action = f"removing {entry.spec}"
        if entry.is_directory:
            raise IsADirectory(f"{action}: it is a directory")
        if entry.key.partition or (entry.is_snapshot and entry.snap is None):
            _refuse(action)
        if entry.is_snapshot and not self._remove_snapshots:
            self._refuse_removal(action)
        ioctx = await self._cluster.ioctx_of(entry)
        if entry.is_snapshot:
            await self.change(
                entry, action, partial(directory_changes.remove_snapshot, ioctx, entry, action)
            )
        else:
            await self.trash.move(entry, action)

    async def snapshot(
        self, image: Entry, parent: Entry, name: bytes, begin: Begin = _nothing
    ) -> Entry:
        """Take snapshot *name* (``IMAGE@SNAP``) of *image*, which is in *parent*; return it.

        Raises OSError: EXDEV where *name* is not one of this image in its own directory, EPERM
        where it is no snapshot's name or *image* no image, EEXIST.
        """
        action = f"linking {image.spec} to {name!r}"
        wanted = parse_new(name)
        if not image.is_image or wanted.snap is None:
            _refuse(action)
        image = replace(image, image=wanted.image)
        if not parent.holds(image) or not await self._names(parent, image):
            raise Elsewhere(f"{action}: not a snapshot of this image")
        await self.require_absent(parent, name)
        ioctx = await self._cluster.ioctx_of(image)
        snap = encoded(wanted.snap)

        def take() -> None:
            with opened_for_change(ioctx, image, action) as opened:
                opened.create_snap(snap)

        begin()
        await self.change(image, action, take)
        return await self._catalog.find(parent, name)

    async def replaced_by(
        self, entry: Entry, parent: Entry, name: bytes, flags: int
    ) -> Entry | None:
        """Return the image that rename() is to replace; None where that is not for it to do."""
        if flags or not entry.is_image or not parent.holds(entry):
            return None
        try:
            found = await self._catalog.find(parent, name)
        except Missing:
            return None
        return found if found.is_image and found.key != entry.key else None

    async def rename(
        self, entry: Entry, parent: Entry, name: bytes, flags: int, replaced: Entry | None = None
    ) -> Entry:
        """Rename an image within its namespace, or a snapshot within its image; return it.

        Who has it open goes on undisturbed. An image that is *replaced* by another one is moved to
        the trash, as unlink() does. Raises OSError as that does, EEXIST for anything else that has
        the name, EXDEV for another pool, namespace or image, EINVAL for flags other than
        RENAME_NOREPLACE, EPERM for directories, partitions and between an image and a snapshot.
        """
        action = f"renaming {entry.spec} to {name!r} in {parent.spec}"
        if flags & ~_RENAME_NOREPLACE:
            raise BadArgument(f"{action}: flags {flags:#x}")
        wanted = parse_new(name)
        if entry.is_directory or entry.key.partition or wanted.snap_id is not None:
            _refuse(action)
        if entry.is_snapshot != (wanted.snap is not None):
            _refuse(action)
        if not parent.holds(entry) or (entry.is_snapshot and wanted.image != entry.image):
            raise Elsewhere(action)
        if (wanted.image, wanted.snap) == (entry.image, entry.snap):
            return entry
        if replaced is None:
            await self.require_absent(parent, name)
        ioctx = await self._cluster.ioctx_of(entry)
        if wanted.snap is None:
            rename = partial(directory_changes.rename_image, ioctx, entry, wanted.image, action)
        else:
            rename = partial(directory_changes.rename_snapshot, ioctx, entry, wanted.snap, action)
        # Ceph has no step that does both: for a moment nothing has the name.
        async with self.trash.replaced(replaced, entry, action):
            await self.change(entry, action, rename)
        return replace(entry, image=wanted.image, snap=wanted.snap)

    async def destination(
        self, entry: Entry, parent: Entry, name: bytes, flags: int
    ) -> ImageSpec | None:
        """Return where an image would go that rename() has to refuse with EXDEV; None for others.

        Raises OSError: EEXIST; EINVAL and EPERM as rename() does.
        """
        # Format 1 knows no migration.
        if not entry.is_image or entry.image_id is None or parent.holds(entry):
            return None
        action = f"moving {entry.spec} to {name!r} in {parent.spec}"
        if flags & ~_RENAME_NOREPLACE:
            raise BadArgument(f"{action}: flags {flags:#x}")
        wanted = parse_new(name)
        if parent.is_pool_list or wanted != FileName(wanted.image):
            _refuse(action)
        await self.require_absent(parent, name)
        return ImageSpec(parent.pool, parent.namespace, wanted.image)

    async def make_namespace(self, parent: Entry, name: bytes, begin: Begin = _nothing) -> Entry:
        """Make namespace *name* (or ``@NAME``) in a pool; return its entry.

        Raises OSError: EEXIST, EPERM elsewhere than in a pool, EINVAL, ENAMETOOLONG.
        """
        action = f"making namespace {name!r} in {parent.spec}"
        if parent.is_pool_list or parent.namespace:
            _refuse(action)
        namespace = parse_new_namespace(name, action)
        await self.require_absent(parent, name)
        ioctx = await self._cluster.ioctx(parent.pool)
        make = partial(directory_changes.create_namespace, ioctx, namespace)
        begin()
        await self.change(parent, action, make)
        return await self._catalog.find(parent, name)

    async def remove_namespace(self, entry: Entry) -> None:
        """Remove an empty namespace.

        Raises OSError: ENOTEMPTY where it has images, also in its trash; ENOTDIR; EPERM for a pool.
        """
        action = f"removing namespace {entry.spec}"
        if not entry.is_directory:
            raise NotADirectory(f"{action}: it is no directory")
        if not entry.namespace:
            _refuse(action)
        ioctx = await self._cluster.ioctx(entry.pool)
        remove = partial(directory_changes.remove_namespace, ioctx, entry.namespace)
        try:
            await self.change(entry, action, remove)
        except InUse as exc:
            raise NotEmpty(f"{action}: it has images, or its trash has") from exc

    def _refuse_removal(self, action: str) -> NoReturn:
        if not self._has_refused:
            # Once: tools that clear a directory go on to the next.
            self._has_refused = True
            log.warning("%s is refused: only -o manage=snapshots allows it, for good", action)
        _refuse(action)

    async def _names(self, parent: Entry, image: Entry) -> bool:
        """Tell whether *image*, which may have been renamed meanwhile, has this name by now."""
        try:
            return (await self._catalog.find_image(parent, FileName(image.image))).key == image.key
        except Missing:
            return False

    async def require_absent(self, parent: Entry, name: bytes) -> None:
        """Raise OSError EEXIST where *name* means anything in *parent*, a namespace for instance.

        librbd looks again, under the pool's own order of things, for images and snapshots.
        """
        try:
            found = await self._catalog.find(parent, name)
        except Missing:
            return
        raise Exists(f"{found.spec} exists")

    async def change(
        self, where: Entry, action: str, change: Callable[[], T], *, beside: Entry | None = None
    ) -> T:
        """Have *change* made in *where*, with the pool of *beside* for some; return its answer.

        Raises OSError.
        """
        if not where.is_directory:
            await self._catalog.check_openable(where)
        limiter = self._limiters.of(where.pool, (beside or where).pool)
        try:
            with changing(action):
                return await trio.to_thread.run_sync(change, limiter=limiter)
        finally:
            # A failure may come after the change.
            self._catalog.changed(where)
            self._catalog.directory_changed(where)


def _refuse(action: str) -> NoReturn:
    raise NotPermitted(action)
