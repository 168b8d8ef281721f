"""What a client leaves of an image that dies while librbd makes it, or gives it another name.

librbd keeps a name in two places: the object `rbd_id.NAME` has the image's id, `rbd_directory` has
both; the header is named by the id. An image that is made is in the directory first, then has its
`rbd_id` object, then its header (CreateRequest.cc of 16.2); one that is renamed has the new
`rbd_id` object first, then the directory is told, and the old object goes (RenameRequest.cc).
Whichever is there, librbd answers EEXIST to whoever tries again.
"""

from __future__ import annotations

import contextlib

import rados
import rbd

from rbdfs.ceph.blocking_image import encoded, is_utf8
from rbdfs.ceph.directory_changes import directory_name
from rbdfs.errors import NotUnderstood

_DIRECTORY = "rbd_directory"
_ID_BYTES = 4096


def clear_unfinished(ioctx: rados.Ioctx, name: str) -> None:
    """Remove what is left of an image *name* that has no header, or another name by now.

    Its client has to be dead, and fenced. What is whole, or being moved to the trash, stays. Raises
    rados.Error, rbd.Error and OSError.
    """
    noted = _noted_id(ioctx, name)
    if noted is not None and _has_header(ioctx, noted):
        if directory_name(ioctx, noted) in (None, encoded(name)):
            return
        ioctx.remove_object(_id_object(name))
        noted = None
    listed = _listed_id(ioctx, encoded(name))
    if (noted is None and listed is None) or (listed is not None and _has_header(ioctx, listed)):
        return
    # librbd says that there is none, having removed the rest.
    with contextlib.suppress(rbd.ImageNotFound):
        rbd.RBD().remove(ioctx, encoded(name))


def _id_object(name: str) -> str:
    return f"rbd_id.{name}"


def _noted_id(ioctx: rados.Ioctx, name: str) -> str | None:
    """Return the id that the `rbd_id` object of *name* has; None where there is none."""
    if not is_utf8(encoded(name)):
        # The binding takes no such name of an object. The directory has what was half-made; what
        # was half-renamed stays.
        return None
    try:
        value = ioctx.read(_id_object(name), _ID_BYTES)
    except rados.ObjectNotFound:
        return None
    return _id(value, _id_object(name))


def _listed_id(ioctx: rados.Ioctx, name: bytes) -> str | None:
    """Return the id that the directory has for *name*; None where it has none."""
    argument = len(name).to_bytes(4, "little") + name
    try:
        # The binding takes no key of a name that is not UTF-8.
        _, value = ioctx.execute(_DIRECTORY, "rbd", "dir_get_id", argument, _ID_BYTES)
    except rados.ObjectNotFound:
        return None
    return _id(value, f"{_DIRECTORY}: {name!r}")


def _id(value: bytes, where: str) -> str:
    """Return the id in an encoded string; what is taken for another one would have no header."""
    image_id = value[4:]
    if not image_id or int.from_bytes(value[:4], "little") != len(image_id):
        raise NotUnderstood(f"{where}: {value[:32]!r} is no id")
    if not image_id.isascii() or b"\0" in image_id:
        raise NotUnderstood(f"{where}: {image_id[:32]!r} is no id of librbd's")
    return image_id.decode()


def _has_header(ioctx: rados.Ioctx, image_id: str) -> bool:
    try:
        ioctx.stat(f"rbd_header.{image_id}")
    except rados.ObjectNotFound:
        return False
    return True
