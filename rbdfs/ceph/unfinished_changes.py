"""What a client leaves of an image that dies while librbd makes it, or gives it another name.

librbd keeps a name in two places: the object `rbd_id.NAME` has the image's id, `rbd_directory` has
both; the header is named by the id. An image that is made is in the directory first, then has its
`rbd_id` object, then its header (CreateRequest.cc of 16.2); one that is renamed has the new
`rbd_id` object first, then the directory is told, and the old object goes (RenameRequest.cc).
Whichever is there, librbd answers EEXIST to whoever tries again.

For some milliseconds all that others make and rename looks the same. So what a client has left is
what has its own image's id, or one that it made; and only what stays as it is for a while. All
functions block, and raise rados.Error, rbd.Error and OSError.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass

import rados

from rbdfs.ceph.blocking_image import encoded, is_utf8
from rbdfs.ceph.class_changes import change_by_class
from rbdfs.ceph.directory_changes import (
    DIRECTORY,
    ID_BYTES,
    decode_id,
    directory_name,
    listed_id,
)
from rbdfs.model.encoding import encode_string

# RBD_MAX_IMAGE_ID_LENGTH, and the hexadecimal digits of a random number of 32 bits.
_MAX_IMAGE_ID = 14
_RANDOM_DIGITS = range(1, 9)
# What an OSD answers, and more, where an object does not have the bytes that it is to have.
_OTHER_BYTES = 4095


@dataclass(frozen=True, slots=True)
class Half:
    """The places of a name that have an id and are to be removed; None for one that stays."""

    noted: str | None
    listed: str | None


def half_made(ioctx: rados.Ioctx, name: str, maker: str | None) -> Half | None:
    """Return what is there of an image *name* that has no header, and is of client *maker*.

    That is its number, in hexadecimal digits; None for anybody's. None where nothing is: what is
    whole, being moved to the trash, or half-renamed, is not half-made.
    """
    noted, listed = (
        image_id
        if image_id and made_by(image_id, maker) and not _has_header(ioctx, image_id)
        else None
        for image_id in (_noted_id(ioctx, name), listed_id(ioctx, encoded(name)))
    )
    return Half(noted, listed) if noted or listed else None


def half_renamed(ioctx: rados.Ioctx, name: str, image_id: str) -> Half | None:
    """Return *name* for image *image_id* where only its `rbd_id` object has it; None elsewhere."""
    if _noted_id(ioctx, name) != image_id or not _has_header(ioctx, image_id):
        return None
    # In no directory is what is on its way to the trash.
    stays = directory_name(ioctx, image_id) in (None, encoded(name))
    return None if stays else Half(image_id, None)


def remove_half(ioctx: rados.Ioctx, name: str, half: Half) -> None:
    """Remove *half* of what *name* has, where it is still that."""
    if half.noted is not None:
        with rados.WriteOpCtx() as operation:
            operation.cmpext(encode_string(half.noted.encode()), 0)
            operation.remove()
            _operate(ioctx, operation, _id_object(name))
    # In this order: nobody makes an image of the name while the directory has it.
    if half.listed is not None:
        argument = encode_string(encoded(name)) + encode_string(half.listed.encode())
        try:
            change_by_class(ioctx, DIRECTORY, "dir_remove_image", argument)
        except rados.ObjectNotFound:
            pass
        except rados.Error as exc:
            # The name has another id by now.
            if getattr(exc, "errno", None) != errno.ESTALE:
                raise


def _operate(ioctx: rados.Ioctx, operation: rados.WriteOp, oid: str) -> None:
    try:
        ioctx.operate_write_op(operation, oid)
    except rados.Error as exc:
        if (getattr(exc, "errno", None) or 0) < _OTHER_BYTES:
            raise


def made_by(image_id: str, maker: str | None) -> bool:
    """Tell whether client *maker* has made *image_id*; None: whoever that was, it did.

    librbd puts the client's number before a random one, both in hexadecimal digits, and keeps the
    end of that (generate_image_id() in src/librbd/Utils.cc).
    """
    return maker is None or any(
        image_id == (maker + image_id[-digits:])[-_MAX_IMAGE_ID:] for digits in _RANDOM_DIGITS
    )


def _id_object(name: str) -> str:
    return f"rbd_id.{name}"


def _noted_id(ioctx: rados.Ioctx, name: str) -> str | None:
    """Return the id that the `rbd_id` object of *name* has; None where there is none."""
    if not is_utf8(encoded(name)):
        # The binding takes no such name of an object. The directory has what was half-made; what
        # was half-renamed stays.
        return None
    try:
        value = ioctx.read(_id_object(name), ID_BYTES)
    except rados.ObjectNotFound:
        return None
    return decode_id(value, _id_object(name))


def _has_header(ioctx: rados.Ioctx, image_id: str) -> bool:
    try:
        ioctx.stat(f"rbd_header.{image_id}")
    except rados.ObjectNotFound:
        return False
    return True
