"""Changes by a method of object class rbd, where librbd's binding has no call for it."""

from __future__ import annotations

import rados

# LIBRADOS_OPERATION_FULL_TRY of rados/librados.h, which the binding does not have.
_FULL_TRY = 64


def change_by_class(ioctx: rados.Ioctx, oid: str, method: str, argument: bytes = b"") -> None:
    """Call *method*, which writes to *oid* and takes no room; block. Raises rados.Error.

    ``Ioctx.execute`` would send it as a read. An OSD drops what writes, without an answer, when its
    client has not heard yet that the pool or the cluster has become full (do_op of
    PrimaryLogPG.cc), and librados sends only writes again: the call would never return. With
    FULL_TRY nothing is dropped, and what takes no room is done in a full pool as well.
    """
    with rados.WriteOpCtx() as operation:
        operation.execute("rbd", method, argument)
        ioctx.operate_write_op(operation, oid, flags=_FULL_TRY)
