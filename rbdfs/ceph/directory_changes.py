"""What makes, removes and renames images, snapshots and namespaces; every function blocks.

Every function raises rbd.Error, rados.Error and OSError: the caller has blocking_image.changing()
translate them. *action* begins the message of a refusal: what is done to which image.

librbd renames by name only. Between the look at an image, by its id, and the change another client
can have given its name to another image: which one it was is looked at afterwards. A move to the
trash is undone if it was the wrong one. A renaming is not: what has the new name afterwards may
have been given it since.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING, Any

import rados
import rbd

from rbdfs.ceph.blocking_image import (
    encoded,
    opened,
    opened_for_change,
    refuse_advisory_lock,
)
from rbdfs.errors import InUse, Missing, NotUnderstood
from rbdfs.model.encoding import encode_string

if TYPE_CHECKING:
    from rbdfs.model.entry import Entry

DIRECTORY = "rbd_directory"
# More than an encoded id has, by far.
ID_BYTES = 4096
# So many clones are named in a message.
_TOLD = 10

log = logging.getLogger(__name__)


def create_image(ioctx: rados.Ioctx, name: str, order: int | None, data_pool: str | None) -> None:
    """Make an image of size 0 with the cluster's default features; None is its default too."""
    rbd.RBD().create(ioctx, encoded(name), 0, order=order, old_format=False, data_pool=data_pool)


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


def omap_values(ioctx: rados.Ioctx, oid: str, keys: tuple[str, ...]) -> dict[str, bytes]:
    with rados.ReadOpCtx() as operation:
        values, _ = ioctx.get_omap_vals_by_keys(operation, keys)
        ioctx.operate_read_op(operation, oid)
        return {key: value or b"" for key, value in values}


def directory_name(ioctx: rados.Ioctx, image_id: str) -> bytes | None:
    """Return the name that the directory has for an image; None where it has none."""
    key = f"id_{image_id}"
    value = omap_values(ioctx, DIRECTORY, (key,)).get(key)
    # An encoded string.
    return None if value is None else value[4:]


def listed_id(ioctx: rados.Ioctx, name: bytes) -> str | None:
    """Return the id that the directory has for *name*; None where it has none."""
    try:
        # The binding takes no key of a name that is not UTF-8.
        _, value = ioctx.execute(DIRECTORY, "rbd", "dir_get_id", encode_string(name), ID_BYTES)
    except rados.ObjectNotFound:
        return None
    return decode_id(value, f"{DIRECTORY}: {name!r}")


def decode_id(value: bytes, where: str) -> str:
    """Return the id in an encoded string; what is taken for another one would have no header."""
    image_id = value[4:]
    if not image_id or value != encode_string(image_id):
        raise NotUnderstood(f"{where}: {value[:32]!r} is no id")
    if not image_id.isascii() or b"\0" in image_id:
        raise NotUnderstood(f"{where}: {image_id[:32]!r} is no id of librbd's")
    return image_id.decode()


def refuse_renamed(ioctx: rados.Ioctx, entry: Entry, action: str) -> None:
    """Raise Missing where the image of *entry* does not have its name any more.

    What it is then opened by, its id, still finds it: under another name, or in the trash.
    """
    if entry.image_id is not None and directory_name(ioctx, entry.image_id) != encoded(entry.image):
        raise Missing(f"{action}: it does not have this name any more")


def refuse_locked(ioctx: rados.Ioctx, entry: Entry, action: str) -> None:
    """Raise InUse where rename_image() would, because of an advisory lock."""
    with opened(ioctx, entry) as image:
        refuse_advisory_lock(image, action)


def rename_image(ioctx: rados.Ioctx, entry: Entry, name: str, action: str) -> None:
    """Rename the image of *entry* to *name*, within its namespace.

    Raises Missing where another image has its name, or *name* afterwards: that may be one that was
    given the old name at the last moment, and is renamed now. It may as well have come after the
    renaming, when this image was renamed once more: nothing is changed on a guess.
    """
    refuse_locked(ioctx, entry, action)
    refuse_renamed(ioctx, entry, action)
    new = encoded(name)
    rbd.RBD().rename(ioctx, encoded(entry.image), new)
    if entry.image_id is None or directory_name(ioctx, entry.image_id) == new:
        return
    # Where nothing has the name, it was this image that got it, and it went on to another one.
    if (other := listed_id(ioctx, new)) in (None, entry.image_id):
        return
    log.error(
        "%s: image %s has the new name: if that had the old one, `rbd rename` gives it back",
        action,
        other,
    )
    raise Missing(f"{action}: another image has this name now")


def rename_snapshot(ioctx: rados.Ioctx, entry: Entry, name: str, action: str) -> None:
    """Rename the snapshot *entry* to *name*.

    Raises Missing where another snapshot has its name: librbd renames by names.
    """
    assert entry.snap is not None
    with opened_for_change(ioctx, entry, action) as image:
        if image.snap_get_id(encoded(entry.snap)) != entry.key.snap_id:
            raise Missing(f"{action}: another snapshot has this name now")
        image.rename_snap(encoded(entry.snap), encoded(name))


def create_namespace(ioctx: rados.Ioctx, name: str) -> None:
    """Make namespace *name* in the pool of *ioctx*."""
    rbd.RBD().namespace_create(ioctx, encoded(name))


def remove_namespace(ioctx: rados.Ioctx, name: str) -> None:
    """Remove namespace *name*; librbd answers EBUSY where it has images, in its trash too."""
    rbd.RBD().namespace_remove(ioctx, encoded(name))
