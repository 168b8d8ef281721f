"""Attributes of images and snapshots, read from their header objects without opening them.

An image of format 2 keeps them in the omap of ``rbd_header.ID``, where object class rbd
(src/cls/rbd) writes them. One read operation brings all of it at one point in time, leaves no
watcher and takes no lock. The methods of the class would give the same values in five requests
for the image and one for each snapshot, and the binding's asynchronous call of them is unsafe: an
answer that is longer than its buffer is copied beyond the buffer's end.

What is not understood raises NotUnderstood. Where it is of a later version, the caller opens the
image read-only instead; anything else is nothing that a librbd should be let loose on.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any

from rbdfs.ceph.errors import from_ceph
from rbdfs.errors import NotUnderstood
from rbdfs.metadata.pool_directory import is_image_id, is_namespace
from rbdfs.metadata.stamps import GROWING
from rbdfs.model.encoding import Decoder
from rbdfs.model.file_name import SNAP_ID_MAX
from rbdfs.model.image_attributes import ImageAttributes, ParentSpec, SnapAttributes
from rbdfs.model.ownership import OWNERSHIP_KEYS, Ownership, ownership_in

if TYPE_CHECKING:
    from rbdfs.ceph.aio import AioBridge

_Omap = dict[str, bytes]

ReadOmap = Callable[[str, tuple[str, ...], str, str], Awaitable[tuple[_Omap, _Omap]]]
"""``(oid, keys, prefix, start_after)`` -> the values of *keys*, and a page of those whose keys
begin with *prefix* and come after *start_after*, both of one moment. Raises OSError."""

_SNAP_PREFIX = "snapshot_"
# Of the keys of image-meta (METADATA_KEY_PREFIX of src/cls/rbd/cls_rbd.cc).
_META_PREFIX = "metadata_"
_GROWING = f"{_META_PREFIX}{GROWING}"
_KEYS = (
    "size",
    "order",
    "features",
    "flags",
    "stripe_unit",
    "stripe_count",
    "create_timestamp",
    "access_timestamp",
    "modify_timestamp",
    "data_pool_id",
    "parent",
    _GROWING,
    *(f"{_META_PREFIX}{key}" for key in OWNERSHIP_KEYS),
)
_PAGE_KEYS = 512
# RBD_FEATURE_MIGRATING of rbd/features.h: source and target of a migration have it.
_MIGRATING = 1 << 9
_NAMESPACE_TYPES = {0: "user", 1: "group", 2: "trash", 3: "mirror"}
MAX_DEPTH = 16
"""Most images that are each the parent of the one before (RBD_MAX_PARENT_CHAIN_LEN of krbd)."""

# A sector, and what still is a size in 63 bits.
_MIN_ORDER = 9
_MAX_ORDER = 62


async def read_header(read_omap: ReadOmap, image_id: str) -> ImageAttributes:
    """Read the attributes of the image with *image_id* and of its snapshots.

    Raises OSError (ENOENT: no such image) and NotUnderstood.
    """
    oid = f"rbd_header.{image_id}"
    values, page = await read_omap(oid, _KEYS, _SNAP_PREFIX, "")
    snaps = dict(page)
    # An OSD may send fewer than were asked for (osd_max_omap_entries_per_request), and the
    # binding does not tell whether there are more: only an empty page is the end.
    while page:
        last = max(page)
        _, page = await read_omap(oid, (), _SNAP_PREFIX, last)
        if page and min(page) <= last:
            raise NotUnderstood(f"{oid}: keys up to {last} again")
        snaps.update(page)
    return decode_header(image_id, values, snaps)


async def read_head(read_omap: ReadOmap, image_id: str) -> ImageAttributes:
    """Read the attributes as read_header() does, but of no snapshot; raises the same.

    One request, however many snapshots there are.
    """
    values, _ = await read_omap(f"rbd_header.{image_id}", _KEYS, "size", "")
    return decode_header(image_id, values, {})


def decode_header(
    image_id: str, values: Mapping[str, bytes], snaps: Mapping[str, bytes]
) -> ImageAttributes:
    """Decode the omap of a header object: *values* by key, *snaps* by their keys.

    The layout is the one of src/cls/rbd/cls_rbd.cc ("Object keys"). Raises NotUnderstood; only
    what is a LaterVersion may be for librbd to open.
    """
    order = _take(values, "order", Decoder.u8)
    if not _MIN_ORDER <= order <= _MAX_ORDER:
        # Not for librbd to open: it divides by the object size, and that kills the process.
        raise NotUnderstood(f"image {image_id} has objects of 2^{order} bytes")
    records = [_decode_keyed_snap(key, snaps[key]) for key in sorted(snaps)]
    parent = decode_parent(values["parent"]) if "parent" in values else None
    return ImageAttributes(
        image_id=image_id,
        size=_take(values, "size", Decoder.u64),
        order=order,
        features=_take(values, "features", Decoder.u64),
        create_ns=_take(values, "create_timestamp", Decoder.timestamp_ns, 0),
        access_ns=_take(values, "access_timestamp", Decoder.timestamp_ns, 0),
        modify_ns=_take(values, "modify_timestamp", Decoder.timestamp_ns, 0),
        snaps=tuple(snap for snap, _ in records),
        data_pool_id=_take(values, "data_pool_id", Decoder.i64, -1),
        parent=parent,
        flags=_take(values, "flags", Decoder.u64, 0),
        striped=_is_striped(values, 1 << order),
        # As parent_get() of the object class looks for it.
        snap_parent=next((found for _, found in records if found and not parent), None),
        marked=_GROWING in values,
        ownership=_ownership(values),
    )


def _ownership(values: Mapping[str, bytes]) -> Ownership:
    found = {key: values.get(f"{_META_PREFIX}{key}", b"") for key in OWNERSHIP_KEYS}
    return ownership_in({key: found[key].decode("ascii", "replace") for key in found if found[key]})


def _is_striped(values: Mapping[str, bytes], object_size: int) -> bool:
    unit = _take(values, "stripe_unit", Decoder.u64, object_size)
    count = _take(values, "stripe_count", Decoder.u64, 1)
    return (unit, count) != (object_size, 1)


def _take(
    values: Mapping[str, bytes],
    key: str,
    take: Callable[[Decoder], int],
    default: int | None = None,
) -> int:
    if key not in values:
        if default is None:
            raise NotUnderstood(f"a header without {key}")
        return default
    decoder = Decoder(values[key])
    value = take(decoder)
    decoder.finish()
    return value


def _decode_keyed_snap(key: str, data: bytes) -> tuple[SnapAttributes, ParentSpec | None]:
    snap, parent = decode_snap(data)
    if key != f"{_SNAP_PREFIX}{snap.snap_id:016x}":
        raise NotUnderstood(f"snapshot {snap.snap_id} under {key!r}")
    return snap, parent


def decode_snap(data: bytes) -> tuple[SnapAttributes, ParentSpec | None]:
    """Decode a cls_rbd_snap (src/cls/rbd/cls_rbd.h), any version. Raises NotUnderstood.

    The second value is the snapshot's own parent, which only records of old releases have.
    """
    record = Decoder(data)
    version, compat, body = record.versioned(understood=8)
    record.finish()
    snap_id, name, size = body.u64(), body.text(), body.u64()
    if not 0 < snap_id <= SNAP_ID_MAX:
        # 0 stands for an image, whose file may be written to.
        raise NotUnderstood(f"a snapshot with id {snap_id}")
    parent_overlap, parent = 0, None
    if compat < 8:
        # Until Nautilus a snapshot had features and a parent of its own. Such records stay
        # as they are until somebody changes the snapshot.
        body.u64()
        parent = _take_parent(body) if version >= 2 else None
        parent_overlap = (parent.overlap or 0) if parent else 0
    protected = version >= 3 and body.u8() != 0
    flags = body.u64() if version >= 4 else 0
    namespace_type = _decode_namespace_type(body) if version >= 5 else "user"
    timestamp_ns = body.timestamp_ns() if version >= 6 else 0
    if version >= 7:
        body.u32()  # child_count
    if version >= 8:
        parent_overlap = max(parent_overlap, body.optional_u64() or 0)
    snap = SnapAttributes(
        snap_id, name, namespace_type, size, timestamp_ns, protected, flags, parent_overlap
    )
    return snap, parent


def _decode_namespace_type(body: Decoder) -> str | int:
    _, _, namespace = body.versioned(understood=1)
    number = namespace.u32()
    return _NAMESPACE_TYPES.get(number, number)


def decode_parent(data: bytes) -> ParentSpec | None:
    """Decode a cls_rbd_parent; None where there is no parent. Raises NotUnderstood."""
    record = Decoder(data)
    parent = _take_parent(record)
    record.finish()
    return parent


async def read_parent(read_omap: ReadOmap, image_id: str) -> ParentSpec | None:
    """Read only what an image was cloned from.

    Raises OSError; NotUnderstood also where librbd would look for a migration.
    """
    oid = f"rbd_header.{image_id}"
    values, _ = await read_omap(oid, ("features", "parent", "migration"), "parent", "")
    if "migration" in values or _take(values, "features", Decoder.u64) & _MIGRATING:
        raise NotUnderstood(f"{oid}: a migration")
    return decode_parent(values["parent"]) if "parent" in values else None


def _take_parent(record: Decoder) -> ParentSpec | None:
    version, _, body = record.versioned(understood=2)
    pool_id = body.i64()
    pool_namespace = body.text() if version >= 2 else ""
    image_id, snap_id = body.text(), body.u64()
    overlap = body.optional_u64() if version >= 2 else body.u64()
    if pool_id < 0 or not image_id:
        return None
    if not is_image_id(image_id) or not is_namespace(pool_namespace):
        raise NotUnderstood(f"a parent with id {image_id!a} in namespace {pool_namespace!a}")
    return ParentSpec(pool_id, pool_namespace, image_id, snap_id, overlap)


def omap_reader(bridge: AioBridge, ioctx: Any) -> ReadOmap:
    """Return a ReadOmap for the objects of *ioctx* (a ``rados.Ioctx``)."""

    async def read_omap(
        oid: str, keys: tuple[str, ...], prefix: str, start_after: str
    ) -> tuple[_Omap, _Omap]:
        action = f"{oid}: reading the omap"
        with from_ceph(action):
            operation = ioctx.create_read_op()
            try:
                values, _ = ioctx.get_omap_vals_by_keys(operation, keys)
                page, _ = ioctx.get_omap_vals(operation, start_after, prefix, _PAGE_KEYS)
                await bridge.call(
                    action, lambda done: ioctx.operate_aio_read_op(operation, oid, done)
                )
                # Hundreds of snapshots take some milliseconds to decode, here and in the caller.
                await bridge.pace.share()
                # The binding makes None of an empty value.
                return (
                    {key: value or b"" for key, value in values},
                    {key: value or b"" for key, value in page},
                )
            except UnicodeDecodeError as exc:
                raise NotUnderstood(f"{oid}: a key that is not UTF-8") from exc
            finally:
                ioctx.release_read_op(operation)

    return read_omap
