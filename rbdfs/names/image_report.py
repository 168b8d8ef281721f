"""All that the cluster tells of one file, for `rbdfs stat`.

No part of it fails the others: what cannot be told has a reason instead. Nothing takes a lock or
opens an image for writing: most is read from headers, the rest from an image that is open
read-only, which leaves no watcher.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from rbdfs.ceph import image_users
from rbdfs.ceph.blocking_image import opened
from rbdfs.ceph.errors import from_ceph
from rbdfs.ceph.pool_threads import PoolThreads
from rbdfs.errors import NotUnderstood
from rbdfs.model.entry import find_snap
from rbdfs.model.file_name import ImageSpec
from rbdfs.names.ancestry import Ancestry, presentable
from rbdfs.names.children import Children
from rbdfs.names.known_attributes import KnownAttributes, feature_names

if TYPE_CHECKING:
    from collections.abc import Container

    from rbdfs.ceph.cluster import Cluster
    from rbdfs.config.ceph_settings import CephSettings
    from rbdfs.metadata.cache import MetadataCache
    from rbdfs.model.entry import Entry
    from rbdfs.model.image_attributes import ImageAttributes, SnapAttributes
    from rbdfs.names.catalog import Catalog

# Also a bound to the images of a pool that are open for this at once.
_THREADS_A_POOL = 4
# RBD_FLAG_* of rbd/features.h, as `rbd info` names them.
_FLAGS = {1: "object map invalid", 2: "fast diff invalid"}
_REASON_CHARACTERS = 300


class ImageReport:
    """Values by name, and reasons for those that are not known."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.not_known: dict[str, str] = {}
        self.left_out: dict[str, int] = {}

    def told(self) -> dict[str, Any]:
        """Return all of it."""
        return {**self.values, "not_known": self.not_known, "left_out": self.left_out}

    def unknown(self, name: str, error: OSError) -> None:
        """Say why a value, or the rest of a list, is not known."""
        self.values.setdefault(name, None)
        text = presentable(str(error.strerror or error))
        self.not_known[name] = text[:_REASON_CHARACTERS]


class ImageReports:
    """Looks at files for `rbdfs stat`. *settings* say how the cluster was reached."""

    def __init__(
        self,
        cluster: Cluster,
        catalog: Catalog,
        cache: MetadataCache,
        settings: CephSettings | None = None,
    ) -> None:
        self._cluster = cluster
        self._catalog = catalog
        self._cache = cache
        self._ancestry = Ancestry(cluster, catalog)
        self._children = Children(cluster, self._ancestry)
        self._known = KnownAttributes(cluster, catalog, settings)
        self._threads = PoolThreads(_THREADS_A_POOL)

    async def report(self, entry: Entry, own: Container[str]) -> dict[str, Any]:
        """Return what file_report.ATTRIBUTE says of *entry*, with lists of any length.

        Clients at the addresses *own* are this mount. Raises OSError where the header of an image
        cannot be read: ESTALE where it is gone.
        """
        report = ImageReport()
        if entry.is_directory:
            await self._directory(report, entry)
        else:
            await self._image(report, entry.whole, own)
            await self._partition(report, entry)
        return report.told()

    async def _directory(self, report: ImageReport, entry: Entry) -> None:
        if entry.is_pool_list:
            report.values |= {"type": "pools"}
        else:
            spec = str(ImageSpec(entry.pool, entry.namespace, "")).removesuffix("/")
            kind = "namespace" if entry.namespace else "pool"
            report.values |= {"type": kind, "spec": spec, "pool_id": entry.key.pool_id}
        if not entry.namespace:
            try:
                used, available = await self._catalog.usage(entry)
                report.values |= {"used": used, "available": available}
            except OSError as exc:
                report.unknown("used", exc)
                report.unknown("available", exc)

    async def _partition(self, report: ImageReport, entry: Entry) -> None:
        if entry.key.partition:
            # The size of the whole stays in what is provisioned.
            report.values |= {"type": "partition", "spec": entry.spec, "size": entry.size}
            report.values["partition"] = {"number": entry.key.partition, "offset": entry.offset}

    async def _image(self, report: ImageReport, entry: Entry, own: Container[str]) -> None:
        attributes = await self._catalog.attributes(entry, newer=True)
        entry = await self._catalog.current(entry)
        snap = find_snap(attributes, entry.key.snap_id) if entry.is_snapshot else None
        _tell_header(report, entry, attributes, snap)
        for name in ("qemu", "data_pool"):
            try:
                report.values[name] = await self._known.value(entry, name.encode())
            except OSError as exc:
                report.unknown(name, exc)
        if report.values["qemu"] is None:
            report.not_known.setdefault("qemu", "QEMU has no name for it")
        # Without one of its own, its pool has the data.
        if report.values["data_pool"] is None and "data_pool" not in report.not_known:
            report.values["data_pool"] = presentable(entry.pool)
        await self._used(report, entry, attributes, snap)
        await self._relatives(report, entry, attributes)
        await self._migration(report, entry, attributes)
        await self._users(report, entry, own)

    async def _used(
        self,
        report: ImageReport,
        entry: Entry,
        attributes: ImageAttributes,
        snap: SnapAttributes | None,
    ) -> None:
        try:
            used = await self._cache.own_allocated(entry, attributes, snap)
            if used is None:
                raise NotUnderstood("no object map tells it")
            report.values["used"] = used
        except OSError as exc:
            report.unknown("used", exc)

    async def _relatives(
        self, report: ImageReport, entry: Entry, attributes: ImageAttributes
    ) -> None:
        if attributes.flags is None and attributes.image_id:
            error = NotUnderstood("its header is of a later version")
            report.unknown("parents", error)
        else:
            line, why = await self._ancestry.line(entry, attributes)
            report.values["parents"] = line
            if why is not None:
                report.unknown("parents", why)
        children, left_out, why = await self._children.of(entry, attributes)
        report.values["children"] = children
        if left_out:
            report.left_out["children"] = left_out
        if why is not None:
            report.unknown("children", why)

    async def _migration(
        self, report: ImageReport, entry: Entry, attributes: ImageAttributes
    ) -> None:
        try:
            header = await self._cache.migration(entry, attributes)
            told: dict[str, Any] = {"state": "none"}
            if header is not None:
                pool = await self._ancestry.pool_name(header.pool_id)
                other = str(ImageSpec(pool, header.namespace, header.image))
                role = "source" if header.is_source else "target"
                told = {"state": header.state.name.lower(), "role": role, "other": other}
            report.values["migration"] = told
        except OSError as exc:
            report.unknown("migration", exc)

    async def _users(self, report: ImageReport, entry: Entry, own: Container[str]) -> None:
        """Tell what librbd alone knows: of a snapshot only how it begins."""
        names = ("encryption",) if entry.is_snapshot else tuple(image_users.PARTS)
        try:
            await self._catalog.check_openable(entry)
            ioctx = await self._cluster.ioctx_of(entry)

            def tell() -> tuple[dict[str, Any], dict[str, OSError]]:
                with from_ceph(f"opening {entry.spec}"), opened(ioctx, entry) as image:
                    return image_users.tell(image, names, entry.key.snap_id)

            told, failed = await self._threads.run(entry.pool, tell)
        except OSError as exc:
            told, failed = {}, dict.fromkeys(names, exc)
        for name, error in failed.items():
            report.unknown(name, error)
        for user in (*told.get("locks", ()), *told.get("watchers", ())):
            user["ours"] = user["address"] in own
        pool_id, group = told.pop("group", (-1, ""))
        report.values |= told
        if group:
            try:
                pool = await self._ancestry.pool_name(pool_id)
                report.values["group"] = str(ImageSpec(pool, entry.namespace, group))
            except OSError as exc:
                report.unknown("group", exc)
        elif "group" in names and "group" not in failed:
            report.values["group"] = "none"


def _tell_header(
    report: ImageReport, entry: Entry, attributes: ImageAttributes, snap: SnapAttributes | None
) -> None:
    report.values |= {
        "type": "image" if snap is None else "snapshot",
        "spec": entry.spec,
        "pool": presentable(entry.pool),
        "pool_id": entry.key.pool_id,
        "namespace": presentable(entry.namespace),
        "image": presentable(entry.image),
        "image_id": attributes.image_id,
        "format": 2 if attributes.image_id else 1,
        "size": entry.size,
        "provisioned": entry.size,
        "object_size": 1 << attributes.order,
        "features": feature_names(attributes),
    }
    flags = attributes.flags if snap is None else snap.flags
    if flags is None:
        report.unknown("flags", NotUnderstood("they are not in what was read"))
    else:
        names = (_FLAGS.get(1 << bit, f"{1 << bit:#x}") for bit in range(64) if flags >> bit & 1)
        report.values["flags"] = list(names)
    if snap is not None:
        report.values["snapshot"] = _of_snapshot(snap)
        return
    # The newest is what is left of a list that is too long.
    report.values["snapshots"] = [_of_snapshot(each) for each in reversed(attributes.snaps)]
    times = {"created": "create_ns", "accessed": "access_ns", "modified": "modify_ns"}
    for name, attribute in times.items():
        report.values[name] = _time(getattr(attributes, attribute))
        if report.values[name] is None:
            report.unknown(name, NotUnderstood("Ceph has not noted it"))


def _of_snapshot(snap: SnapAttributes) -> dict[str, Any]:
    return {
        "id": snap.snap_id,
        "name": presentable(snap.name),
        "time": _time(snap.timestamp_ns),
        "size": snap.size,
        "protected": snap.protected,
        "namespace": str(snap.namespace_type),
    }


def _time(ns: int) -> str | None:
    """Return a time as ISO 8601 has it, to the microsecond; None where Ceph keeps none."""
    if not ns:
        return None
    seconds, rest = divmod(ns, 10**9)
    return datetime.fromtimestamp(seconds, UTC).replace(microsecond=rest // 1000).isoformat()
