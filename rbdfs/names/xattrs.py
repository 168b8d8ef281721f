"""Extended attributes: what `rbd info`, `rbd status` and `rbd image-meta` tell, as user.rbd.*.

Most of it is known without opening the image. Lock owner and watchers need an open one: it is
read-only, which leaves no watcher of its own.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING, NoReturn, TypeVar

import trio

from rbdfs.ceph.blocking_image import lockers, opened, opened_for_change
from rbdfs.ceph.errors import from_ceph
from rbdfs.errors import Failure, Missing, NoAttribute, NotPermitted, NotSupported, TooLong
from rbdfs.metadata import image_meta
from rbdfs.model.entry import Entry, Key
from rbdfs.model.file_name import ImageSpec
from rbdfs.model.qemu_filename import QemuFileName, format_qemu_filename

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from rbdfs.ceph.blocking_image import BlockingImage
    from rbdfs.ceph.cluster import Cluster
    from rbdfs.config.ceph_settings import CephSettings
    from rbdfs.model.image_attributes import ParentSpec
    from rbdfs.names.catalog import Catalog

    T = TypeVar("T")

log = logging.getLogger(__name__)

_PREFIX = b"user.rbd."
_META = b"user.rbd.meta."
# XATTR_NAME_MAX, XATTR_SIZE_MAX and XATTR_LIST_MAX of linux/limits.h.
_NAME_MAX = 255
_VALUE_MAX = 65536
_LIST_MAX = 65536
# Bits of an image's features (RBD_FEATURES of librbd/features.h), as `rbd info` names them.
_FEATURES = (
    ("layering", "striping", "exclusive-lock", "object-map", "fast-diff", "deep-flatten")
    + ("journaling", "data-pool", "operations", "migrating", "non-primary")
)  # fmt: skip
# Settings that hold a secret: whoever may stat(2) a file may read its attributes.
_SECRET = frozenset({"key"})
_THREADS = 8


class Xattrs:
    """Extended attributes of images and snapshots. Directories have none.

    A partition has those of what it is in. *settings* say how the cluster was reached, for
    ``user.rbd.qemu``.
    """

    def __init__(
        self, cluster: Cluster, catalog: Catalog, settings: CephSettings | None = None
    ) -> None:
        self._cluster = cluster
        self._catalog = catalog
        self._settings = settings
        # Also a bound to the images that are open for this at once.
        self._limiter = trio.CapacityLimiter(_THREADS)
        # What is known without an open image; None: this entry has no such attribute.
        self._known: dict[bytes, Callable[[Entry], Awaitable[str | None]]] = {
            b"id": self._id,
            b"size": self._size,
            b"object_size": self._object_size,
            b"features": self._features,
            b"parent": self._parent,
            b"snap_id": self._snap_id,
            b"data_pool": self._data_pool,
            b"qemu": self._qemu,
        }
        self._asked: dict[bytes, Callable[[BlockingImage], str]] = {
            b"lock_owner": _lock_owner,
            b"watchers": _watchers,
        }

    async def names(self, entry: Entry) -> list[bytes]:
        """Return the names of the attributes of *entry*; opens no image. Raises OSError.

        Image-meta is left out where its key or value is not UTF-8 or too long for the kernel.
        """
        if entry.is_directory:
            return []
        names = [
            _PREFIX + name
            for name, read in self._known.items()
            if await read(entry.whole) is not None
        ]
        if not entry.is_snapshot:
            # Empty where there is nobody.
            names += [_PREFIX + name for name in self._asked]
        if entry.image_id is not None:
            ioctx = await self._cluster.ioctx_of(entry)
            meta = await self._in_thread(partial(image_meta.list_meta, ioctx, entry.image_id))
            names += [_META + key for key, value in meta.items() if _presentable(key, value)]
        return _bounded(names, entry)

    async def value(self, entry: Entry, name: bytes) -> bytes:
        """Return the value of attribute *name*: text without a newline at its end.

        Raises OSError: ENODATA where there is none (at once for what is not user.rbd.*: the
        kernel asks for security.capability before every write), E2BIG where the kernel would not
        take it.
        """
        if entry.is_directory or not name.startswith(_PREFIX):
            _refuse(entry, name, NoAttribute)
        whole = entry.whole
        if name.startswith(_META):
            return await self._meta(whole, name)
        short = name.removeprefix(_PREFIX)
        text = None
        if short in self._known:
            text = await self._known[short](whole)
        elif short in self._asked and not entry.is_snapshot:
            text = await self._ask(whole, self._asked[short])
        if text is None:
            _refuse(entry, name, NoAttribute)
        return text.encode("utf-8", "surrogateescape")

    async def set(self, entry: Entry, name: bytes, value: bytes) -> None:
        """Set image-meta: attribute ``user.rbd.meta.KEY`` of an image.

        Raises OSError: EPERM for every other attribute, EOPNOTSUPP outside of ``user.``, EROFS.
        """
        key = _settable_key(entry, name)
        await self._change(entry, name, lambda image: image.metadata_set(key, value))

    async def remove(self, entry: Entry, name: bytes) -> None:
        """Remove image-meta. Raises OSError as set() does, and ENODATA where there is none."""
        key = _settable_key(entry, name)
        try:
            await self._change(entry, name, lambda image: image.metadata_remove(key))
        except KeyError:
            _refuse(entry, name, NoAttribute)

    async def _change(
        self, entry: Entry, name: bytes, change: Callable[[BlockingImage], None]
    ) -> None:
        ioctx = await self._cluster.ioctx_of(entry)

        def run() -> None:
            with opened_for_change(ioctx, entry, f"{entry.spec}: changing {name!r}") as image:
                change(image)

        await self._in_thread(run)
        self._catalog.changed(entry)

    async def _meta(self, entry: Entry, name: bytes) -> bytes:
        if entry.image_id is None:
            _refuse(entry, name, NoAttribute)
        key = name.removeprefix(_META)
        ioctx = await self._cluster.ioctx_of(entry)
        try:
            value = await self._in_thread(partial(image_meta.read_meta, ioctx, entry.image_id, key))
        except Missing:
            _refuse(entry, name, NoAttribute)
        if len(value) > _VALUE_MAX:
            _refuse(entry, name, TooLong)
        return value

    async def _ask(self, entry: Entry, ask: Callable[[BlockingImage], str]) -> str:
        ioctx = await self._cluster.ioctx_of(entry)

        def run() -> str:
            with from_ceph(f"{entry.spec}: who uses it"), opened(ioctx, entry) as image:
                return ask(image)

        return await self._in_thread(run)

    async def _in_thread(self, call: Callable[[], T]) -> T:
        return await trio.to_thread.run_sync(call, limiter=self._limiter)

    # Attributes that are known without an open image.

    async def _id(self, entry: Entry) -> str | None:
        return entry.image_id

    async def _size(self, entry: Entry) -> str:
        return str((await self._catalog.current(entry)).size)

    async def _object_size(self, entry: Entry) -> str:
        return str(1 << (await self._catalog.attributes(entry)).order)

    async def _features(self, entry: Entry) -> str:
        features = (await self._catalog.attributes(entry)).features
        names = [name for bit, name in enumerate(_FEATURES) if features >> bit & 1]
        unknown = features >> len(_FEATURES) << len(_FEATURES)
        return ",".join([*names, *([f"{unknown:#x}"] if unknown else [])])

    async def _snap_id(self, entry: Entry) -> str | None:
        return str(entry.key.snap_id) if entry.is_snapshot else None

    async def _data_pool(self, entry: Entry) -> str | None:
        pool_id = (await self._catalog.attributes(entry)).data_pool_id
        # An image that was opened names its own pool where there is no other.
        return (
            None
            if pool_id in (-1, entry.key.pool_id)
            else await image_meta.pool_name(self._cluster, pool_id)
        )

    async def _parent(self, entry: Entry) -> str | None:
        parent = (await self._catalog.attributes(entry)).parent
        return None if parent is None else await self._parent_spec(parent)

    async def _parent_spec(self, parent: ParentSpec) -> str:
        pool, namespace = (
            await image_meta.pool_name(self._cluster, parent.pool_id),
            parent.pool_namespace,
        )
        ioctx = await self._cluster.ioctx(pool, namespace)
        try:
            name = await self._in_thread(partial(image_meta.image_name, ioctx, parent.image_id))
        except Missing:
            # In the trash, where it has an id only.
            name = f"id:{parent.image_id}"
        key = Key(parent.pool_id, namespace, parent.image_id)
        snaps = (await self._catalog.attributes(Entry(key, pool, namespace, name))).snaps
        named = [
            snap.name
            for snap in snaps
            if snap.snap_id == parent.snap_id and snap.namespace_type == "user"
        ]
        if named:
            return str(ImageSpec(pool, namespace, name, named[0]))
        # A removed snapshot, which is kept for its clones.
        return str(ImageSpec(pool, namespace, name, snap_id=parent.snap_id))

    async def _qemu(self, entry: Entry) -> str | None:
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


def _lock_owner(image: BlockingImage) -> str:
    # lock_get_owners() wants an image that is open for writing.
    return "\n".join(f"{address} {client}" for client, _cookie, address in lockers(image))


def _watchers(image: BlockingImage) -> str:
    return "\n".join(f"{w['addr']} client.{w['id']}" for w in image.watchers_list())


def _presentable(key: bytes, value: bytes) -> bool:
    try:
        key.decode()
        value.decode()
    except UnicodeDecodeError:
        return False
    fits = len(_META + key) <= _NAME_MAX and len(value) <= _VALUE_MAX
    return bool(key) and b"\0" not in key and fits


def _bounded(names: list[bytes], entry: Entry) -> list[bytes]:
    length = 0
    for count, name in enumerate(names):
        length += len(name) + 1
        if length > _LIST_MAX:
            # The kernel would refuse the whole list.
            log.warning("%s: %d of %d attributes listed", entry.spec, count, len(names))
            return names[:count]
    return names


def _settable_key(entry: Entry, name: bytes) -> bytes:
    if not name.startswith(b"user."):
        _refuse(entry, name, NotSupported)
    image = not entry.is_directory and not entry.is_snapshot and not entry.key.partition
    key = name.removeprefix(_META)
    if not image or key in (name, b""):
        _refuse(entry, name, NotPermitted)
    return key


def _refuse(entry: Entry, name: bytes, kind: type[Failure]) -> NoReturn:
    raise kind(f"{entry.spec}: attribute {name!r}")
