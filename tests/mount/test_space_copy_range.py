"""copy_file_range(2) between files of a mount: data goes by rbdfs, and holes do not go at all."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import pytest

from tests.support.images import MIB, export_image, open_image, random_bytes
from tests.support.mounts import opened
from tests.support.space import requests, used_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.ceph import Ceph
    from tests.support.mounts import Mount, Mounting

OBJECT = 4 * MIB
SIZE = 6 * OBJECT + 777
DATA = ((100, 5000), (2 * OBJECT - 10, 300_000), (SIZE - 100, 100))

pytestmark = pytest.mark.usefixtures("native")


@pytest.fixture(scope="module")
def mount(module_mounting: Mounting, pool: str) -> Iterator[Mount]:
    with module_mounting(pool, "-o", "manage") as mount:
        yield mount


@pytest.fixture
def source(ceph: Ceph, pool: str, image_name: str) -> str:
    """A snapshot with holes."""
    ceph.rbd("create", f"--size={SIZE}B", f"{pool}/{image_name}")
    with open_image(ceph, pool, image_name) as image:
        for off, length in DATA:
            image.write(random_bytes(length, off), off)
        image.create_snap("s")
    return f"{image_name}@s"


@pytest.fixture
def content(ceph: Ceph, pool: str, source: str) -> bytes:
    return export_image(ceph, f"{pool}/{source}")


@pytest.fixture
def target(ceph: Ceph, pool: str, image_name: str) -> str:
    """An image of the same size, full of data."""
    name = f"{image_name}-target"
    data = random_bytes(SIZE, 9)
    ceph.rbd("import", "--no-progress", "-", f"{pool}/{name}", input=data)
    return name


def copy(source: int, off_in: int, target: int, off_out: int, length: int) -> int:
    """All of it, as a program does that copies."""
    done = 0
    while done < length:
        count = os.copy_file_range(source, target, length - done, off_in + done, off_out + done)
        if not count:
            break
        done += count
    return done


def test_snapshot_to_image(
    ceph: Ceph, pool: str, mount: Mount, source: str, content: bytes, target: str
) -> None:
    """A hole of the source is one of the target, whatever was there."""
    before = requests(mount)
    with (
        opened(mount.file(source), os.O_RDONLY) as one,
        opened(mount.file(target), os.O_RDWR) as two,
    ):
        assert os.pread(two, SIZE, 0) == random_bytes(SIZE, 9)
        between = requests(mount)
        assert copy(one, 0, two, 0, SIZE + OBJECT) == SIZE
        assert os.pread(two, SIZE, 0) == content
        assert os.copy_file_range(one, two, 1, SIZE, 0) == 0
    after = requests(mount)
    assert export_image(ceph, f"{pool}/{target}") == content
    assert used_bytes(ceph, f"{pool}/{target}") == 3 * OBJECT + 777
    # The copy itself neither reads nor writes through the kernel.
    assert after["bytes_written"] == before["bytes_written"]
    assert after["bytes_read"] - between["bytes_read"] <= SIZE


@pytest.mark.parametrize(
    ("off_in", "off_out", "length"),
    [(0, 1, SIZE - 1), (77, 0, SIZE - 77), (2 * OBJECT - 11, OBJECT - 3, 2 * OBJECT + 1)],
)
def test_any_range(
    ceph: Ceph,
    pool: str,
    mount: Mount,
    source: str,
    content: bytes,
    target: str,
    off_in: int,
    off_out: int,
    length: int,
) -> None:
    with (
        opened(mount.file(source), os.O_RDONLY) as one,
        opened(mount.file(target), os.O_WRONLY) as two,
    ):
        assert copy(one, off_in, two, off_out, length) == length
    expected = bytearray(random_bytes(SIZE, 9))
    expected[off_out : off_out + length] = content[off_in : off_in + length]
    assert export_image(ceph, f"{pool}/{target}") == expected


def test_past_the_end_of_an_image(
    ceph: Ceph, pool: str, mount: Mount, source: str, content: bytes, target: str
) -> None:
    with (
        opened(mount.file(source), os.O_RDONLY) as one,
        opened(mount.file(target), os.O_RDWR) as two,
    ):
        # Up to the end, as a write is.
        assert os.copy_file_range(one, two, 5000, 0, SIZE - 2000) == 2000
        for off in (SIZE, SIZE + OBJECT):
            with pytest.raises(OSError, match="No space left") as refused:
                os.copy_file_range(one, two, 5000, 0, off)
            assert refused.value.errno == errno.ENOSPC
        assert os.fstat(two).st_size == SIZE
    assert export_image(ceph, f"{pool}/{target}") == random_bytes(SIZE, 9)[:-2000] + content[:2000]


def test_within_one_image(ceph: Ceph, pool: str, mount: Mount, target: str) -> None:
    expected = bytearray(random_bytes(SIZE, 9))
    with (
        opened(mount.file(target), os.O_RDWR) as file,
        opened(mount.file(target), os.O_RDONLY) as other,
    ):
        for one in (file, other):
            for off_in, off_out in ((0, 4999), (5000, 1), (7, 7)):
                with pytest.raises(OSError, match="Invalid argument"):
                    os.copy_file_range(one, file, 5000, off_in, off_out)
        # What was written, but not flushed, is copied.
        os.pwrite(file, b"new", 10)
        expected[10:13] = b"new"
        assert copy(other, 0, file, 5000, 5000) == 5000
        expected[5000:10000] = expected[:5000]
        assert os.pread(file, SIZE, 0) == expected
    assert export_image(ceph, f"{pool}/{target}") == expected


def test_into_a_growing_file(
    ceph: Ceph, pool: str, image_name: str, mount: Mount, source: str, content: bytes
) -> None:
    name = f"{image_name}-new"
    with (
        opened(mount.file(source), os.O_RDONLY) as one,
        opened(mount.file(name), os.O_RDWR | os.O_CREAT) as two,
    ):
        os.write(two, b"head")
        assert copy(one, 0, two, 1000, SIZE) == SIZE
        assert os.fstat(two).st_size == SIZE + 1000
        assert os.pread(two, SIZE, 1000) == content
    expected = b"head" + bytes(996) + content
    assert export_image(ceph, f"{pool}/{name}") == expected
    # Each of the two in the middle lies across two objects now.
    assert used_bytes(ceph, f"{pool}/{name}") == 4 * OBJECT + 1777


def test_holes_of_small_objects(ceph: Ceph, pool: str, image_name: str, mount: Mount) -> None:
    """They are skipped although one request could read many of them."""
    for name in (image_name, f"{image_name}-target"):
        ceph.rbd("create", "--size=16M", "--object-size=64K", f"{pool}/{name}")
    with open_image(ceph, pool, image_name) as image:
        for off in range(0, 16 * MIB, MIB):
            image.write(random_bytes(5000, off), off + 70_000)
    with (
        # For writing, as only then nobody else can write and its holes are known.
        opened(mount.file(image_name), os.O_RDWR) as one,
        opened(mount.file(f"{image_name}-target"), os.O_RDWR) as two,
    ):
        assert copy(one, 0, two, 0, 16 * MIB) == 16 * MIB
    copied = f"{pool}/{image_name}-target"
    assert export_image(ceph, copied) == export_image(ceph, f"{pool}/{image_name}")
    assert used_bytes(ceph, copied) == 16 * 64 * 1024


def test_descriptors_of_the_wrong_kind(mount: Mount, source: str, target: str) -> None:
    with (
        opened(mount.file(source), os.O_RDONLY) as one,
        opened(mount.file(target), os.O_RDONLY) as two,
        pytest.raises(OSError, match="Bad file descriptor"),
    ):
        os.copy_file_range(one, two, 5000, 0, 0)
