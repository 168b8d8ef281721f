"""Taking an image back out of a pool's trash that librbd has put there to migrate it.

librbd.api.Migration.prepare() does that first, and marks the image's header after it. A client
that dies in between leaves an image that no command of Ceph reaches: `rbd migration abort` finds
no migration, and `rbd trash restore` takes no image from this source.
"""

from __future__ import annotations

import errno

import rados
import rbd

from rbdfs.metadata.encoding import Decoder, encode_string
from rbdfs.metadata.migration_record import TRASH_MIGRATION
from rbdfs.metadata.pool_directory import call_class

_TRASH = "rbd_trash"
# cls::rbd::trash::image_key() of src/cls/rbd/cls_rbd.cc.
_KEY = "id_"
# cls::rbd::TRASH_IMAGE_SOURCE_USER and TRASH_IMAGE_STATE_NORMAL.
_USER = 0
_NORMAL = 0
# Version, compat and length of cls::rbd::TrashImageSpec come before its source.
_SOURCE_OFFSET = 6


def restore_source(ioctx: rados.Ioctx, image_id: str, name: bytes) -> None:
    """Give the image with *image_id* the name *name* back; blocks.

    Raises OSError, rados.Error and rbd.Error: ENOENT where it is not in the trash as the source of
    a migration, EEXIST where another image has the name: `rbd trash restore --image` gives it
    another one then.
    """
    spec = call_class(ioctx, _TRASH, "trash_get", encode_string(image_id.encode("ascii")))
    # The class has a method that changes the state, but none for the source.
    with rados.WriteOpCtx() as operation:
        ioctx.set_omap(operation, (_KEY + image_id,), (_removed_by_user(spec, image_id),))
        ioctx.operate_write_op(operation, _TRASH)
    # Also where librbd had not got as far as to remove the name.
    rbd.RBD().trash_restore(ioctx, image_id, name)


def _removed_by_user(data: bytes, image_id: str) -> bytes:
    _, _, spec = Decoder(data).versioned(understood=2)
    if spec.u8() != TRASH_MIGRATION:
        raise OSError(errno.ENOENT, f"image id {image_id} is in the trash for another reason")
    length = len(spec.string())
    changed = bytearray(data)
    changed[_SOURCE_OFFSET] = _USER
    changed[_SOURCE_OFFSET + 1 + 4 + length + 2 * 8] = _NORMAL
    return bytes(changed)
