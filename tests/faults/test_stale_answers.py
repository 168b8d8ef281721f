"""The OSD stands still: what was known is answered with what was known last, within a second."""

from __future__ import annotations

import os
import time
from concurrent.futures import Future, ThreadPoolExecutor, TimeoutError
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.conditions import SEEN_S, eventually
from tests.support.images import MIB, import_image, random_bytes

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.ceph import Ceph
    from tests.support.mounts import Mounting

# For longer than the kernel and the server keep what they know.
STALLED_S = 4.0
IMAGES = 200


@pytest.fixture(scope="module")
def images(ceph: Ceph, pool: str, ioctx: Any) -> str:
    """A pool with images, one with a snapshot, and a namespace with one more."""
    import rbd

    for number in range(IMAGES):
        rbd.RBD().create(ioctx, f"vm{number}", MIB, features=rbd.RBD_FEATURE_LAYERING)
    import_image(ceph, f"{pool}/data", random_bytes(MIB))
    ceph.rbd("snap", "create", "--no-progress", f"{pool}/data@s")
    ceph.rbd("namespace", "create", f"{pool}/space")
    import_image(ceph, f"{pool}/space/inside", b"inside")
    return pool


def list_long(path: os.PathLike[str]) -> list[tuple[str, int]]:
    with os.scandir(path) as entries:
        return sorted((entry.name, entry.stat().st_size) for entry in entries)


def test_what_is_known_is_answered_while_the_osd_stands_still(
    ceph: Ceph, images: str, mounting: Mounting
) -> None:
    with mounting(images) as mount, ThreadPoolExecutor(8) as threads:
        looks: dict[str, Callable[[], Any]] = {
            "ls": partial(list_long, mount.path),
            "ls namespace": partial(list_long, mount.file("space")),
            "stat": lambda: mount.file("data").stat().st_size,
            "stat listed": lambda: mount.file(f"vm{IMAGES // 2}").stat().st_size,
            "stat snapshot": lambda: mount.file("data@s").stat().st_size,
            "stat in namespace": lambda: mount.file("space/inside").stat().st_size,
            "df": lambda: os.statvfs(mount.path).f_namemax,
        }
        # Listed, and never looked up by itself.
        before = {name: look() for name, look in looks.items() if name != "stat listed"}
        before["stat listed"] = MIB
        assert len(before["ls"]) == IMAGES + 3
        with ceph.stalled("osd.0"):
            end = time.monotonic() + STALLED_S
            longest = dict.fromkeys(looks, 0.0)
            while time.monotonic() < end:
                for name, look in looks.items():
                    begun = time.monotonic()
                    answer: Future[Any] = threads.submit(look)
                    assert answer.result(6.0) == before[name], name
                    longest[name] = max(longest[name], time.monotonic() - begun)
            unknown = threads.submit(mount.file("nothing").stat)
            with pytest.raises(TimeoutError):
                unknown.result(0.7)
        assert max(longest.values()) < 1.0, longest
        with pytest.raises(FileNotFoundError):
            unknown.result(20.0)
        # And it does not go on with what was known.
        ceph.rbd("resize", "--no-progress", "--size=3M", f"{images}/data")
        eventually(lambda: mount.file("data").stat().st_size == 3 * MIB, SEEN_S, "the new size")
