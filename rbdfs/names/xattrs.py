"""Extended attributes: what `rbd info`, `rbd status` and `rbd image-meta` tell, as user.rbd.*.

Most of it is known without opening the image. Lock owner and watchers need an open one: it is
read-only, which leaves no watcher of its own.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, NoReturn

from rbdfs.ceph.blocking_image import lockers, opened, opened_for_change
from rbdfs.ceph.errors import from_ceph
from rbdfs.ceph.pool_threads import PoolThreads
from rbdfs.ceph.single_flight import SingleFlight
from rbdfs.errors import (
    BadArgument,
    Failure,
    Missing,
    NoAttribute,
    NotPermitted,
    NotSupported,
    TooLong,
)
from rbdfs.metadata import image_meta
from rbdfs.metadata.image_header import omap_reader
from rbdfs.metadata.stamps import GROWING
from rbdfs.model.ownership import OWNERSHIP_KEYS
from rbdfs.names.known_attributes import KnownAttributes

if TYPE_CHECKING:
    from collections.abc import Callable

    from rbdfs.ceph.blocking_image import BlockingImage
    from rbdfs.ceph.cluster import Cluster
    from rbdfs.config.ceph_settings import CephSettings
    from rbdfs.model.entry import Entry
    from rbdfs.names.catalog import Catalog

log = logging.getLogger(__name__)

_PREFIX = b"user.rbd."
_META = b"user.rbd.meta."
# What rbdfs itself says of a file: whose it is, and that it grows.
_OWN = frozenset(key.encode() for key in (*OWNERSHIP_KEYS, GROWING))
# XATTR_NAME_MAX, XATTR_SIZE_MAX and XATTR_LIST_MAX of linux/limits.h.
_NAME_MAX = 255
_VALUE_MAX = 65536
_LIST_MAX = 65536
# Also a bound to the images of a pool that are open for this at once.
_THREADS_A_POOL = 8
# How long, in seconds, and of how many images the names of image-meta are kept.
_META_TTL_S = 0.9
_META_KEPT = 4096


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
        self._known = KnownAttributes(cluster, catalog, settings)
        self._threads = PoolThreads(_THREADS_A_POOL)
        self._meta_names: SingleFlight[list[bytes]] = SingleFlight(_META_TTL_S, _META_KEPT)
        self._asked: dict[bytes, Callable[[BlockingImage], str]] = {
            b"lock_owner": _lock_owner,
            b"watchers": _watchers,
        }

    async def names(self, entry: Entry) -> list[bytes]:
        """Return the names of the attributes of *entry*: what its header tells, and image-meta.

        `ls -l` of newer coreutils asks for them with each file. Image-meta is left out where its
        key or value is not UTF-8 or too long for the kernel. Raises OSError.
        """
        if entry.is_directory:
            return []
        names = [_PREFIX + name for name in await self._known.names(entry.whole)]
        if not entry.is_snapshot:
            # Empty where there is nobody.
            names += [_PREFIX + name for name in self._asked]
        if entry.image_id is not None:
            names += await self._meta_names.get(entry.image_key, lambda: self._list_meta(entry))
        return _bounded(names, entry)

    async def _list_meta(self, entry: Entry) -> list[bytes]:
        assert entry.image_id is not None
        ioctx = await self._cluster.ioctx_of(entry)
        reader = omap_reader(self._cluster.bridge, ioctx)
        page = await image_meta.read_meta_page(reader, entry.image_id)
        if page is None:
            meta = await self._threads.run(entry.pool, image_meta.list_meta, ioctx, entry.image_id)
        else:
            meta = {key.encode(): value for key, value in page.items()}
        return [_META + key for key, value in meta.items() if _presentable(key, value)]

    async def value(self, entry: Entry, name: bytes) -> bytes:
        """Return the value of attribute *name*: text without a newline at its end.

        Raises OSError: EOPNOTSUPP outside of ``user.``, as vfat and NFS have it, because programs
        take ENODATA for "can be set" (at once: the kernel asks for security.capability before a
        write, and takes this for none); ENODATA where there is none; E2BIG where the kernel would
        not take it.
        """
        check_user_attribute(entry, name)
        if entry.is_directory or not name.startswith(_PREFIX):
            _refuse(entry, name, NoAttribute)
        whole = entry.whole
        if name.startswith(_META):
            return await self._meta(whole, name)
        short = name.removeprefix(_PREFIX)
        text = None
        if short in self._known:
            text = await self._known.value(whole, short)
        elif short in self._asked and not entry.is_snapshot:
            text = await self._ask(whole, self._asked[short])
        if text is None:
            _refuse(entry, name, NoAttribute)
        return text.encode("utf-8", "surrogateescape")

    async def set(self, entry: Entry, name: bytes, value: bytes) -> None:
        """Set image-meta: attribute ``user.rbd.meta.KEY`` of an image.

        Raises OSError: EPERM for every other attribute, what chown and chmod set, and marks of
        growth, EOPNOTSUPP outside of ``user.``, EROFS, EINVAL for a value with a NUL.
        """
        key = _settable_key(entry, name)
        if b"\0" in value:
            # librbd takes strings of C, and would keep what comes before it.
            raise BadArgument(f"{entry.spec}: attribute {name!r}: NUL in a value")
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
        await self._catalog.check_openable(entry)
        ioctx = await self._cluster.ioctx_of(entry)

        def run() -> None:
            with opened_for_change(ioctx, entry, f"{entry.spec}: changing {name!r}") as image:
                change(image)

        try:
            await self._threads.run(entry.pool, run)
        finally:
            # A failure may come after the change.
            self._catalog.changed(entry)
            self._meta_names.invalidate(entry.image_key)

    async def _meta(self, entry: Entry, name: bytes) -> bytes:
        if entry.image_id is None:
            _refuse(entry, name, NoAttribute)
        key = name.removeprefix(_META)
        ioctx = await self._cluster.ioctx_of(entry)
        try:
            call = (image_meta.read_meta, ioctx, entry.image_id, key)
            value = await self._threads.run(entry.pool, *call)
        except Missing:
            _refuse(entry, name, NoAttribute)
        if len(value) > _VALUE_MAX:
            _refuse(entry, name, TooLong)
        return value

    async def _ask(self, entry: Entry, ask: Callable[[BlockingImage], str]) -> str:
        await self._catalog.check_openable(entry)
        ioctx = await self._cluster.ioctx_of(entry)

        def run() -> str:
            with from_ceph(f"{entry.spec}: who uses it"), opened(ioctx, entry) as image:
                return ask(image)

        return await self._threads.run(entry.pool, run)


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


def check_user_attribute(entry: Entry, name: bytes) -> None:
    """Raise OSError EOPNOTSUPP for what is outside of ``user.``: capabilities, labels, ACLs."""
    if not name.startswith(b"user."):
        _refuse(entry, name, NotSupported)


def _settable_key(entry: Entry, name: bytes) -> bytes:
    check_user_attribute(entry, name)
    image = not entry.is_directory and not entry.is_snapshot and not entry.key.partition
    key = name.removeprefix(_META)
    # Whoever may write to a file is not its owner by that, nor may all who do cut its end off.
    if not image or key in (name, b"", *_OWN):
        _refuse(entry, name, NotPermitted)
    return key


def _refuse(entry: Entry, name: bytes, kind: type[Failure]) -> NoReturn:
    raise kind(f"{entry.spec}: attribute {name!r}")
