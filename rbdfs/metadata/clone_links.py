"""What a snapshot, or the pool of a clone, has noted of who is whose clone.

It keeps the snapshot from being removed. librbd notes it after it has told the clone of its parent
(AttachParentRequest.cc, then AttachChildRequest.cc): who dies between the two leaves a clone that
can be read until somebody removes the snapshot.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

from rbdfs.errors import Missing
from rbdfs.metadata.pool_directory import call_class
from rbdfs.model.encoding import Decoder, encode_string, encode_u64

if TYPE_CHECKING:
    from rbdfs.model.entry import Key

# Since version 2 a child may be in a namespace.
_CHILD_SPEC_VERSION = 2
_I64 = struct.Struct("<q")


def is_noted(source: Any, snap: Key, target: Any, clone: Key) -> bool:
    """Tell whether *clone* is noted as one of *snap*; block until that is known.

    *source* and *target* are what ``rados.Ioctx`` they are in. Raises OSError and NotUnderstood.
    """
    child = (clone.pool_id, clone.namespace, clone.image_id)
    return child in noted_by_snapshot(source, snap) or clone.image_id in noted_by_pool(target, snap)


def noted_by_snapshot(source: Any, snap: Key) -> set[tuple[int, str, str]]:
    """Return pool id, namespace and id of the clones of format 2 of *snap*; block as is_noted().

    The header of the image has them, wherever they are. Raises as is_noted().
    """
    try:
        answer = call_class(
            source, f"rbd_header.{snap.image_id}", "children_list", encode_u64(snap.snap_id)
        )
    except Missing:
        return set()
    children = Decoder(answer)
    found = set()
    for _ in range(children.u32()):
        # A cls::rbd::ChildImageSpec.
        version, _compat, body = children.versioned(_CHILD_SPEC_VERSION)
        pool_id, image_id = body.i64(), body.text()
        namespace = body.text() if version >= _CHILD_SPEC_VERSION else ""
        found.add((pool_id, namespace, image_id))
    return found


def noted_by_pool(target: Any, snap: Key) -> set[str]:
    """Return the ids of the clones of format 1 of *snap* in *target*; block as is_noted().

    Each pool has those that are in it, and in the same namespace of it. Raises as is_noted().
    """
    parent = _I64.pack(snap.pool_id) + encode_string(snap.image_id.encode())
    try:
        answer = call_class(
            target, "rbd_children", "get_children", parent + encode_u64(snap.snap_id)
        )
    except Missing:
        return set()
    children = Decoder(answer)
    return {children.text() for _ in range(children.u32())}
