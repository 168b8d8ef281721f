"""What moves images to the trash and brings them back; every function blocks.

Every function raises rbd.Error, rados.Error and OSError: the caller has blocking_image.changing()
translate them. *action* begins the message of a refusal: what is done to which image.

librbd moves to the trash by name only: see directory_changes.
"""

from __future__ import annotations

import errno
import logging
import time
from typing import TYPE_CHECKING, NoReturn

import rados
import rbd

from rbdfs.ceph.blocking_image import encoded, holders, opened, refuse_watched
from rbdfs.ceph.directory_changes import directory_name, omap_values, refuse_renamed
from rbdfs.errors import InUse, Missing
from rbdfs.model.file_name import ImageSpec

if TYPE_CHECKING:
    from collections.abc import Container

    from rbdfs.model.entry import Entry

_TRASH = "rbd_trash"
_PAGE_KEYS = 512
# cls::rbd::TRASH_IMAGE_SOURCE_USER: neither a migration nor `rbd rm` has put it there.
_BY_USER = b"\0"
_NS_A_SECOND = 1_000_000_000

log = logging.getLogger(__name__)


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
    name = encoded(entry.image)
    refuse_renamed(ioctx, entry, action)
    begun = time.time_ns()
    try:
        rbd.RBD().trash_move(ioctx, name, expire_s)
    except rbd.Error as exc:
        # Since Ceph 20, of a member of a group; the bindings before have no class for it.
        if getattr(exc, "errno", None) != errno.EMLINK:
            raise
        _refuse_member(ioctx, entry, action)
    if entry.image_id is not None:
        _check_moved(ioctx, entry, action, begun)


def _check_moved(ioctx: rados.Ioctx, entry: Entry, action: str, begun: int) -> None:
    """Raise Missing unless it is the image of *entry* that was moved since *begun*, in ns.

    Another one comes back. That the image is in the trash does not tell, as somebody else may have
    been quicker; when it came there does. Only where that was not now, all of the trash is looked
    through, which may have thousands: nobody has the name meanwhile.
    """
    assert entry.image_id is not None
    name, ended = encoded(entry.image), time.time_ns()
    left = directory_name(ioctx, entry.image_id) is None
    if left and _is_of(_record(ioctx, entry.image_id), name, begun, ended):
        return
    wrong = _trashed(ioctx, name, begun, ended) - {entry.image_id}
    for image_id in wrong:
        _bring_back(ioctx, image_id, entry)
    if wrong or not left:
        raise Missing(f"{action}: another image has this name now")


def _bring_back(ioctx: rados.Ioctx, image_id: str, entry: Entry) -> None:
    """Take an image out of the trash that was moved there instead of *entry*."""
    try:
        rbd.RBD().trash_restore(ioctx, image_id, encoded(entry.image))
    except rbd.Error as exc:
        where = ImageSpec(entry.pool, entry.namespace, image_id)
        log.error(
            "an image that was named %s meanwhile is in the trash, and stays there: %s: "
            "rbd trash restore %s",
            entry.spec,
            exc,
            where,
        )


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


def _record(ioctx: rados.Ioctx, image_id: str | None) -> bytes:
    """Return the record of an image in the trash, where none is of format 1; b"" of no image."""
    key = f"id_{image_id}"
    try:
        return omap_values(ioctx, _TRASH, (key,)).get(key, b"")
    except rados.ObjectNotFound:
        # Nothing ever was.
        return b""


def restore_from_trash(ioctx: rados.Ioctx, entry: Entry) -> bool:
    """Take the image of *entry* out of the trash, with the name that it had; tell if it was there.

    Raises rbd.ImageExists where something else has the name now.
    """
    if not _record(ioctx, entry.image_id):
        return False
    rbd.RBD().trash_restore(ioctx, entry.image_id, encoded(entry.image))
    return True


def _trashed(ioctx: rados.Ioctx, name: bytes, begun: int, ended: int) -> set[str]:
    """Return the ids of all in the trash whose records are as _is_of() says."""
    found, last = set(), ""
    while page := _omap_page(ioctx, _TRASH, last):
        found |= {
            key.removeprefix("id_")
            for key, value in page.items()
            if _is_of(value, name, begun, ended)
        }
        last = max(page)
    return found


def _is_of(record: bytes, name: bytes, begun: int, ended: int) -> bool:
    """Tell whether *record* is of what had *name* when a user moved it, *begun* to *ended*, in ns.

    A clock of somebody else may be ahead: what is to come was not now.
    """
    # A cls::rbd::TrashImageSpec: version, compat, length; source, name, deletion time.
    end = 11 + int.from_bytes(record[7:11], "little")
    seconds, nanoseconds = (int.from_bytes(record[at : at + 4], "little") for at in (end, end + 4))
    named = record[6:7] == _BY_USER and record[11:end] == name
    return named and begun <= seconds * _NS_A_SECOND + nanoseconds <= ended


def _omap_page(ioctx: rados.Ioctx, oid: str, last: str) -> dict[str, bytes]:
    with rados.ReadOpCtx() as operation:
        values, _ = ioctx.get_omap_vals(operation, last, "", _PAGE_KEYS)
        ioctx.operate_read_op(operation, oid)
        return {key: value or b"" for key, value in values}
