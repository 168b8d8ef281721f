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
    return _by_snapshot(source, snap, clone) or _by_pool(target, snap, clone)


def _by_snapshot(source: Any, snap: Key, clone: Key) -> bool:
    """Look for a clone of format 2, in the header of the image."""
    try:
        answer = call_class(
            source, f"rbd_header.{snap.image_id}", "children_list", encode_u64(snap.snap_id)
        )
    except Missing:
        return False
    children = Decoder(answer)
    found = False
    for _ in range(children.u32()):
        # A cls::rbd::ChildImageSpec.
        version, _compat, body = children.versioned(_CHILD_SPEC_VERSION)
        pool_id, image_id = body.i64(), body.text()
        namespace = body.text() if version >= _CHILD_SPEC_VERSION else ""
        found |= (pool_id, namespace, image_id) == (clone.pool_id, clone.namespace, clone.image_id)
    return found


def _by_pool(target: Any, snap: Key, clone: Key) -> bool:
    """Look for a clone of format 1, in the pool that it is in."""
    parent = _I64.pack(snap.pool_id) + encode_string(snap.image_id.encode())
    try:
        answer = call_class(
            target, "rbd_children", "get_children", parent + encode_u64(snap.snap_id)
        )
    except Missing:
        return False
    children = Decoder(answer)
    return clone.image_id in [children.text() for _ in range(children.u32())]
