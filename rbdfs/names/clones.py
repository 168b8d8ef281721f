"""Clones: images that begin as a snapshot is, and share with it what they do not change."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from rbdfs.ceph import directory_changes
from rbdfs.errors import Exists, Missing, NotPermitted
from rbdfs.metadata import clone_links
from rbdfs.model.file_name import FileName
from rbdfs.names.new_names import parse_new

if TYPE_CHECKING:
    from collections.abc import Callable

    from rbdfs.ceph.cluster import Cluster
    from rbdfs.model.entry import Entry
    from rbdfs.model.image_attributes import ParentSpec
    from rbdfs.names.catalog import Catalog
    from rbdfs.names.manage import Management


class Clones:
    """Makes them. Their data goes to *data_pool*; None: where the configuration says."""

    def __init__(
        self,
        cluster: Cluster,
        catalog: Catalog,
        management: Management,
        data_pool: str | None,
    ) -> None:
        self._cluster = cluster
        self._catalog = catalog
        self._management = management
        self._data_pool = data_pool

    async def clone(
        self, snap: Entry, parent: Entry, name: bytes, begin: Callable[[], None]
    ) -> Entry:
        """Make image *name* in *parent*, a clone of *snap*; return it.

        *begin* is called when nothing stands in its way, before anything is changed. Raises
        OSError: EPERM where *name* is no image's, or *snap* no snapshot of a user's; EEXIST.
        """
        action = f"cloning {snap.spec} to {name!r} in {parent.spec}"
        wanted = parse_new(name)
        if parent.is_pool_list or wanted != FileName(wanted.image):
            raise NotPermitted(action)
        if snap.snap is None or snap.key.partition or snap.image_id is None:
            raise NotPermitted(action)
        await self._management.require_absent(parent, name)
        await self._catalog.check_openable(snap)
        if self._data_pool is not None:
            await self._cluster.ioctx(self._data_pool)
        source = await self._cluster.ioctx_of(snap)
        target = await self._cluster.ioctx(parent.pool, parent.namespace)
        make = partial(
            directory_changes.clone_snapshot,
            source, snap, target, wanted.image, self._data_pool, action,
        )  # fmt: skip
        begin()
        await self._management.change(parent, action, make, beside=snap)
        made = await self._catalog.find(parent, name)
        origin = await self._parent(made)
        if origin is None:
            # The clone has another name by now, or is gone: this is none of ours to remove.
            raise Missing(f"{action}: another image has this name now")
        if not _is_of(origin, snap):
            # librbd knew the snapshot by its name, which another one has been given meanwhile.
            await self._management.unlink(made)
            raise Missing(f"{action}: another snapshot has this name now")
        return made

    async def check_made(self, made: Entry, snap: Entry) -> None:
        """Raise OSError EEXIST unless *made*, by a server that is gone, is a clone of *snap*.

        librbd makes the image before it says whose clone it is, and the snapshot is the last to
        know: what was not finished is zeros, or will not be readable when the snapshot is removed.
        """
        origin = await self._parent(made)
        if origin is None or not _is_of(origin, snap) or not await self._is_noted(made, snap):
            raise Exists(f"{made.spec} is no clone of {snap.spec}: it may be unfinished")

    async def _parent(self, made: Entry) -> ParentSpec | None:
        return (await self._catalog.attributes(made, newer=True)).parent

    async def _is_noted(self, made: Entry, snap: Entry) -> bool:
        source, target = await self._cluster.ioctx_of(snap), await self._cluster.ioctx_of(made)
        look = partial(clone_links.is_noted, source, snap.key, target, made.key)
        action = f"looking for {made.spec} at {snap.spec}"
        return await self._management.change(made, action, look, beside=snap)


def _is_of(parent: ParentSpec, snap: Entry) -> bool:
    """Tell whether what has *parent* is a clone of *snap*."""
    return (parent.pool_id, parent.image_id, parent.snap_id) == (
        snap.key.pool_id,
        snap.key.image_id,
        snap.key.snap_id,
    )
