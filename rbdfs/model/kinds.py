"""Entries of each kind, made from what the inventory knows."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from rbdfs.model.entry import Entry, Key, Times

if TYPE_CHECKING:
    from rbdfs.metadata.image_header import ImageAttributes, SnapAttributes

USER = "user"


def find_snap(attributes: ImageAttributes, snap_id: int) -> SnapAttributes | None:
    """Return the snapshot with *snap_id* among *attributes*, or None."""
    return next((snap for snap in attributes.snaps if snap.snap_id == snap_id), None)


def image_entry(parent: Entry, name: str, attributes: ImageAttributes) -> Entry:
    """Return the entry of image *name* in directory *parent*."""
    return Entry(
        Key(parent.key.pool_id, parent.namespace, attributes.image_id or f"/{name}"),
        parent.pool,
        parent.namespace,
        name,
        size=attributes.size,
        order=attributes.order,
        times=Times(attributes.access_ns, attributes.modify_ns, attributes.create_ns),
    )


def snap_entry(image: Entry, snap: SnapAttributes) -> Entry:
    """Return the entry of a snapshot of *image*."""
    stamp = snap.timestamp_ns
    return replace(
        image,
        key=image.key._replace(snap_id=snap.snap_id),
        # The name of a snapshot in the trash or of a mirror is Ceph's own affair.
        snap=snap.name if snap.namespace_type == USER else None,
        size=snap.size,
        times=Times(stamp, stamp, stamp),
    )


def partition_entry(whole: Entry, number: int, offset: int, size: int) -> Entry:
    """Return the entry of a partition of *whole*, which is at ``offset~size``."""
    return replace(
        whole,
        key=whole.key._replace(partition=number),
        offset=offset,
        size=size,
        # That of the whole says little about a part.
        allocated=None,
    )


def namespace_entry(parent: Entry, name: str) -> Entry:
    """Return the entry of a namespace of pool *parent*."""
    return Entry(Key(parent.key.pool_id, name), parent.pool, name)
