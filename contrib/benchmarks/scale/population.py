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
# Bits of an image's features (librbd/features.h).
LAYERING_AND_LOCK = 1 << 0 | 1 << 2
TIB = 1 << 40
# More than any header here has.
_MOST_KEYS = 1 << 20


def image_name(number: int) -> str:
    return f"vm{number:05}"


def make_images(
    conf: Path, pool: str, count: int, size_bytes: int, features: int | None = None
) -> None:
    """Empty images, by default with the features that the cluster gives them."""
    with connected(conf, pool) as (rbd, ioctx):

        def make(number: int) -> None:
            name = image_name(number)
            rbd.RBD().create(ioctx, name, size_bytes, old_format=False, features=features)

        _in_threads(make, count)


def take_snapshots(conf: Path, pool: str, count: int) -> None:
    """One of each image, by librbd."""
    with connected(conf, pool) as (rbd, ioctx):

        def take(number: int) -> None:
            with rbd.Image(ioctx, image_name(number)) as image:
                image.create_snap("s000")

        _in_threads(take, count)


def make_snapshots(conf: Path, pool: str, images: int, snapshots: int) -> None:
    """Images with snapshots: those of the first are librbd's, the others have its records copied.

    A snapshot takes librbd 50 ms, most of it in the mon. They are without object maps: an OSD that
    keeps objects in memory takes 64 KiB for each, of 250,000.
    """
    make_images(conf, pool, images, 64 * MIB, LAYERING_AND_LOCK)
    with connected(conf, pool) as (rbd, ioctx):
        with rbd.Image(ioctx, image_name(0)) as image:
            for number in range(snapshots):
                image.create_snap(f"s{number:03}")
            records = _records(ioctx, image.id())

        def copy(number: int) -> None:
            with rbd.Image(ioctx, image_name(number + 1), read_only=True) as image:
                _set_records(ioctx, image.id(), records)

        _in_threads(copy, images - 1)


def check_snapshots(conf: Path, pool: str, image: str, expected: int) -> None:
    """Raise ValueError unless Ceph itself finds so many snapshots of an image."""
    found = json.loads(run(["rbd", "-c", conf, "snap", "ls", "--format=json", f"{pool}/{image}"]))
    if len(found) != expected:
        raise ValueError(f"{pool}/{image} has {len(found)} snapshots, not {expected}")


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
