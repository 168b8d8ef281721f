"""What a client leaves of an image that dies while librbd makes it, or gives it another name.

librbd keeps a name in two places: the object `rbd_id.NAME` has the image's id, `rbd_directory` has
both; the header is named by the id. It makes the first one first (CreateRequest.cc,
RenameRequest.cc), and answers EEXIST to whoever tries again.
"""

from __future__ import annotations

import contextlib

import rados
import rbd

from rbdfs.ceph.blocking_image import encoded
from rbdfs.ceph.directory_changes import directory_name
from rbdfs.errors import NotUnderstood

_ID_BYTES = 4096


def clear_unfinished(ioctx: rados.Ioctx, name: str) -> None:
    """Remove what is left of an image *name* that has no header, or another name by now.

    Its client has to be dead, and fenced. What is whole, or being moved to the trash, stays. Raises
    rados.Error, rbd.Error and OSError.
    """
    object_name = f"rbd_id.{name}"
    try:
        value = ioctx.read(object_name, _ID_BYTES)
    except rados.ObjectNotFound:
        return
    image_id = value[4:].decode("ascii", "replace")
    if len(value) < 5 or int.from_bytes(value[:4], "little") != len(value) - 4:
        raise NotUnderstood(f"{object_name}: {value[:32]!r} is no id")
    try:
        ioctx.stat(f"rbd_header.{image_id}")
    except rados.ObjectNotFound:
        # librbd says that there is none, having removed the rest.
        with contextlib.suppress(rbd.ImageNotFound):
            rbd.RBD().remove(ioctx, encoded(name))
        return
    if directory_name(ioctx, image_id) not in (None, encoded(name)):
        ioctx.remove_object(object_name)
