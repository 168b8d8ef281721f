"""What is in the pools: thousands of images, snapshots, large images."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from benchmarks.ceph import MIB, connected
from benchmarks.process import run

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

THREADS = 16
TIB = 1 << 40
# More than any header here has.
_MOST_KEYS = 1 << 20


def image_name(number: int) -> str:
    return f"vm{number:05}"


def make_images(conf: Path, pool: str, count: int, size_bytes: int) -> None:
    """Empty images, with the features that the cluster gives by default."""
    with connected(conf, pool) as (rbd, ioctx):

        def make(number: int) -> None:
            rbd.RBD().create(ioctx, image_name(number), size_bytes, old_format=False)

        _in_threads(make, count)


def make_snapshots(conf: Path, pool: str, images: int, snapshots: int) -> None:
    """Images with snapshots: those of the first are librbd's, the others have its records copied.

    A snapshot takes librbd 50 ms, most of it in the mon. What rbdfs reads of one is its record in
    the image's header and its object map, and both are copied.
    """
    make_images(conf, pool, images, 64 * MIB)
    with connected(conf, pool) as (rbd, ioctx):
        with rbd.Image(ioctx, image_name(0)) as image:
            image.write(b"data", 0)
            for number in range(snapshots):
                image.create_snap(f"s{number:03}")
            image_id, snap_ids = image.id(), [snap["id"] for snap in image.list_snaps()]
        records = _records(ioctx, image_id)
        maps = [(f".{snap:016x}", ioctx.read(_map(image_id, snap))) for snap in snap_ids]

        def copy(number: int) -> None:
            with rbd.Image(ioctx, image_name(number + 1), read_only=True) as image:
                copy_id = image.id()
            for suffix, states in maps:
                ioctx.write_full(f"rbd_object_map.{copy_id}{suffix}", states)
            _set_records(ioctx, copy_id, records)

        _in_threads(copy, images - 1)


def check_snapshots(conf: Path, pool: str, image: str, expected: int) -> None:
    """Raise ValueError unless Ceph itself finds so many snapshots of an image."""
    found = json.loads(run(["rbd", "-c", conf, "snap", "ls", "--format=json", f"{pool}/{image}"]))
    if len(found) != expected:
        raise ValueError(f"{pool}/{image} has {len(found)} snapshots, not {expected}")


def _map(image_id: str, snap_id: int) -> str:
    return f"rbd_object_map.{image_id}.{snap_id:016x}"


def _records(ioctx: Any, image_id: str) -> dict[str, bytes]:
    """What a header has because of its snapshots."""
    # Debian's, as in connected().
    import rados

    with rados.ReadOpCtx() as operation:
        found, _ = ioctx.get_omap_vals(operation, "", "snap", _MOST_KEYS)
        ioctx.operate_read_op(operation, f"rbd_header.{image_id}")
        return dict(found)


def _set_records(ioctx: Any, image_id: str, records: dict[str, bytes]) -> None:
    import rados

    with rados.WriteOpCtx() as operation:
        ioctx.set_omap(operation, tuple(records), tuple(records.values()))
        ioctx.operate_write_op(operation, f"rbd_header.{image_id}")


def _in_threads(make: Callable[[int], None], count: int) -> None:
    with ThreadPoolExecutor(THREADS) as threads:
        list(threads.map(make, range(count)))
