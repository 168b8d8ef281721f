"""What makes, removes and renames images, snapshots and namespaces; every function blocks.

Every function raises rbd.Error, rados.Error and OSError: the caller has blocking_image.changing()
translate them. *action* begins the message of a refusal: what is done to which image.

librbd moves to the trash and renames by name only. Between the look at an image, by its id, and the
change another client can have given its name to another image: which one it was is looked at
afterwards, and undone if it was the wrong one.
"""

from __future__ import annotations

import errno
import logging
import time
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

import rados
import rbd

from rbdfs.ceph.blocking_image import (
    encoded,
    holders,
    opened,
    opened_for_change,
    refuse_advisory_lock,
    refuse_watched,
)
from rbdfs.errors import InUse, Missing
from rbdfs.model.file_name import ImageSpec

if TYPE_CHECKING:
    from collections.abc import Container

    from rbdfs.model.entry import Entry

_DIRECTORY = "rbd_directory"
_TRASH = "rbd_trash"
_PAGE_KEYS = 512
# So many clones are named in a message.
_TOLD = 10

log = logging.getLogger(__name__)


def create_image(ioctx: rados.Ioctx, name: str, order: int | None, data_pool: str | None) -> None:
    """Make an image of size 0 with the cluster's default features; None is its default too."""
    rbd.RBD().create(ioctx, encoded(name), 0, order=order, old_format=False, data_pool=data_pool)


def move_to_trash(
    ioctx: rados.Ioctx, entry: Entry, action: str, expire_s: int, dead: Container[str] = ()
) -> None:
    """Move the image of *entry* to the trash, where a purge leaves it for *expire_s* seconds.

    Raises InUse where a client watches or locks it that is not *dead*, and fenced, and where librbd
    keeps it because it is in a group; Missing where another image has its name.
    """
    with opened(ioctx, entry) as image:
        # librbd itself looks at the owner of the exclusive lock only. Who opens the image from
        # now on keeps it, in the trash.
        for client, address in holders(image, dead):
            raise InUse(f"{action}: locked by {client} at {address}")
        refuse_watched(image, f"{action}: the image", dead)
    name, begun = encoded(entry.image), int(time.time())
    try:
        rbd.RBD().trash_move(ioctx, name, expire_s)
    except rbd.Error as exc:
        # Since Ceph 20, of a member of a group; the bindings before have no class for it.
        if getattr(exc, "errno", None) != errno.EMLINK:
            raise
        _refuse_member(ioctx, entry, action)
    if entry.image_id is None or _is_in_trash(ioctx, entry):
        return
    for image_id in _trashed_since(ioctx, name, begun):
        rbd.RBD().trash_restore(ioctx, image_id, name)
    raise Missing(f"{action}: another image has this name now")


def _refuse_member(ioctx: rados.Ioctx, entry: Entry, action: str) -> NoReturn:
    """Raise InUse for an image that is in a group; the log says in which."""
    with opened(ioctx, entry) as image:
        try:
            found = image.group()
        except UnicodeDecodeError:
            raise InUse(f"{action}: it is in a group whose name is not UTF-8") from None
    same = found["pool"] == ioctx.get_pool_id()
    where = ImageSpec(entry.pool if same else f"id:{found['pool']}", entry.namespace, found["name"])
    log.warning(
        "%s is refused: %s is in group %s: `rbd group image rm %s %s` takes it out",
        *(action, entry.spec, where, where, entry.spec),
    )
    raise InUse(f"{action}: it is in group {where}")


def _is_in_trash(ioctx: rados.Ioctx, entry: Entry) -> bool:
    """Tell whether the image of *entry* is in the trash, where none is of format 1."""
    try:
        return bool(_omap_values(ioctx, _TRASH, (f"id_{entry.image_id}",)))
    except rados.ObjectNotFound:
        # Nothing ever was.
        return False


def restore_from_trash(ioctx: rados.Ioctx, entry: Entry) -> bool:
    """Take the image of *entry* out of the trash, with the name that it had; tell if it was there.

    Raises rbd.ImageExists where something else has the name now.
    """
    if not _is_in_trash(ioctx, entry):
        return False
    rbd.RBD().trash_restore(ioctx, entry.image_id, encoded(entry.image))
    return True


def _trashed_since(ioctx: rados.Ioctx, name: bytes, begun: int) -> list[str]:
    """Return the ids of what was moved to the trash under *name* since *begun*, in seconds."""
    found, last = [], ""
    while page := _omap_page(ioctx, _TRASH, last):
        for key, value in page.items():
            # A cls::rbd::TrashImageSpec: version, compat, length; source, name, deletion time.
            length = int.from_bytes(value[7:11], "little")
            seconds = int.from_bytes(value[11 + length : 15 + length], "little")
            if value[11 : 11 + length] == name and seconds >= begun:
                found.append(key.removeprefix("id_"))
        last = max(page)
    return found


def _omap_page(ioctx: rados.Ioctx, oid: str, last: str) -> dict[str, bytes]:
    with rados.ReadOpCtx() as operation:
        values, _ = ioctx.get_omap_vals(operation, last, "", _PAGE_KEYS)
        ioctx.operate_read_op(operation, oid)
        return {key: value or b"" for key, value in values}


def _omap_values(ioctx: rados.Ioctx, oid: str, keys: tuple[str, ...]) -> dict[str, bytes]:
    with rados.ReadOpCtx() as operation:
        values, _ = ioctx.get_omap_vals_by_keys(operation, keys)
        ioctx.operate_read_op(operation, oid)
        return {key: value or b"" for key, value in values}


def clone_snapshot(
    source: rados.Ioctx,
    snap: Entry,
    target: rados.Ioctx,
    name: str,
    data_pool: str | None,
    action: str,
) -> None:
    """Make image *name* in *target*, a clone of *snap*, which is in *source*.

    librbd clones by names: whose clone it is has to be looked at afterwards. Where the clients that
    the cluster lets in are too old for anything else, the snapshot is protected, as `rbd clone`
    would have it; it stays so, unless there is no clone in the end.
    """
    assert snap.snap is not None
    snapshot = encoded(snap.snap)
    clone = partial(_clone, source, snap, target, encoded(name), data_pool)
    try:
        clone()
        return
    except rbd.InvalidArgument:
        pass
    with opened_for_change(source, snap, action) as opened_image:
        # Others may clone it, too: librbd says EBUSY where they have protected it meanwhile.
        protected = True
        try:
            opened_image.protect_snap(snapshot)
        except rbd.ImageBusy:
            protected = False
        try:
            clone()
        except BaseException:
            if protected:
                _unprotect(opened_image, snapshot, snap)
            raise
    if protected:
        log.info(
            "%s is protected: require-min-compat-client is older than mimic, and clones want it so",
            snap.spec,
        )


def _clone(
    source: rados.Ioctx, snap: Entry, target: rados.Ioctx, name: bytes, data_pool: str | None
) -> None:
    assert snap.snap is not None
    clone, image = rbd.RBD().clone, encoded(snap.image)
    try:
        clone(source, image, encoded(snap.snap), target, name, data_pool=data_pool)
    except TypeError:
        # The binding of Ceph 20 takes no bytes for this name, but an id.
        clone(source, image, snap.key.snap_id, target, name, data_pool=data_pool)


def _unprotect(image: rbd.Image, snapshot: bytes, snap: Entry) -> None:
    """Take back the protection of a snapshot, unless others have a clone of it meanwhile."""
    try:
        image.unprotect_snap(snapshot)
    except rbd.Error as exc:
        log.warning("%s stays protected: %s", snap.spec, exc)


def directory_name(ioctx: rados.Ioctx, image_id: str) -> bytes | None:
    """Return the name that the directory has for an image; None where it has none."""
    key = f"id_{image_id}"
    value = _omap_values(ioctx, _DIRECTORY, (key,)).get(key)
    # An encoded string.
    return None if value is None else value[4:]


def remove_snapshot(ioctx: rados.Ioctx, entry: Entry, action: str) -> None:
    """Remove the snapshot *entry*, for good.

    Raises InUse where it has clones; the log names some.
    """
    with opened_for_change(ioctx, entry, action) as image:
        image.set_snap_by_id(entry.key.snap_id)
        if clones := [_spec(child) for child in image.list_children2()]:
            told = ", ".join(clones[:_TOLD]) + ", ..." * (len(clones) > _TOLD)
            log.warning("%s is refused: it has clones: %s", action, told)
            raise InUse(f"{action}: it has clones")
        image.set_snap(None)
        # By id: its name may have been given to another one meanwhile.
        image.remove_snap_by_id(entry.key.snap_id)


def _spec(child: dict[str, Any]) -> str:
    namespace = f"{child['pool_namespace']}/" if child["pool_namespace"] else ""
    trashed = " (in the trash)" if child["trash"] else ""
    return f"{child['pool']}/{namespace}{child['image']}{trashed}"


def refuse_locked(ioctx: rados.Ioctx, entry: Entry, action: str) -> None:
    """Raise InUse where rename_image() would, because of an advisory lock."""
    with opened(ioctx, entry) as image:
        refuse_advisory_lock(image, action)


def rename_image(ioctx: rados.Ioctx, entry: Entry, name: str, action: str) -> None:
    """Rename the image of *entry* to *name*, within its namespace.

    Raises Missing where another image has its name.
    """
    refuse_locked(ioctx, entry, action)
    old, new = encoded(entry.image), encoded(name)
    rbd.RBD().rename(ioctx, old, new)
    if entry.image_id is None:
        return
    if directory_name(ioctx, entry.image_id) != new:
        rbd.RBD().rename(ioctx, new, old)
        raise Missing(f"{action}: another image has this name now")


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
