"""Where an image comes from: its parent, the parent of that, and so on; and how they are named."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from rbdfs.ceph.pool_threads import PoolThreads
from rbdfs.errors import Gone, Missing, NotPermitted, NotUnderstood, PoolGone
from rbdfs.metadata import image_meta
from rbdfs.metadata.image_header import MAX_DEPTH
from rbdfs.model.entry import Entry, Key, find_snap
from rbdfs.model.file_name import ImageSpec
from rbdfs.model.image_attributes import USER

if TYPE_CHECKING:
    from collections.abc import Callable

    from rbdfs.ceph.cluster import Cluster, Ioctx
    from rbdfs.model.image_attributes import ImageAttributes, ParentSpec
    from rbdfs.names.catalog import Catalog

_THREADS_A_POOL = 4


class Ancestry:
    """Finds parents of images without opening any, and the names of what is known by id."""

    def __init__(self, cluster: Cluster, catalog: Catalog) -> None:
        self._cluster = cluster
        self._catalog = catalog
        self._threads = PoolThreads(_THREADS_A_POOL)

    async def pool_name(self, pool_id: int) -> str:
        """Return the name of a pool, ``id:NUMBER`` of one that is gone; raise OSError."""
        try:
            return await self._cluster.pool_name(pool_id)
        except Missing:
            return f"id:{pool_id}"

    async def spec(self, parent: ParentSpec) -> str:
        """Return the spec of a parent, with ids for what has no name that could be read."""
        entry, name = await self._entry(parent), f"id:{parent.image_id}"
        # In the trash, where it has an id only; or not for us to read.
        with contextlib.suppress(Missing, PoolGone, NotPermitted):
            name = await self._ask(entry, image_meta.image_name)
        return await self._spec(entry, name, parent.snap_id)

    async def named(self, key: Key, pool: str) -> dict[str, Any]:
        """Return what is known of the name of the image of *key*, in *pool*; raise OSError.

        That is ``spec``, with its id where it has no name; ``image``, in the trash the name that
        it had; ``image_id``, ``in_trash``, and ``gone`` where it is not there either.
        """
        entry = Entry(key, pool, key.namespace or "")
        name, facts = await self._naming(entry)
        return {"spec": str(ImageSpec(entry.pool, entry.namespace, name)), **facts}

    async def line(
        self, entry: Entry, attributes: ImageAttributes
    ) -> tuple[list[dict[str, Any]], OSError | None]:
        """Return the parents of *entry*, which has *attributes*; and why these are not all.

        Each is as named() has it, with the snapshot in its ``spec``, its ``snapshot_id``, and in
        ``overlap`` how many bytes at the front may come from it. Of the last, only what the image
        below tells, where the rest is not known.
        """
        line: list[dict[str, Any]] = []
        snap_id = entry.key.snap_id
        while (step := _step(attributes, snap_id)) is not None:
            parent, overlap = step
            if len(line) == MAX_DEPTH:
                return line, NotUnderstood(f"more than {MAX_DEPTH} parents, or a circle")
            snap_id, image_id = parent.snap_id, parent.image_id
            spec = ImageSpec(
                f"id:{parent.pool_id}", parent.pool_namespace, f"id:{image_id}", None, snap_id
            )
            found = {
                "spec": str(spec),
                "image_id": image_id,
                "snapshot_id": snap_id,
                "overlap": overlap,
            }
            line.append(found)
            try:
                above = await self._entry(parent)
                name, facts = await self._naming(above)
                found |= {"spec": str(replace(spec, pool=above.pool, image=name)), **facts}
                attributes = await self._catalog.attributes(above, newer=True)
                found["spec"] = await self._spec(above, name, snap_id)
            except OSError as exc:
                return line, exc
        return line, None

    async def _naming(self, entry: Entry) -> tuple[str, dict[str, Any]]:
        """Return what stands for an image in its spec, and what named() tells of it besides."""
        image_id, facts = entry.key.image_id, {"in_trash": False, "gone": False}
        try:
            name = in_spec = await self._ask(entry, image_meta.image_name)
        except (Missing, PoolGone):
            name, in_spec = None, f"id:{image_id}"
            try:
                name = await self._ask(entry, image_meta.name_in_trash)
                facts["in_trash"] = True
            except (Missing, PoolGone):
                facts["gone"] = True
        image = None if name is None else presentable(name)
        return in_spec, {"image": image, "image_id": image_id, **facts}

    async def _ask(self, entry: Entry, ask: Callable[[Ioctx, str], str]) -> str:
        ioctx = await self._cluster.ioctx_of(entry)
        call = (ask, ioctx, entry.key.image_id)
        return await self._threads.run(entry.pool, *call, abandon_on_cancel=True)

    async def _entry(self, parent: ParentSpec) -> Entry:
        key = Key(parent.pool_id, parent.pool_namespace, parent.image_id)
        return Entry(key, await self.pool_name(parent.pool_id), parent.pool_namespace)

    async def _spec(self, entry: Entry, name: str, snap_id: int) -> str:
        snap = None
        with contextlib.suppress(Gone, NotPermitted):
            found = find_snap(await self._catalog.attributes(entry), snap_id)
            # One that was removed is kept for its clones under a name of Ceph's own.
            snap = found.name if found is not None and found.namespace_type == USER else None
        by_id = snap_id if snap is None else None
        return str(ImageSpec(entry.pool, entry.namespace, name, snap, by_id))


def presentable(name: str) -> str:
    """Return *name* as UTF-8 has it: what is not, replaced. A spec has it exactly."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _step(attributes: ImageAttributes, snap_id: int) -> tuple[ParentSpec, int] | None:
    """Return the parent of the head or of a snapshot, and how many bytes come from it."""
    parent = attributes.parent or attributes.snap_parent
    if parent is None:
        return None
    if not snap_id:
        # Without one it is the parent of snapshots only: the head was flattened.
        return None if parent.overlap is None else (parent, parent.overlap)
    snap = find_snap(attributes, snap_id)
    return None if snap is None or not snap.parent_overlap else (parent, snap.parent_overlap)
