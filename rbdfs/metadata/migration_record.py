"""What the headers and the trash of a pool tell of live migrations, read without opening images.

Once a migration is prepared, the source is in its pool's trash, from source MIGRATION, and both
headers have a ``migration`` record that names the other image. librbd's own calls for this fail on
such a pool: the binding's ``trash_list()`` raises IndexError, and ``migration_status()`` says the
source's pool where it means the target's.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING

import rados
import rbd

from rbdfs.errors import Missing, NotUnderstood
from rbdfs.metadata.pool_directory import call_class, is_image_id, is_namespace
from rbdfs.model.encoding import Decoder, encode_string, encode_u64

if TYPE_CHECKING:
    from rbdfs.metadata.image_header import ReadOmap

_PAGE_NAMES = 1024
_SOURCE = 1
# RBD_FEATURE_MIGRATING of rbd/features.h: source and target have it.
MIGRATING = 1 << 9
# cls::rbd::TRASH_IMAGE_SOURCE_MIGRATION.
TRASH_MIGRATION = 2
_TRASH = "rbd_trash"
# cls::rbd::trash::image_key() of src/cls/rbd/cls_rbd.cc.
_KEY = "id_"
# cls::rbd::TRASH_IMAGE_SOURCE_USER and TRASH_IMAGE_STATE_NORMAL.
_USER = 0
_NORMAL = 0
# Version, compat and length of cls::rbd::TrashImageSpec come before its source.
_SOURCE_OFFSET = 6


class State(enum.IntEnum):
    """How far a migration has come (cls::rbd::MigrationState)."""

    ERROR = 0
    PREPARING = 1
    PREPARED = 2
    EXECUTING = 3
    EXECUTED = 4
    ABORTING = 5


@dataclass(frozen=True, slots=True)
class MigrationHeader:
    """The ``migration`` record of one image; everything but ``is_source`` is of the other one."""

    is_source: bool
    pool_id: int
    namespace: str
    image: str
    image_id: str
    state: State


async def read_migration(read_omap: ReadOmap, image_id: str) -> MigrationHeader | None:
    """Return the record of an image; None where it is not being migrated.

    Raises OSError (ENOENT: no such image) and NotUnderstood.
    """
    # Asking for a key that is always there tells an image without a record from none at all.
    oid = f"rbd_header.{image_id}"
    values, _ = await read_omap(oid, ("size", "migration"), "migration", "")
    return decode_migration(values["migration"]) if "migration" in values else None


def decode_migration(data: bytes) -> MigrationHeader:
    """Decode a cls::rbd::MigrationSpec (src/cls/rbd/cls_rbd_types.h). Raises NotUnderstood."""
    record = Decoder(data)
    _, _, body = record.versioned(understood=3)
    record.finish()
    kind, pool_id, namespace = body.u8(), body.i64(), body.text()
    image, image_id = body.text(), body.text()
    if not is_namespace(namespace) or (image_id and not is_image_id(image_id)):
        raise NotUnderstood(f"a migration of id {image_id!a} in namespace {namespace!a}")
    for _ in range(body.u32()):
        body.u64(), body.u64()  # ids of a snapshot here and there
    body.u64()  # overlap
    body.u8(), body.u8()  # flatten, mirroring
    number = body.u8()
    try:
        state = State(number)
    except ValueError:
        raise NotUnderstood(f"a migration in state {number}") from None
    return MigrationHeader(kind == _SOURCE, pool_id, namespace, image, image_id, state)


def list_migration_sources(ioctx: rados.Ioctx) -> dict[str, str]:
    """Return names by image id of the sources of migrations in a pool or namespace; blocks.

    Raises OSError and NotUnderstood.
    """
    sources: dict[str, str] = {}
    last = b""
    while True:
        argument = encode_string(last) + encode_u64(_PAGE_NAMES)
        try:
            page = Decoder(call_class(ioctx, "rbd_trash", "trash_list", argument))
        except Missing:
            return sources
        ids = []
        for _ in range(page.u32()):
            image_id = page.string()
            ids.append(image_id)
            _, _, spec = page.versioned(understood=2)
            if spec.u8() == TRASH_MIGRATION:
                text = image_id.decode("utf-8", "surrogateescape")
                if not is_image_id(text):
                    raise NotUnderstood(f"{_TRASH}: an image with id {text!a:.80}")
                sources[text] = spec.text()
        page.finish()
        if len(ids) < _PAGE_NAMES:
            return sources
        if max(ids) <= last:
            raise NotUnderstood(f"rbd_trash: ids up to {last!r} again")
        last = max(ids)


def restore_source(ioctx: rados.Ioctx, image_id: str, name: bytes) -> None:
    """Take the image with *image_id* back out of the trash under *name*; blocks.

    librbd.api.Migration.prepare() puts the source there first, and marks its header after that. A
    client that dies in between leaves an image that no command of Ceph reaches: `rbd migration
    abort` finds no migration, and `rbd trash restore` takes no image from this source.

    Raises OSError, rados.Error and rbd.Error: ENOENT where it is not in the trash as the source of
    a migration, EEXIST where another image has the name: `rbd trash restore --image` gives it
    another one then.
    """
    disown_source(ioctx, image_id)
    # Also where librbd had not got as far as to remove the name.
    rbd.RBD().trash_restore(ioctx, image_id, name)


def disown_source(ioctx: rados.Ioctx, image_id: str) -> None:
    """Have the image with *image_id* in the trash be one that a user has put there; blocks.

    Raises OSError and rados.Error: ENOENT where it is not there as the source of a migration, EIO
    (NotUnderstood) for a record that makes no sense, which stays as it is.
    """
    spec = call_class(ioctx, _TRASH, "trash_get", encode_string(image_id.encode("ascii")))
    # The class has a method that changes the state, but none for the source.
    with rados.WriteOpCtx() as operation:
        ioctx.set_omap(operation, (_KEY + image_id,), (_removed_by_user(spec, image_id),))
        ioctx.operate_write_op(operation, _TRASH)


def _removed_by_user(data: bytes, image_id: str) -> bytes:
    record = Decoder(data)
    _, _, spec = record.versioned(understood=2)
    record.finish()
    if spec.u8() != TRASH_MIGRATION:
        raise Missing(f"image id {image_id} is in the trash for another reason")
    length = len(spec.string())
    spec.u64(), spec.u64()  # when it was removed, and until when it is kept
    spec.u8()
    changed = bytearray(data)
    changed[_SOURCE_OFFSET] = _USER
    changed[_SOURCE_OFFSET + 1 + 4 + length + 2 * 8] = _NORMAL
    return bytes(changed)
