"""lseek(2) with SEEK_DATA and SEEK_HOLE: what it calls a hole is one, for whoever may know."""

from __future__ import annotations

import errno
import mmap
import os
from typing import TYPE_CHECKING

import pytest

from tests.support.ceph import run
from tests.support.conditions import eventually
from tests.support.images import MIB, open_image
from tests.support.mounts import opened
from tests.support.space import PUNCH, ZERO_RANGE, data_extents, fallocate, requests

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.ceph import Ceph
    from tests.support.mounts import Mount, Mounting

OBJECT = 4 * MIB
# The last object is a part of one.
SIZE = 40 * OBJECT + 4321

pytestmark = pytest.mark.usefixtures("native")


@pytest.fixture
def image(ceph: Ceph, pool: str, image_name: str) -> str:
    """A thin image with data in objects 1, 2 and 7."""
    ceph.rbd("create", f"--size={SIZE}B", f"{pool}/{image_name}")
    with open_image(ceph, pool, image_name) as image:
        image.write(b"one", OBJECT + 5)
        image.write(b"two", 2 * OBJECT)
        image.write(b"seven", 8 * OBJECT - 5)
    return image_name


EXTENTS = [(OBJECT, 3 * OBJECT), (7 * OBJECT, 8 * OBJECT)]


@pytest.fixture(scope="module")
def mount(module_mounting: Mounting, pool: str) -> Iterator[Mount]:
    with module_mounting(pool) as mount:
        yield mount


def snapshot(ceph: Ceph, pool: str, image: str) -> str:
    """Before the mount has heard of the image: what it knows may be two seconds old."""
    ceph.rbd("snap", "create", "--no-progress", f"{pool}/{image}@s")
    return f"{image}@s"


def seek_error(file: int, off: int, whence: int) -> int | None:
    """The errno of an lseek(2) that fails."""
    with pytest.raises(OSError, match="No such device or address") as refused:
        os.lseek(file, off, whence)
    return refused.value.errno


def test_snapshot(ceph: Ceph, pool: str, image: str, mount: Mount) -> None:
    name = snapshot(ceph, pool, image)
    with opened(mount.file(name), os.O_RDONLY) as file:
        assert data_extents(file) == EXTENTS
        for off, whence, found in (
            (0, os.SEEK_HOLE, 0),
            (1, os.SEEK_DATA, OBJECT),
            (OBJECT + 17, os.SEEK_DATA, OBJECT + 17),
            (OBJECT + 17, os.SEEK_HOLE, 3 * OBJECT),
            (8 * OBJECT, os.SEEK_HOLE, 8 * OBJECT),
            (SIZE - 1, os.SEEK_HOLE, SIZE - 1),
            (0, os.SEEK_END, SIZE),
        ):
            assert os.lseek(file, off, whence) == found


def test_nothing_is_past_the_end(ceph: Ceph, pool: str, image: str, mount: Mount) -> None:
    name = snapshot(ceph, pool, image)
    for path, flags in ((name, os.O_RDONLY), (image, os.O_RDONLY), (image, os.O_RDWR)):
        with opened(mount.file(path), flags) as file:
            for off in (SIZE, SIZE + 1, 1 << 62):
                for whence in (os.SEEK_DATA, os.SEEK_HOLE):
                    assert seek_error(file, off, whence) == errno.ENXIO
    with opened(mount.file(name), os.O_RDONLY) as file:
        assert seek_error(file, 8 * OBJECT, os.SEEK_DATA) == errno.ENXIO


def test_data_up_to_the_end(ceph: Ceph, pool: str, image: str, mount: Mount) -> None:
    with opened(mount.file(image), os.O_RDWR) as file:
        os.pwrite(file, b"end", SIZE - 3)
        assert data_extents(file) == [*EXTENTS, (40 * OBJECT, SIZE)]
        assert os.lseek(file, SIZE - 1, os.SEEK_DATA) == SIZE - 1
        assert os.lseek(file, SIZE - 1, os.SEEK_HOLE) == SIZE


def test_empty_image(ceph: Ceph, pool: str, image_name: str, mount: Mount) -> None:
    ceph.rbd("create", "--size=0", f"{pool}/{image_name}")
    with opened(mount.file(image_name), os.O_RDWR) as file:
        for whence in (os.SEEK_DATA, os.SEEK_HOLE):
            assert seek_error(file, 0, whence) == errno.ENXIO


@pytest.mark.parametrize("feature", ["fast-diff", "object-map"])
def test_without_the_map_all_is_data(
    ceph: Ceph, pool: str, image: str, mount: Mount, feature: str
) -> None:
    ceph.rbd("feature", "disable", f"{pool}/{image}", *({"fast-diff", feature}))
    with opened(mount.file(image), os.O_RDWR) as file:
        assert data_extents(file) == [(0, SIZE)]


@pytest.mark.parametrize("flags", [0, os.O_DIRECT], ids=["buffered", "direct"])
def test_our_own_changes_are_seen_at_once(
    ceph: Ceph, pool: str, image: str, mount: Mount, flags: int
) -> None:
    """Whoever copies a file that is being written must not lose what was acknowledged."""
    page = memoryview(bytearray(4096))
    page[:] = b"x" * 4096
    with opened(mount.file(image), os.O_RDWR | flags) as file:
        held = set(range(40)) & {1, 2, 7}
        assert _objects(file) == held
        for number in (0, 3, 20, 39, 7, 38):
            os.pwrite(file, page, number * OBJECT + 4096)
            held.add(number)
            assert _objects(file) == held
        # Two objects at once.
        os.pwrite(file, page, 31 * OBJECT - 2048)
        held |= {30, 31}
        assert _objects(file) == held
        fallocate(file, PUNCH, OBJECT - 1, 3 * OBJECT + 1)
        held -= {1, 2, 3}
        assert _objects(file) == held
        fallocate(file, ZERO_RANGE, 30 * OBJECT, 10 * OBJECT)
        assert _objects(file) == {0, 7, 20}
        with opened(mount.file(image), os.O_RDONLY) as reader:
            assert _objects(reader) == {0, 7, 20}
            os.pwrite(file, page, 12 * OBJECT)
            assert _objects(reader) == {0, 7, 12, 20}


def _objects(file: int) -> set[int]:
    return {
        number
        for start, end in data_extents(file)
        for number in range(start // OBJECT, -(-end // OBJECT))
    }


def test_writers_beside_a_seeker(image: str, mount: Mount) -> None:
    """Every write that was acknowledged before a seek is found by it."""
    with opened(mount.file(image), os.O_RDWR) as file:
        script = (
            f"import os, sys; file = os.open({str(mount.file(image))!r}, os.O_RDWR)\n"
            f"for number in range(39, 9, -1):\n"
            f"    os.pwrite(file, b'x', number * {OBJECT} + 7); os.write(1, bytes([number]))\n"
        )
        read, write = os.pipe()
        child = os.posix_spawn(
            "/usr/bin/python3",
            ["python3", "-c", script],
            os.environ,
            file_actions=[(os.POSIX_SPAWN_DUP2, write, 1)],
        )
        os.close(write)
        acknowledged = set()
        while numbers := os.read(read, 100):
            acknowledged |= set(numbers)
            assert acknowledged <= _objects(file)
        os.close(read)
        assert os.waitpid(child, 0)[1] == 0
    assert acknowledged == set(range(10, 40))


def test_snapshot_of_a_clone(
    ceph: Ceph, pool: str, image: str, image_name: str, mount: Mount
) -> None:
    """What shows through from the parent is data, and a hole over it is not the parent's."""
    name = snapshot(ceph, pool, image)
    clone = f"{image_name}-clone"
    ceph.rbd("clone", "--rbd-default-clone-format=2", f"{pool}/{name}", f"{pool}/{clone}")
    with open_image(ceph, pool, clone) as other:
        other.write(b"twenty", 20 * OBJECT)
        other.write(b"seven", 7 * OBJECT)
    snapshot(ceph, pool, clone)
    with opened(mount.file(f"{clone}@s"), os.O_RDONLY) as file:
        found = data_extents(file)
        held = {start // OBJECT for start in (OBJECT, 2 * OBJECT, 7 * OBJECT, 20 * OBJECT)}
        assert held <= _objects(file), found
        for off, data in ((OBJECT + 5, b"one"), (8 * OBJECT - 5, b"seven"), (20 * OBJECT, b"tw")):
            assert os.pread(file, len(data), off) == data


def test_partition(ceph: Ceph, pool: str, image: str, tmp_path: Path, mounting: Mounting) -> None:
    """Offsets are those of the partition, also where it begins inside an object."""
    disk = tmp_path / "disk"
    with disk.open("wb") as empty:
        empty.truncate(SIZE // 512 * 512)
    table = f"label: dos\n1: start={6 * MIB // 512},size={20 * MIB // 512}\n"
    run("sfdisk", "-q", str(disk), stdin=table.encode())
    with open_image(ceph, pool, image) as other:
        other.write(disk.read_bytes()[:MIB], 0)
    name = snapshot(ceph, pool, image)
    with mounting(pool, "-o", "partitions") as mount:
        with opened(mount.file(f"{name}-part1"), os.O_RDONLY) as file:
            # Object 1 ends 2 MiB after the start of the partition, object 2 follows.
            assert data_extents(file) == [(0, 6 * MIB)]
            assert seek_error(file, 6 * MIB, os.SEEK_DATA) == errno.ENXIO
        with opened(mount.file(f"{image}-part1"), os.O_RDWR) as file:
            os.pwrite(file, b"end", 20 * MIB - 3)
            assert data_extents(file) == [(0, 6 * MIB), (18 * MIB, 20 * MIB)]
            assert seek_error(file, 20 * MIB, os.SEEK_HOLE) == errno.ENXIO


def test_resized_image(ceph: Ceph, pool: str, image: str, mount: Mount) -> None:
    path = mount.file(image)
    with opened(path, os.O_RDWR) as file:
        assert data_extents(file) == EXTENTS
        os.ftruncate(file, 2 * SIZE)
        os.pwrite(file, b"end", 2 * SIZE - 3)
        end = (2 * SIZE - 3) // OBJECT * OBJECT
        assert data_extents(file) == [*EXTENTS, (end, 2 * SIZE)]
        # By another client, which asks the owner of the lock for it.
        ceph.rbd("resize", "--no-progress", f"--size={3 * SIZE}B", f"{pool}/{image}")
        eventually(lambda: os.fstat(file).st_size == 3 * SIZE, what="the new size")
        assert os.lseek(file, 3 * SIZE - 1, os.SEEK_HOLE) == 3 * SIZE - 1


def test_many_seeks_of_an_idle_image_read_nothing(image: str, mount: Mount) -> None:
    with opened(mount.file(image), os.O_RDWR) as file:
        before = requests(mount)
        for _ in range(20):
            assert data_extents(file) == EXTENTS
        after = requests(mount)
    assert after["bytes_read"] == before["bytes_read"]
    assert after["errors"] == before["errors"]


def test_what_mmap_has_made_dirty_is_data(image: str, mount: Mount) -> None:
    """The kernel does not write it back before it asks, and would copy nothing of it."""
    with opened(mount.file(image), os.O_RDWR) as file, opened(mount.file(image), 0) as other:
        with mmap.mmap(file, 16 * OBJECT, mmap.MAP_SHARED) as memory:
            memory[12 * OBJECT : 12 * OBJECT + 5] = b"dirty"
            assert os.lseek(other, 8 * OBJECT, os.SEEK_DATA) == 12 * OBJECT
            memory[14 * OBJECT : 14 * OBJECT + 5] = b"again"
            count = os.copy_file_range(other, file, OBJECT, 14 * OBJECT, 24 * OBJECT)
            assert count == OBJECT
        assert os.pread(file, 5, 24 * OBJECT) == b"again"
