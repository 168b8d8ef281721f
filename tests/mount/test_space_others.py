"""Holes of images that other clients may write to: what they have acknowledged is data at once."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.support.ceph import run
from tests.support.images import MIB, open_image
from tests.support.mounts import opened
from tests.support.space import assert_same, data_extents, requests

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.ceph import Ceph
    from tests.support.mounts import Mount, Mounting

OBJECT = 4 * MIB
SIZE = 10 << 30
# The map of an image of 10 GiB has one block of states, 64 GiB to each; this one has three.
LARGE = 150 << 30
HELD = {1, 2, 7, 1000, 2559}
PIB = 1 << 50

pytestmark = pytest.mark.usefixtures("native")


@pytest.fixture(scope="module")
def mount(module_mounting: Mounting, pool: str) -> Iterator[Mount]:
    with module_mounting(pool) as mount:
        yield mount


def write_objects(ceph: Ceph, pool: str, image: str, *numbers: int, object_size: int) -> None:
    with open_image(ceph, pool, image) as writer:
        for number in numbers:
            writer.write(b"data", number * object_size + 4096)


@pytest.fixture
def image(ceph: Ceph, pool: str, image_name: str) -> str:
    """A thin image of 10 GiB with five objects."""
    ceph.rbd("create", f"--size={SIZE}B", f"{pool}/{image_name}")
    write_objects(ceph, pool, image_name, *HELD, object_size=OBJECT)
    return image_name


def objects(file: int, object_size: int = OBJECT) -> set[int]:
    return {
        number
        for start, end in data_extents(file)
        for number in range(start // object_size, -(-end // object_size))
    }


def image_id(ceph: Ceph, pool: str, image: str) -> str:
    found: str = json.loads(ceph.rbd("info", "--format=json", f"{pool}/{image}"))["id"]
    return found


def test_a_reader_has_holes(image: str, mount: Mount) -> None:
    with opened(mount.file(image), os.O_RDONLY) as file:
        assert os.lseek(file, 0, os.SEEK_HOLE) == 0
        assert objects(file) == HELD


def test_what_another_client_has_written_is_data(
    ceph: Ceph, pool: str, image: str, mount: Mount
) -> None:
    held = set(HELD)
    with opened(mount.file(image), os.O_RDONLY) as file, open_image(ceph, pool, image) as writer:
        assert objects(file) == held
        for number in (2558, 1001, 3, 0):
            writer.write(b"data", number * OBJECT + 17)
            held.add(number)
            # Also where the file was said to have a hole just now.
            assert os.lseek(file, number * OBJECT, os.SEEK_DATA) == number * OBJECT
            assert objects(file) == held
        writer.discard(7 * OBJECT, OBJECT)
        assert objects(file) == held - {7}


def looked_at(mount: Mount, *names: str) -> Iterator[None]:
    """All that asks where data is: of a reader, and of a writer that has not written yet."""
    for name in names:
        assert mount.file(name).stat().st_blocks > 0
        for flags in (os.O_RDONLY, os.O_RDWR):
            if not ("@" in name and flags == os.O_RDWR):
                with opened(mount.file(name), flags) as file:
                    assert objects(file) >= HELD
                    yield


@pytest.mark.parametrize("cache", ["none", "writeback"])
def test_a_look_takes_no_lock(
    ceph: Ceph, pool: str, image: str, mounting: Mounting, cache: str
) -> None:
    """librbd's own diff does, of an image that is open for writing, where the lock is free."""
    spec, names = f"{pool}/{image}", (image, f"{image}@s", f"{image}-clone")
    make_clone(ceph, pool, image, names[-1])
    with mounting(pool, "-o", f"lock=auto,cache={cache}") as mount:
        for _ in looked_at(mount, *names):
            assert ceph.lock_owners(spec) == ceph.lock_owners(f"{spec}-clone") == []
        with open_image(ceph, pool, image) as owner:
            owner.write(b"data", OBJECT)
            (address,) = ceph.lock_owners(spec)
            for _ in looked_at(mount, *names):
                assert ceph.lock_owners(spec) == [address]
            assert owner.is_exclusive_lock_owner()


_WRITER = """
import os, sys, rados, rbd
conf, pool, name = sys.argv[1:]
with rados.Rados(conffile=conf, name="client.admin") as cluster, cluster.open_ioctx(pool) as ioctx:
    with rbd.Image(ioctx, name) as image:
        for number in range(199, 99, -1):
            image.write(b"x", number * 4194304 + 7)
            os.write(1, bytes([number]))
"""


def test_beside_another_client_that_writes(ceph: Ceph, pool: str, image: str, mount: Mount) -> None:
    """Every write that was acknowledged before a seek is found by it."""
    writer = [sys.executable, "-c", _WRITER, str(ceph.conf), pool, image]
    acknowledged: set[int] = set()
    with opened(mount.file(image), os.O_RDONLY) as file:
        with subprocess.Popen(writer, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            while numbers := os.read(process.stdout.fileno(), 100):
                acknowledged |= set(numbers)
                for number in acknowledged:
                    assert os.lseek(file, number * OBJECT, os.SEEK_HOLE) != number * OBJECT
                assert acknowledged | HELD <= objects(file)
        assert process.returncode == 0
        assert acknowledged == set(range(100, 200))
        assert objects(file) == HELD | acknowledged


@pytest.mark.parametrize("flags", [os.O_RDONLY, os.O_RDWR], ids=["reader", "writer"])
def test_a_map_of_many_blocks(
    ceph: Ceph, pool: str, image_name: str, mount: Mount, flags: int
) -> None:
    ceph.rbd("create", f"--size={LARGE}B", "--object-size=16K", f"{pool}/{image_name}")
    block = 16384
    numbers = {0, 1, block - 1, block, 5 * block, 90 * block + 3, LARGE // 16384 - 1}
    write_objects(ceph, pool, image_name, *numbers, object_size=16384)
    with opened(mount.file(image_name), flags) as file:
        assert objects(file, 16384) == numbers
        for number in numbers:
            assert os.lseek(file, number * 16384 + 5, os.SEEK_DATA) == number * 16384 + 5


def flatten(ceph: Ceph, spec: str) -> None:
    ceph.rbd("flatten", "--no-progress", spec)


def make_clone(ceph: Ceph, pool: str, parent: str, clone: str) -> None:
    ceph.rbd("snap", "create", "--no-progress", f"{pool}/{parent}@s")
    ceph.rbd("clone", "--rbd-default-clone-format=2", f"{pool}/{parent}@s", f"{pool}/{clone}")


def test_clones(ceph: Ceph, pool: str, image: str, mount: Mount) -> None:
    """What shows through from what it was cloned from is data, and nothing else is."""
    clone, second = f"{image}-clone", f"{image}-second"
    make_clone(ceph, pool, image, clone)
    write_objects(ceph, pool, clone, 20, object_size=OBJECT)
    make_clone(ceph, pool, clone, second)
    # Neither is what the clones were made from.
    write_objects(ceph, pool, image, 50, object_size=OBJECT)
    write_objects(ceph, pool, clone, 51, object_size=OBJECT)
    write_objects(ceph, pool, second, 30, object_size=OBJECT)
    for flags in (os.O_RDONLY, os.O_RDWR):
        with opened(mount.file(clone), flags) as file:
            assert objects(file) == HELD | {20, 51}
        with opened(mount.file(second), flags) as file:
            assert objects(file) == HELD | {20, 30}
    with opened(mount.file(second), os.O_RDONLY) as file:
        assert objects(file) == HELD | {20, 30}
        flatten(ceph, f"{pool}/{second}")
        assert objects(file) == HELD | {20, 30}
        assert os.pread(file, 4, 7 * OBJECT + 4096) == b"data"


def test_a_clone_that_was_shrunk(ceph: Ceph, pool: str, image: str, mount: Mount) -> None:
    """What it has been given anew is not the parent's; objects may be smaller than the parent's."""
    clone = f"{image}-clone"
    ceph.rbd("snap", "create", "--no-progress", f"{pool}/{image}@s")
    options = [
        "--rbd-default-clone-format=2",
        "--object-size=1M",
        "--stripe-unit=1M",
        "--stripe-count=1",
    ]
    ceph.rbd("clone", *options, f"{pool}/{image}@s", f"{pool}/{clone}")
    with open_image(ceph, pool, clone) as writer:
        writer.resize(500 * OBJECT)
        writer.resize(SIZE)
        writer.write(b"new", 1000 * OBJECT + 3 * MIB)
    with opened(mount.file(clone), os.O_RDONLY) as file:
        expected = [(OBJECT, 3 * OBJECT), (7 * OBJECT, 8 * OBJECT)]
        start = 1000 * OBJECT + 3 * MIB
        assert data_extents(file) == [*expected, (start, start + MIB)]


def test_a_parent_without_a_map(ceph: Ceph, pool: str, image: str, mount: Mount) -> None:
    ceph.rbd("feature", "disable", f"{pool}/{image}", "fast-diff", "object-map")
    make_clone(ceph, pool, image, f"{image}-clone")
    with opened(mount.file(f"{image}-clone"), os.O_RDONLY) as file:
        assert data_extents(file) == [(0, SIZE)]


def test_without_a_map_all_is_data(ceph: Ceph, pool: str, image: str, mount: Mount) -> None:
    """From the moment on when it is taken away."""
    with opened(mount.file(image), os.O_RDONLY) as file:
        assert objects(file) == HELD
        ceph.rbd("feature", "disable", f"{pool}/{image}", "fast-diff", "object-map")
        assert data_extents(file) == [(0, SIZE)]
        write_objects(ceph, pool, image, 100, object_size=OBJECT)
        # A new map is not valid before it is rebuilt.
        ceph.rbd("feature", "enable", f"{pool}/{image}", "object-map")
        assert data_extents(file) == [(0, SIZE)]
        ceph.rbd("object-map", "rebuild", "--no-progress", f"{pool}/{image}")
        assert objects(file) == HELD | {100}


@pytest.mark.parametrize("flags", [os.O_RDONLY, os.O_RDWR], ids=["reader", "writer"])
def test_damage_means_data(ceph: Ceph, pool: str, image: str, mount: Mount, flags: int) -> None:
    number = image_id(ceph, pool, image)
    with opened(mount.file(image), flags) as file:
        held = objects(file)
        assert held == HELD
        valid = struct.pack("<Q", 0)
        for invalid in (1, 4):
            header = ("-p", pool, "setomapval", f"rbd_header.{number}", "flags")
            ceph.rados(*header, input=struct.pack("<Q", invalid))
            if flags == os.O_RDONLY:
                assert data_extents(file) == [(0, SIZE)]
            ceph.rados(*header, input=valid)
        assert objects(file) == HELD


def test_a_damaged_map_means_data(
    ceph: Ceph, pool: str, image: str, mount: Mount, tmp_path: Path
) -> None:
    oid = f"rbd_object_map.{image_id(ceph, pool, image)}"
    saved = tmp_path / "map"
    ceph.rados("-p", pool, "get", oid, str(saved))
    good = saved.read_bytes()
    with opened(mount.file(image), os.O_RDONLY) as file:
        # The states of object 7, of its neighbours, the checksums, the count; and what is missing.
        for at in (19, 18, len(good) - 1, 10, 25):
            damaged = bytearray(good)
            damaged[at] ^= 1
            saved.write_bytes(damaged)
            ceph.rados("-p", pool, "put", oid, str(saved))
            assert data_extents(file) == [(0, SIZE)], at
        for length in (0, 10, 18, 100, len(good) - 1):
            saved.write_bytes(good[:length])
            ceph.rados("-p", pool, "put", oid, str(saved))
            assert data_extents(file) == [(0, SIZE)], length
        ceph.rados("-p", pool, "rm", oid)
        assert data_extents(file) == [(0, SIZE)]
        saved.write_bytes(good)
        ceph.rados("-p", pool, "put", oid, str(saved))
        assert objects(file) == HELD


def test_resized_elsewhere(ceph: Ceph, pool: str, image: str, mount: Mount) -> None:
    with opened(mount.file(image), os.O_RDONLY) as file:
        assert objects(file) == HELD
        with open_image(ceph, pool, image) as writer:
            writer.resize(2 * SIZE)
            writer.write(b"end", 2 * SIZE - 3)
        assert objects(file) >= HELD
    with opened(mount.file(image), os.O_RDONLY) as file:
        assert objects(file) >= HELD


@pytest.mark.parametrize("option", ["lock=auto", "cache=writeback"])
def test_writers_of_other_kinds(
    ceph: Ceph, pool: str, image: str, mounting: Mounting, option: str
) -> None:
    with mounting(pool, "-o", option) as mount, opened(mount.file(image), os.O_RDWR) as file:
        assert objects(file) == HELD
        os.pwrite(file, b"data", 100 * OBJECT)
        assert objects(file) == HELD | {100}
        if option == "lock=auto":
            write_objects(ceph, pool, image, 101, object_size=OBJECT)
            assert objects(file) == HELD | {100, 101}


def test_tools_read_what_is_data(
    ceph: Ceph, pool: str, image: str, mounting: Mounting, tmp_path: Path
) -> None:
    """cp, tar and qemu-img read 20 MiB of 10 GiB."""
    with mounting(pool) as mount:
        source = mount.file(image)
        before = requests(mount)["bytes_read"]
        run("cp", "--sparse=auto", str(source), str(tmp_path / "copy"))
        run("tar", "-S", "-cf", str(tmp_path / "tar"), "-C", str(mount.path), image)
        run(
            "qemu-img",
            "convert",
            "-U",
            "-O",
            "raw",
            "-f",
            "raw",
            str(source),
            str(tmp_path / "raw"),
        )
        found = json.loads(run("qemu-img", "map", "-U", "--output=json", "-f", "raw", str(source)))
        assert sum(extent["length"] for extent in found if extent["data"]) == len(HELD) * OBJECT
        assert requests(mount)["bytes_read"] - before <= 4 * len(HELD) * OBJECT
        for copy in ("copy", "raw"):
            assert_same(tmp_path / copy, source)
        run("tar", "-C", str(tmp_path), "-xf", str(tmp_path / "tar"))
        assert_same(tmp_path / image, source)


def test_the_largest_map(ceph: Ceph, pool: str, image_name: str, mounting: Mounting) -> None:
    size, last = 4 * PIB, 4 * PIB // (32 * MIB) - 1
    ceph.rbd("create", f"--size={size}B", "--object-size=32M", f"{pool}/{image_name}")
    write_objects(ceph, pool, image_name, 5, last, object_size=32 * MIB)
    with mounting(pool) as mount:
        for flags in (os.O_RDONLY, os.O_RDWR):
            with opened(mount.file(image_name), flags) as file:
                found = data_extents(file)
                assert found == [(5 * 32 * MIB, 6 * 32 * MIB), (last * 32 * MIB, size)]
