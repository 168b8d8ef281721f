"""How librbd is asked for the exclusive lock of an image that is opened for writing."""

from __future__ import annotations

import rbd

from rbdfs.errors import EXIT_USAGE, UserError


def lock_mode(lock: str) -> int | None:
    """Return what `-o lock=` has librbd's lock_acquire() told; None for auto, which does not call.

    Both modes keep the lock until the image is closed. Who asks for it meanwhile gets EROFS where
    it is exclusive, and waits where it is transient.

    Raises UserError where librbd has no such mode: the binding is of its release, and one that does
    not name the mode goes with a librbd that refuses it (EOPNOTSUPP).
    """
    if lock == "auto":
        return None
    mode: int | None = getattr(rbd, _NAMES[lock], None)
    if mode is None:
        raise UserError(f"lock={lock} takes the librbd of Ceph 20.2.1 or later", EXIT_USAGE)
    return mode


_NAMES = {
    "exclusive": "RBD_LOCK_MODE_EXCLUSIVE",
    "transient": "RBD_LOCK_MODE_EXCLUSIVE_TRANSIENT",
}
