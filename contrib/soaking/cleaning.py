"""Empties pools: `python cleaning.py CONF POOL...`, in a process that can be killed."""

from __future__ import annotations

import contextlib
import sys

import rados
import rbd

# A clone of a clone of a clone.
ROUNDS = 4


def _empty(ioctx: rados.Ioctx) -> list[str]:
    """Remove what can be removed of a pool; return why something is left."""
    left = []
    for name in rbd.RBD().list(ioctx):
        try:
            rbd.RBD().trash_move(ioctx, name, 0)
        except rbd.Error as exc:
            left.append(f"{name}: {exc}")
    for image_id in _trash(ioctx):
        try:
            _remove(ioctx, image_id)
        except rbd.Error as exc:
            # Perhaps a parent, whose clone is removed in the next round.
            left.append(f"{image_id} in the trash: {exc}")
    for namespace in rbd.RBD().namespace_list(ioctx):
        rbd.RBD().namespace_remove(ioctx, namespace)
    return left


def _trash(ioctx: rados.Ioctx) -> list[str]:
    # Of an image that `rbd rm` has begun to remove, the binding raises IndexError.
    with contextlib.suppress(rados.ObjectNotFound), rados.ReadOpCtx() as read:
        keys, _ = ioctx.get_omap_keys(read, "", 4096)
        ioctx.operate_read_op(read, "rbd_trash")
        return [key.removeprefix("id_") for key, _ in keys]
    return []


def _remove(ioctx: rados.Ioctx, image_id: str) -> None:
    with rbd.Image(ioctx, image_id=image_id) as image:
        for snap in list(image.list_snaps()):
            if image.is_protected_snap(snap["name"]):
                image.unprotect_snap(snap["name"])
            image.remove_snap(snap["name"])
    rbd.RBD().trash_remove(ioctx, image_id, force=True)


def main(conf: str, *pools: str) -> str | None:
    """Return what is left, for sys.exit()."""
    left: list[str] = []
    with rados.Rados(conffile=conf) as client:
        for _ in range(ROUNDS):
            left = []
            for pool in pools:
                with client.open_ioctx(pool) as ioctx:
                    left += _empty(ioctx)
            if not left:
                return None
    return "; ".join(left)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
