"""The steps of librbd's live migration, and what stands in their way; every one of them blocks.

Every function raises rbd.Error, rados.Error and OSError: the caller has ceph.errors translate them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import rbd

from rbdfs.ceph.blocking_image import encoded, holders, opened, refuse_watched
from rbdfs.ceph.class_changes import change_by_class
from rbdfs.ceph.directory_changes import directory_name, refuse_renamed
from rbdfs.ceph.trash_changes import move_to_trash
from rbdfs.errors import InUse

if TYPE_CHECKING:
    from collections.abc import Callable, Container

    import rados

    from rbdfs.model.entry import Entry

# RBD_OPERATION_FEATURE_CLONE_CHILD of rbd/features.h: a clone of format 2.
_CLONE_CHILD = 1 << 1


def prepare(
    ioctx: rados.Ioctx, source: Entry, target: rados.Ioctx, name: str, data_pool: str | None
) -> None:
    """Make image *source* come to be *name* in *target*; EBUSY while anybody has it open to write.

    librbd knows it by its name: which image it was has to be looked at afterwards. Raises Missing
    where another one has the name already.
    """
    refuse_renamed(ioctx, source, f"moving {source.spec}")
    rbd.RBD().migration_prepare(
        ioctx,
        encoded(source.image),
        target,
        encoded(name),
        # The binding wants bytes here, unlike create().
        data_pool=None if data_pool is None else data_pool.encode(),
    )


def execute(target: rados.Ioctx, name: str, on_progress: Callable[[int, int], int]) -> None:
    """Copy what target *name* does not have yet; librbd cannot be told to stop."""
    rbd.RBD().migration_execute(target, encoded(name), on_progress)


def commit(target: rados.Ioctx, name: str, on_progress: Callable[[int, int], int]) -> None:
    """Remove the source of target *name*; librbd cannot be told to stop."""
    rbd.RBD().migration_commit(target, encoded(name), on_progress)


def abort(ioctx: rados.Ioctx, name: str) -> None:
    """Undo the migration of *name*: a target, or a source that has none."""
    rbd.RBD().migration_abort(ioctx, encoded(name))


def refuse_locked(ioctx: rados.Ioctx, entry: Entry, dead: Container[str] = ()) -> None:
    """Raise InUse where a client has a lock of the image, which librbd would ask for for ever.

    Those at the addresses *dead* are fenced. librbd looks at the watchers itself.
    """
    with opened(ioctx, entry) as image:
        for client, address in holders(image, dead):
            raise InUse(f"{entry.spec} is locked by {client} at {address}")


def refuse_clone(ioctx: rados.Ioctx, entry: Entry, *, namespaces: bool) -> None:
    """Raise InUse for a clone that is watched; with *namespaces*, for one of format 1 too."""
    with opened(ioctx, entry) as image:
        if namespaces and not image.op_features() & _CLONE_CHILD:
            raise InUse(f"clone {entry.spec} has an old link to its parent")
        refuse_watched(image, f"clone {entry.spec}")


def refuse_open(ioctx: rados.Ioctx, entry: Entry, own: Container[str] = ()) -> None:
    """Raise InUse where a client has the image of *entry* open for writing, or did 30 s ago.

    Those at the addresses *own* do not count.
    """
    with opened(ioctx, entry) as image:
        refuse_watched(image, entry.spec, own)


def list_clones(ioctx: rados.Ioctx, entry: Entry) -> list[dict[str, str]]:
    """Return the clones of the image of *entry*, and theirs, as librbd describes them."""
    with opened(ioctx, entry) as image:
        return list(image.list_descendants())


def remove_unwritten(ioctx: rados.Ioctx, target: Entry) -> None:
    """Remove image *target*; raise InUse where somebody has written to it, or watches it.

    By its name librbd would remove, for good, what has that name by then.
    """
    assert target.image_id is not None
    extents: list[tuple[int, int, bool]] = []
    with opened(ioctx, target) as image:
        image.diff_iterate(0, image.size(), None, lambda *extent: extents.append(extent))
        if extents:
            raise InUse(f"{target.spec} was written to")
    # Who died between the two has left it in the trash.
    if directory_name(ioctx, target.image_id) is not None:
        move_to_trash(ioctx, target, f"removing {target.spec}", 0)
    rbd.RBD().trash_remove(ioctx, target.image_id, True)


def remove_committed(ioctx: rados.Ioctx, source: Entry) -> None:
    """Remove a source in the trash whose commit had got past unmarking the target."""
    assert source.image_id is not None
    refuse_open(ioctx, source)
    # librbd opens no image for writing that is marked as the source of a migration.
    change_by_class(ioctx, f"rbd_header.{source.image_id}", "migration_remove")
    with opened(ioctx, source, read_only=False) as image:
        for snap in list(image.list_snaps()):
            if image.is_protected_snap(snap["name"]):
                image.unprotect_snap(snap["name"])
            image.remove_snap_by_id(snap["id"])
    rbd.RBD().trash_remove(ioctx, source.image_id, True)
