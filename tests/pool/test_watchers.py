"""Looking at a pool leaves nothing on its images: no watcher, at no time."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
import rbd

from tests.support.ceph import run
from tests.support.conditions import SEEN_S, eventually
from tests.support.images import MIB
from tests.support.mounts import opened
from tests.support.servers import repeatedly

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.ceph import Ceph
    from tests.support.mounts import Mounting

IMAGES = 300
# With an object map, which is read for st_blocks; and with a snapshot.
WITH_MAP, WITH_SNAPSHOT = 20, 100
FEATURES = rbd.RBD_FEATURE_LAYERING | rbd.RBD_FEATURE_EXCLUSIVE_LOCK
NAMES = [f"image-{number:03}" for number in range(IMAGES)]
SNAPSHOTS = [f"{name}@s" for name in NAMES[:WITH_SNAPSHOT]]


@pytest.fixture(scope="module")
def images(pool: str, ioctx: Any) -> str:
    def make(number: int) -> None:
        features = None if number < WITH_MAP else FEATURES
        rbd.RBD().create(ioctx, NAMES[number], MIB, features=features)
        if number < WITH_SNAPSHOT:
            with rbd.Image(ioctx, NAMES[number]) as image:
                image.create_snap("s")

    # librbd waits most of the time.
    with ThreadPoolExecutor(16) as threads:
        list(threads.map(make, range(IMAGES)))
    return pool


def watched(ioctx: Any) -> list[str]:
    """The images that somebody watches, after a look at each of them."""

    def is_watched(name: str) -> bool:
        # A read-only image does not watch.
        with rbd.Image(ioctx, name, read_only=True) as image:
            return bool(list(image.watchers_list()))

    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(is_watched, NAMES))
    return [name for name, is_watched in zip(NAMES, found, strict=True) if is_watched]


def look_around(path: Path, stamp: Path) -> None:
    """All that only looks, at every image and every snapshot."""
    everything = [str(path / name) for name in (*NAMES, *SNAPSHOTS)]
    # This one opens them, to ask who uses them.
    some = [str(path / name) for name in (NAMES[0], SNAPSHOTS[0], *NAMES[3::4])]
    for command in (
        ["ls", "-lR", str(path)],
        ["du", "-a", str(path)],
        ["find", str(path), "-newer", str(stamp)],
        ["stat", *everything],
        ["getfattr", "-d", *some],
    ):
        assert {"image-000", "image-000@s", NAMES[-1]} <= set(_names(run(*command))), command


def _names(output: str) -> list[str]:
    return [word.rpartition("/")[2] for word in output.split()]


def test_the_count_notices_a_watcher(ioctx: Any, images: str) -> None:
    with rbd.Image(ioctx, NAMES[7]):
        assert watched(ioctx) == [NAMES[7]]
    assert watched(ioctx) == []


def test_no_image_is_watched(ioctx: Any, images: str, mounting: Mounting, tmp_path: Path) -> None:
    stamp = tmp_path / "stamp"
    stamp.touch()
    os.utime(stamp, (1, 1))
    with mounting(images) as mount:
        assert watched(ioctx) == []
        with repeatedly(lambda: look_around(mount.path, stamp), 0.0) as looks:
            assert watched(ioctx) == []
            eventually(lambda: looks, 30.0, "a look at everything")
        assert watched(ioctx) == []
        for name in (*NAMES[::20], *SNAPSHOTS[::20]):
            assert mount.file(name).read_bytes() == bytes(MIB)
        assert watched(ioctx) == []
        with opened(mount.file(NAMES[3]), os.O_RDONLY), opened(mount.file(SNAPSHOTS[3]), 0):
            assert watched(ioctx) == []


def test_what_was_just_looked_at_is_removed(ceph: Ceph, images: str, mounting: Mounting) -> None:
    with mounting(images) as mount:
        run("ls", "-l", str(mount.path))
        ceph.rbd("snap", "rm", "--no-progress", f"{images}/{SNAPSHOTS[0]}")
        ceph.rbd("rm", "--no-progress", f"{images}/{NAMES[0]}")
        gone = {NAMES[0], SNAPSHOTS[0]}
        left = {*NAMES, *SNAPSHOTS} - gone
        eventually(lambda: set(os.listdir(mount.path)) == left, SEEN_S, "the end of their names")
    ceph.rbd("create", "--size=1M", f"{images}/{NAMES[0]}")
