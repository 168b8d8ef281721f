"""What makes, removes and renames images, snapshots and namespaces; every function blocks.

Every function raises rbd.Error, rados.Error and OSError: the caller has blocking_image.changing()
translate them. *action* begins the message of a refusal: what is done to which image.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import rbd

from rbdfs.ceph.blocking_image import (
    encoded,
    lockers,
    opened,
    opened_for_change,
    refuse_advisory_lock,
    refuse_watched,
)
from rbdfs.errors import InUse

if TYPE_CHECKING:
    import rados

    from rbdfs.model.entry import Entry


def create_image(ioctx: rados.Ioctx, name: str, order: int | None, data_pool: str | None) -> None:
    """Make an image of size 0 with the cluster's default features; None is its default too."""
    rbd.RBD().create(ioctx, encoded(name), 0, order=order, old_format=False, data_pool=data_pool)


def move_to_trash(ioctx: rados.Ioctx, entry: Entry, action: str) -> None:
    """Move the image of *entry* to the trash; raise InUse where a client watches or locks it."""
    with opened(ioctx, entry) as image:
        # librbd itself looks at the owner of the exclusive lock only. Who opens the image from
        # now on keeps it, in the trash.
        for client, _cookie, address in lockers(image):
            raise InUse(f"{action}: locked by {client} at {address}")
        refuse_watched(image, f"{action}: the image")
    rbd.RBD().trash_move(ioctx, encoded(entry.image), 0)


def remove_snapshot(ioctx: rados.Ioctx, entry: Entry, action: str) -> None:
    """Remove the snapshot *entry*, for good."""
    with opened_for_change(ioctx, entry, action) as image:
        # By id: its name may have been given to another one meanwhile.
        image.remove_snap_by_id(entry.key.snap_id)


def rename_image(ioctx: rados.Ioctx, entry: Entry, name: str, action: str) -> None:
    """Rename the image of *entry* to *name*, within its namespace."""
    with opened(ioctx, entry) as image:
        refuse_advisory_lock(image, action)
    rbd.RBD().rename(ioctx, encoded(entry.image), encoded(name))


def rename_snapshot(ioctx: rados.Ioctx, entry: Entry, name: str, action: str) -> None:
    """Rename the snapshot *entry* to *name*."""
    assert entry.snap is not None
    with opened_for_change(ioctx, entry, action) as image:
        image.rename_snap(encoded(entry.snap), encoded(name))


def create_namespace(ioctx: rados.Ioctx, name: str) -> None:
    """Make namespace *name* in the pool of *ioctx*."""
    rbd.RBD().namespace_create(ioctx, encoded(name))


def remove_namespace(ioctx: rados.Ioctx, name: str) -> None:
    """Remove namespace *name*; librbd answers EBUSY where it has images, in its trash too."""
    rbd.RBD().namespace_remove(ioctx, encoded(name))
