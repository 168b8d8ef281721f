"""Attributes of an image learnt by opening it: for what the header reader does not understand."""

from __future__ import annotations

import contextlib
from datetime import UTC
from typing import TYPE_CHECKING

import rbd

from rbdfs.ceph.blocking_image import encoded
from rbdfs.ceph.errors import from_ceph
from rbdfs.errors import NotUnderstood
from rbdfs.model.image_attributes import ImageAttributes, SnapAttributes
from rbdfs.model.ownership import NOT_ASKED_FOR, OWNERSHIP_KEYS, Ownership, ownership_in

if TYPE_CHECKING:
    from datetime import datetime

    import rados

_NAMESPACE_TYPES = {
    rbd.RBD_SNAP_NAMESPACE_TYPE_USER: "user",
    rbd.RBD_SNAP_NAMESPACE_TYPE_GROUP: "group",
    rbd.RBD_SNAP_NAMESPACE_TYPE_TRASH: "trash",
    rbd.RBD_SNAP_NAMESPACE_TYPE_MIRROR: "mirror",
}


def inspect_image(
    ioctx: rados.Ioctx, *, name: str | None = None, image_id: str | None = None
) -> ImageAttributes:
    """Open an image read-only, by *image_id* or by *name*, and return its attributes; blocks.

    A read-only image leaves no watcher. Timestamps have whole seconds only. The parent is left
    out, and so are the flags: librbd tells a snapshot's only when that is opened in its turn.
    Raises OSError with librbd's errno, and NotUnderstood where a name is not UTF-8, which the
    binding cannot return.
    """
    what = f"image {image_id or ascii(name)}"
    try:
        with from_ceph(f"inspecting {what}"):
            return _inspect(ioctx, None if name is None else encoded(name), image_id)
    except UnicodeError as exc:
        raise NotUnderstood(f"{what}: a name that is not UTF-8") from exc


def _inspect(ioctx: rados.Ioctx, name: bytes | None, image_id: str | None) -> ImageAttributes:
    with rbd.Image(ioctx, name, image_id=image_id, read_only=True) as image:
        old_format, order = image.old_format(), image.stat()["order"]
        return ImageAttributes(
            image_id="" if old_format else image.id(),
            size=image.size(),
            order=order,
            features=image.features(),
            create_ns=0 if old_format else _ns(image.create_timestamp()),
            access_ns=0 if old_format else _ns(image.access_timestamp()),
            modify_ns=0 if old_format else _ns(image.modify_timestamp()),
            snaps=tuple(
                SnapAttributes(
                    snap_id=snap["id"],
                    name=snap["name"],
                    namespace_type=_NAMESPACE_TYPES.get(snap["namespace"], snap["namespace"]),
                    size=snap["size"],
                    timestamp_ns=0 if old_format else _ns(image.get_snap_timestamp(snap["id"])),
                    protected=not old_format and image.is_protected_snap(snap["name"]),
                    flags=None,
                    parent_overlap=None,
                )
                for snap in image.list_snaps()
            ),
            data_pool_id=image.data_pool_id(),
            parent=None,
            flags=None,
            striped=(image.stripe_unit(), image.stripe_count()) != (1 << order, 1),
            ownership=NOT_ASKED_FOR if old_format else _ownership(image),
        )


def _ownership(image: rbd.Image) -> Ownership:
    found = {}
    for key in OWNERSHIP_KEYS:
        # A value that is not UTF-8 makes no sense either.
        with contextlib.suppress(KeyError, UnicodeDecodeError):
            found[key] = image.metadata_get(key)
    return ownership_in(found)


def _ns(timestamp: datetime) -> int:
    # The binding makes a naive datetime of UTC.
    return int(timestamp.replace(tzinfo=UTC).timestamp()) * 10**9
