"""Empties pools: `python cleaning.py CONF POOL...`, in a process that can be killed."""

from __future__ import annotations

import sys

import rados
import rbd


def _empty(ioctx: rados.Ioctx) -> bool:
    """Remove what can be removed of a pool; return whether anything is left."""
    for name in rbd.RBD().list(ioctx):
        rbd.RBD().trash_move(ioctx, name, 0)
    for namespace in rbd.RBD().namespace_list(ioctx):
        rbd.RBD().namespace_remove(ioctx, namespace)
    left = False
    for entry in rbd.RBD().trash_list(ioctx):
        try:
            with rbd.Image(ioctx, image_id=entry["id"]) as image:
                for snap in list(image.list_snaps()):
                    if image.is_protected_snap(snap["name"]):
                        image.unprotect_snap(snap["name"])
                    image.remove_snap(snap["name"])
            rbd.RBD().trash_remove(ioctx, entry["id"], force=True)
        except rbd.Error:
            # A clone that is removed in the next round, perhaps in the other pool.
            left = True
    return left


def main(conf: str, *pools: str) -> None:
    with rados.Rados(conffile=conf) as client:
        for _ in range(4):
            left = False
            for pool in pools:
                with client.open_ioctx(pool) as ioctx:
                    left |= _empty(ioctx)
            if not left:
                return


if __name__ == "__main__":
    main(*sys.argv[1:])
