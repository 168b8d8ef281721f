"""Which images and snapshots exist now, with their attributes.

Attributes come from the header objects, in one read operation an image: nothing is opened, so a
listing leaves no watcher and takes no lock. What was read is used for a short time by everybody.
"""

from __future__ import annotations

import errno
import logging
from functools import partial
from typing import TYPE_CHECKING

import trio

from rbdfs import directory
from rbdfs.encoding import Decoder, NotUnderstood, encode_string
from rbdfs.entries import Entry, Key, Times
from rbdfs.errors import UserError
from rbdfs.header import ImageAttributes, SnapAttributes, omap_reader, read_header
from rbdfs.inspection import inspect_image
from rbdfs.listing import Listing
from rbdfs.single_flight import SingleFlight
from rbdfs.spec import (
    NameTooLong,
    directory_name,
    file_name,
    parse_directory_name,
    parse_file_name,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rbdfs.cluster import Cluster
    from rbdfs.listing import Expand, Item

log = logging.getLogger(__name__)

# How old an answer may be, in seconds. The kernel keeps what it is told as long again.
_TTL_S = 0.9
# Headers kept: about a kilobyte each, more with many snapshots.
_HEADERS = 4096
_DIRECTORIES = 64


class Catalog:
    """The pools, namespaces, images and snapshots below a mount point.

    Attributes:
        root: the entry of the mount point itself.
    """

    def __init__(self, cluster: Cluster, root: Entry) -> None:
        self.root = root
        self._cluster = cluster
        self._names: SingleFlight[dict[str, str]] = SingleFlight(_TTL_S, _DIRECTORIES)
        self._namespaces: SingleFlight[list[str]] = SingleFlight(_TTL_S, _DIRECTORIES)
        self._headers: SingleFlight[ImageAttributes] = SingleFlight(_TTL_S, _HEADERS)
        self._usage: SingleFlight[tuple[int, int]] = SingleFlight(_TTL_S, _DIRECTORIES)
        self._limiter = trio.CapacityLimiter(32)

    @classmethod
    async def open(cls, cluster: Cluster, pool: str, namespace: str) -> Catalog:
        """Return the catalog of a pool or a namespace of it.

        Raises UserError where it does not exist or may not be listed.
        """
        where = f"{pool}/{namespace}" if namespace else pool
        try:
            ioctx = await cluster.ioctx(pool)
            if namespace and not await cluster.namespace_exists(pool, namespace):
                raise UserError(f"no such namespace: {where}")
            key = Key(ioctx.get_pool_id(), namespace or None)
            catalog = cls(cluster, Entry(key, pool, namespace))
            await catalog._image_names(catalog.root)
        except FileNotFoundError:
            raise UserError(f"no such pool: {pool}") from None
        except PermissionError:
            user = f"client.{cluster.user}"
            raise UserError(f"{user} has no permission to list the images of {where}") from None
        except OSError as exc:
            raise UserError(f"cannot list the images of {where}: {exc.strerror}") from exc
        return catalog

    def listing(self, parent: Entry) -> Listing:
        """Return a reading of directory *parent*, which yields file names and entries."""
        if not parent.is_directory:
            raise OSError(errno.ENOTDIR, f"{parent.spec} is not a directory")
        return Listing(partial(self._parts, parent))

    async def find(self, parent: Entry, name: bytes) -> Entry:
        """Return what file name *name* means in directory *parent*.

        Raises OSError: ENOENT, ENAMETOOLONG, or what reading the pool came to.
        """
        try:
            if name.startswith(b"@"):
                return await self._find_namespace(parent, parse_directory_name(name)[0])
            wanted = parse_file_name(name)
        except NameTooLong as exc:
            raise OSError(errno.ENAMETOOLONG, str(exc)) from exc
        except ValueError as exc:
            raise OSError(errno.ENOENT, str(exc)) from exc
        try:
            image_id = await self._image_id(parent, wanted.image)
        except FileNotFoundError:
            if wanted.snap is None and wanted.snap_id is None:
                return await self._find_namespace(parent, wanted.image)
            raise
        attributes = await self._attributes(parent, wanted.image, image_id)
        image = _image_entry(parent, wanted.image, attributes)
        if wanted.snap is None and wanted.snap_id is None:
            return image
        for snap in attributes.snaps:
            if snap.name == wanted.snap and snap.namespace_type == "user":
                return _snap_entry(image, snap)
        raise OSError(errno.ENOENT, f"{image.spec} has no such snapshot")

    async def current(self, entry: Entry) -> Entry:
        """Return *entry* as it is now. Raises OSError ESTALE where it is gone."""
        if entry.is_directory:
            return entry
        parent = Entry(Key(entry.key.pool_id), entry.pool, entry.namespace)
        try:
            attributes = await self._attributes(parent, entry.image, entry.image_id or "")
        except FileNotFoundError:
            raise OSError(errno.ESTALE, f"{entry.spec} was removed") from None
        image = _image_entry(parent, entry.image, attributes)
        if not entry.is_snapshot:
            return image
        for snap in attributes.snaps:
            if snap.snap_id == entry.key.snap_id:
                return _snap_entry(image, snap)
        raise OSError(errno.ESTALE, f"{entry.spec} was removed")

    def changed(self, entry: Entry) -> None:
        """Forget the attributes of *entry*, which this mount has changed."""
        self._headers.invalidate(entry.image_key)

    async def usage(self) -> tuple[int, int]:
        """Return ``(used, available)`` bytes of the pool."""
        pool = self.root.pool
        return await self._usage.get(pool, partial(self._cluster.usage, pool))

    # Reading the cluster.

    async def _call_class(self, parent: Entry, oid: str, method: str, argument: bytes) -> bytes:
        ioctx = await self._cluster.ioctx(parent.pool, parent.namespace)
        call = partial(directory.call_class, ioctx, oid, method, argument)
        return await trio.to_thread.run_sync(call, limiter=self._limiter)

    async def _image_names(self, parent: Entry) -> dict[str, str]:
        """Return image ids by name; the id of an image of format 1 is empty."""

        async def load() -> dict[str, str]:
            names = await directory.list_images(partial(self._call_class, parent))
            ioctx = await self._cluster.ioctx(parent.pool, parent.namespace)
            old = await trio.to_thread.run_sync(
                directory.list_v1_images, ioctx, limiter=self._limiter
            )
            return dict.fromkeys(old, "") | dict(names)

        return await self._names.get((parent.pool, parent.namespace), load)

    async def _namespace_names(self, parent: Entry) -> list[str]:
        async def load() -> list[str]:
            return await directory.list_namespaces(partial(self._call_class, parent))

        # Namespaces do not nest.
        return [] if parent.namespace else await self._namespaces.get(parent.pool, load)

    async def _image_id(self, parent: Entry, name: str) -> str:
        argument = encode_string(name.encode("utf-8", "surrogateescape"))
        try:
            answer = await self._call_class(parent, "rbd_directory", "dir_get_id", argument)
        except FileNotFoundError:
            # Not an image of format 2: the directory of format 1 has to be read as a whole.
            if name in await self._image_names(parent):
                return ""
            raise
        return Decoder(answer).string().decode("ascii")

    async def _attributes(self, parent: Entry, name: str, image_id: str) -> ImageAttributes:
        key = Key(parent.key.pool_id, parent.namespace, image_id or f"/{name}")
        return await self._headers.get(key, partial(self._read_attributes, parent, name, image_id))

    async def _read_attributes(self, parent: Entry, name: str, image_id: str) -> ImageAttributes:
        ioctx = await self._cluster.ioctx(parent.pool, parent.namespace)
        if image_id:
            try:
                return await read_header(omap_reader(self._cluster.bridge, ioctx), image_id)
            except NotUnderstood as exc:
                log.info("opening image %s of %s: %s", image_id, parent.spec, exc)
        inspect = (
            partial(inspect_image, ioctx, image_id=image_id)
            if image_id
            else partial(inspect_image, ioctx, name=name)
        )
        return await trio.to_thread.run_sync(inspect, limiter=self._limiter)

    async def _find_namespace(self, parent: Entry, name: str) -> Entry:
        if name not in await self._namespace_names(parent):
            raise OSError(errno.ENOENT, f"nothing is named {name!a} in {parent.spec}")
        return _namespace_entry(parent, name)

    # Listing.

    async def _parts(self, parent: Entry) -> Sequence[Expand]:
        names = await self._image_names(parent)
        namespaces = await self._namespace_names(parent)
        parts: list[Expand] = [
            partial(self._namespace_items, parent, name, alias=name in names) for name in namespaces
        ]
        parts += [
            partial(self._image_items, parent, name, image_id) for name, image_id in names.items()
        ]
        return parts

    async def _namespace_items(self, parent: Entry, name: str, *, alias: bool) -> list[Item]:
        entry = _namespace_entry(parent, name)
        return _named(entry, partial(directory_name, name, alias=alias))

    async def _image_items(self, parent: Entry, name: str, image_id: str) -> list[Item]:
        try:
            attributes = await self._attributes(parent, name, image_id)
        except FileNotFoundError:
            return []  # removed meanwhile
        except OSError as exc:
            # One image that cannot be read must not hide the others; but where nothing can be
            # read any more, an empty listing would be a lie that a mirror takes for a deletion.
            if exc.errno in (errno.ESHUTDOWN, errno.ETIMEDOUT):
                raise
            log.warning("left out of the listing: %s: %s", parent.spec, exc)
            return []
        image = _image_entry(parent, name, attributes)
        items = _named(image, partial(file_name, name))
        for snap in attributes.snaps:
            if snap.namespace_type == "user":
                items += _named(_snap_entry(image, snap), partial(file_name, name, snap.name))
        return items


def _named(entry: Entry, name: Callable[..., bytes]) -> list[Item]:
    try:
        return [(name(), entry)]
    except ValueError as exc:
        log.warning("left out of the listing: %s: %s", entry.spec[:300], exc)
        return []


def _image_entry(parent: Entry, name: str, attributes: ImageAttributes) -> Entry:
    return Entry(
        Key(parent.key.pool_id, parent.namespace, attributes.image_id or f"/{name}"),
        parent.pool,
        parent.namespace,
        name,
        size=attributes.size,
        order=attributes.order,
        times=Times(attributes.access_ns, attributes.modify_ns, attributes.create_ns),
    )


def _snap_entry(image: Entry, snap: SnapAttributes) -> Entry:
    stamp = snap.timestamp_ns
    return Entry(
        image.key._replace(snap_id=snap.snap_id),
        image.pool,
        image.namespace,
        image.image,
        snap.name,
        size=snap.size,
        order=image.order,
        times=Times(stamp, stamp, stamp),
    )


def _namespace_entry(parent: Entry, name: str) -> Entry:
    return Entry(Key(parent.key.pool_id, name), parent.pool, name)
