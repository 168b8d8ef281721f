"""Listings of many images: complete, quick, without a trace on the images, and never failing."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
import rbd

from tests.support.ceph import run
from tests.support.conditions import SEEN_S, eventually
from tests.support.directories import entries
from tests.support.images import MIB, open_image
from tests.support.mounts import opened
from tests.support.servers import server_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.ceph import Ceph
    from tests.support.mounts import Mount, Mounting

IMAGES, WITH_SNAPSHOT = 1000, 400
FEATURES = rbd.RBD_FEATURE_LAYERING
SIZE = 4 * MIB


def name(number: int) -> str:
    return f"image-{number:04}"


@pytest.fixture(scope="module")
def images(pool: str, ioctx: Any) -> str:
    """A pool with `IMAGES` images; the first `WITH_SNAPSHOT` have a snapshot `s`."""

    def make(number: int) -> None:
        features = None if number == IMAGES - 1 else FEATURES
        rbd.RBD().create(ioctx, name(number), SIZE + number * 512, features=features)
        if number < WITH_SNAPSHOT:
            with rbd.Image(ioctx, name(number)) as image:
                image.create_snap("s")

    # librbd waits most of the time: five seconds so, a minute one after the other.
    with ThreadPoolExecutor(16) as threads:
        list(threads.map(make, range(IMAGES)))
    return pool


def all_names() -> set[str]:
    snapshots = {f"{name(number)}@s" for number in range(WITH_SNAPSHOT)}
    return {name(number) for number in range(IMAGES)} | snapshots


def watched_images(ioctx: Any, numbers: range) -> list[str]:
    """The images that somebody watches."""

    def watched(number: int) -> bool:
        # A read-only image does not watch.
        with rbd.Image(ioctx, name(number), read_only=True) as image:
            return bool(list(image.watchers_list()))

    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(watched, numbers))
    return [name(number) for number, is_watched in zip(numbers, found, strict=True) if is_watched]


def resident_kib(mount: Mount) -> int:
    """Of the process that serves it: the keeper's child, or rbdfs itself where there is none."""
    with open(f"/proc/{server_of(mount) or mount.pid}/status") as status:
        return int(next(line.split()[1] for line in status if line.startswith("VmRSS:")))


def test_many_images(images: str, ioctx: Any, mounting: Mounting) -> None:
    with mounting(images) as mount:
        with os.scandir(mount.path) as entries:
            sizes = {entry.name: entry.stat().st_size for entry in entries}
        assert sizes.keys() == all_names()
        assert sizes[name(999)] == SIZE + 999 * 512
        assert {sizes[f"{name(n)}@s"] - sizes[name(n)] for n in range(WITH_SNAPSHOT)} == {0}
        for command in (["ls", "-lR"], ["du", "-a"], ["find"]):
            assert run(*command, str(mount.path)).count(name(0)[:6]) == len(all_names())
        assert mount.file(name(IMAGES - 1)).read_bytes()[:16] == bytes(16)
        # Nobody can tell from the cluster that somebody looked.
        assert watched_images(ioctx, range(0, IMAGES, 5)) == []
        before = resident_kib(mount)
        for _ in range(5):
            assert len(os.listdir(mount.path)) == len(all_names())
        assert resident_kib(mount) - before < 20_000


def test_time_of_a_cold_listing(ceph: Ceph, images: str, mounting: Mounting) -> None:
    def seconds(call: Callable[[], object]) -> float:
        begin = time.monotonic()
        call()
        return time.monotonic() - begin

    with mounting(images) as mount:
        by_rbdfs = seconds(lambda: run("ls", "-l", str(mount.path)))
    by_rbd = seconds(lambda: ceph.rbd("ls", "-l", images))
    print(f"\nls -l {by_rbdfs:.2f} s, rbd ls -l {by_rbd:.2f} s: {by_rbdfs / by_rbd:.2f}")  # noqa: T201


def test_directory_read_in_parts(images: str, mounting: Mounting) -> None:
    """What an open directory sees is of one reading, from its beginning or anew."""
    with mounting(images) as mount, os.scandir(mount.path) as entries:
        first = next(entries).name
        others = os.listdir(mount.path)
        assert {first} | {entry.name for entry in entries} == set(others) == all_names()
        assert len(others) == len(all_names())


def test_images_that_come_and_go(images: str, ioctx: Any, mounting: Mounting) -> None:
    stop = threading.Event()
    made: list[str] = []

    def come_and_go() -> None:
        # With an object map, which each snapshot has one of.
        with rbd.Image(ioctx, name(IMAGES - 1)) as image:
            while not stop.is_set():
                passing = f"passing-{len(made) % 50}"
                image.create_snap("passing")
                rbd.RBD().create(ioctx, passing, SIZE)
                rbd.RBD().remove(ioctx, passing)
                image.remove_snap("passing")
                made.append(passing)

    with mounting(images) as mount, ThreadPoolExecutor(2) as threads:
        coming = threads.submit(come_and_go)

        def look() -> int:
            run("ls", "-l", str(mount.path))
            # What stays is there in each of them.
            assert all_names() <= set(os.listdir(mount.path))
            return len(made)

        try:
            for _ in range(4):
                look()
            eventually(lambda: look() > 10, 30.0, "images that came and went")
        finally:
            stop.set()
            coming.result()
        eventually(lambda: set(os.listdir(mount.path)) == all_names(), SEEN_S, "their end")
        # Seen in the moment between the end of the header and that of the name.
        mount.allow_log(r"image 'passing-\d+' of .*, or what is left of it")


def test_broken_image_hides_no_other(
    ceph: Ceph, images: str, ioctx: Any, mounting: Mounting
) -> None:
    ids = {}
    for broken in ("0-headless", "sizeless"):
        rbd.RBD().create(ioctx, broken, SIZE, features=FEATURES)
        with open_image(ceph, images, broken, read_only=True) as image:
            ids[broken] = image.id()
    ceph.rados("-p", images, "rm", f"rbd_header.{ids['0-headless']}")
    ceph.rados("-p", images, "rmomapkey", f"rbd_header.{ids['sizeless']}", "size")
    try:
        with mounting(images) as mount:
            for _ in range(3):
                assert set(os.listdir(mount.path)) == all_names()
            for broken in ids:
                with pytest.raises(OSError, match=broken):
                    os.stat(mount.file(broken))
            assert mount.file(name(0)).stat().st_size == SIZE
            mount.expect_log(r"left out of the listing: image '0-headless'")
            mount.expect_log(r"left out of the listing: image 'sizeless'")
            mount.expect_log(r"lookup: .*/sizeless: a header without size")
    finally:
        for broken, image_id in ids.items():
            ceph.rados("-p", images, "rm", f"rbd_id.{broken}")
            ceph.rados("-p", images, "rmomapkey", "rbd_directory", f"name_{broken}")
            ceph.rados("-p", images, "rmomapkey", "rbd_directory", f"id_{image_id}")


def test_files_that_grew_when_they_were_listed(
    mounting: Mounting, ceph: Ceph, image_name: str
) -> None:
    """What the server read before they were trimmed is not what stat(2) says after their close."""
    with ceph.temporary_pool() as pool, mounting(pool, "-o", "manage") as mount:
        # More than one READDIR has, and less than the server reads ahead.
        files = [mount.file(f"{image_name}-{number:02}") for number in range(48)]
        with opened(mount.path, os.O_RDONLY) as directory:
            with contextlib.ExitStack() as writers:
                for file in files:
                    fd = writers.enter_context(opened(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL))
                    os.write(fd, b"x")  # The image has 64 MiB now.
                reading = entries(directory)
                assert next(reading)
            assert list(reading)
        assert {file.stat().st_size for file in files} == {1}
