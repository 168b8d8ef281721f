"""The extended attributes that are known without opening an image: user.rbd.ID and so on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rbdfs.model.qemu_filename import QemuFileName, format_qemu_filename
from rbdfs.names.ancestry import Ancestry

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from rbdfs.ceph.cluster import Cluster
    from rbdfs.config.ceph_settings import CephSettings
    from rbdfs.model.entry import Entry
    from rbdfs.model.image_attributes import ImageAttributes
    from rbdfs.names.catalog import Catalog

# Bits of an image's features (RBD_FEATURES of librbd/features.h), as `rbd info` names them.
_FEATURES = (
    ("layering", "striping", "exclusive-lock", "object-map", "fast-diff", "deep-flatten")
    + ("journaling", "data-pool", "operations", "migrating", "non-primary")
)  # fmt: skip
# Settings that hold a secret: whoever may stat(2) a file may read its attributes.
_SECRET = frozenset({"key"})


class KnownAttributes:
    """What headers, the OSD map and the directory of a pool tell of an image or snapshot.

    *settings* say how the cluster was reached, for ``qemu``.
    """

    def __init__(self, cluster: Cluster, catalog: Catalog, settings: CephSettings | None) -> None:
        self._cluster = cluster
        self._catalog = catalog
        self._settings = settings
        self._ancestry = Ancestry(cluster, catalog)
        # None: this entry has no such attribute.
        self._values: dict[bytes, Callable[[Entry], Awaitable[str | None]]] = {
            b"id": self._id,
            b"size": self._size,
            b"object_size": self._object_size,
            b"features": self._features,
            b"parent": self._parent,
            b"snap_id": self._snap_id,
            b"data_pool": self._data_pool,
            b"qemu": self._qemu,
        }

    def __contains__(self, name: bytes) -> bool:
        return name in self._values

    async def names(self, entry: Entry) -> list[bytes]:
        """Return the attributes that *entry* has: its header alone tells. Raises OSError."""
        attributes = await self._catalog.attributes(entry)
        there = {
            b"id": entry.image_id is not None,
            b"parent": attributes.parent is not None,
            b"snap_id": entry.is_snapshot,
            b"data_pool": _data_pool_id(entry, attributes) is not None,
            b"qemu": self._qemu_name(entry) is not None,
        }
        return [name for name in self._values if there.get(name, True)]

    async def value(self, entry: Entry, name: bytes) -> str | None:
        """Return the value of attribute *name*, or None where *entry* has none; raise OSError."""
        return await self._values[name](entry)

    async def _id(self, entry: Entry) -> str | None:
        return entry.image_id

    async def _size(self, entry: Entry) -> str:
        return str((await self._catalog.current(entry)).size)

    async def _object_size(self, entry: Entry) -> str:
        return str(1 << (await self._catalog.attributes(entry)).order)

    async def _features(self, entry: Entry) -> str:
        return ",".join(feature_names(await self._catalog.attributes(entry)))

    async def _snap_id(self, entry: Entry) -> str | None:
        return str(entry.key.snap_id) if entry.is_snapshot else None

    async def _data_pool(self, entry: Entry) -> str | None:
        pool_id = _data_pool_id(entry, await self._catalog.attributes(entry))
        return None if pool_id is None else await self._ancestry.pool_name(pool_id)

    async def _parent(self, entry: Entry) -> str | None:
        parent = (await self._catalog.attributes(entry)).parent
        return None if parent is None else await self._ancestry.spec(parent)

    async def _qemu(self, entry: Entry) -> str | None:
        return self._qemu_name(entry)

    def _qemu_name(self, entry: Entry) -> str | None:
        if entry.is_snapshot and entry.snap is None:
            return None  # QEMU opens snapshots by name only
        settings, user = self._settings, self._cluster.user
        file_name = QemuFileName(
            entry.pool,
            entry.image,
            entry.namespace,
            entry.snap,
            id=None if user == "admin" else user,  # QEMU's default too
            conf=None if settings is None or settings.conf is None else str(settings.conf),
            options=tuple(pair for pair in settings.pairs if pair[0].strip() not in _SECRET)
            if settings is not None
            else (),
        )
        try:
            return format_qemu_filename(file_name)
        except ValueError:
            return None


def feature_names(attributes: ImageAttributes) -> list[str]:
    """Return the features of an image as `rbd info` names them; those not known here as bits."""
    features = attributes.features
    names = [name for bit, name in enumerate(_FEATURES) if features >> bit & 1]
    unknown = features >> len(_FEATURES) << len(_FEATURES)
    return [*names, *([f"{unknown:#x}"] if unknown else [])]


def _data_pool_id(entry: Entry, attributes: ImageAttributes) -> int | None:
    # An image that was opened names its own pool where there is no other.
    own = attributes.data_pool_id in (-1, entry.key.pool_id)
    return None if own else attributes.data_pool_id
