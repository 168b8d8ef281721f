"""fallocate(2): punched and zeroed ranges read as zeros to the byte, whatever objects they cut."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import pytest

from tests.support.conditions import eventually
from tests.support.images import export_image, random_bytes
from tests.support.mounts import opened
from tests.support.space import (
    COLLAPSE_RANGE,
    INSERT_RANGE,
    KEEP_SIZE,
    PUNCH,
    UNSHARE_RANGE,
    ZERO_RANGE,
    fallocate,
    used_bytes,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.ceph import Ceph
    from tests.support.mounts import Mount, Mounting

OBJECT = 64 * 1024
# The last object is a part of one.
SIZE = 16 * OBJECT + 1234
ZEROING = pytest.mark.parametrize(
    "mode", [PUNCH, ZERO_RANGE, ZERO_RANGE | KEEP_SIZE], ids=["punch", "zero", "zero-keep-size"]
)

pytestmark = pytest.mark.usefixtures("native")


@pytest.fixture
def spec(ceph: Ceph, pool: str, image_name: str) -> str:
    """An image full of data, in small objects."""
    spec = f"{pool}/{image_name}"
    ceph.rbd("import", "--no-progress", "--object-size=64K", "-", spec, input=random_bytes(SIZE))
    return spec


@pytest.fixture(scope="module")
def mount(module_mounting: Mounting, pool: str) -> Iterator[Mount]:
    with module_mounting(pool) as mount:
        yield mount


@pytest.fixture
def path(spec: str, image_name: str, mount: Mount) -> Path:
    return mount.file(image_name)


def code_of(file: int, mode: int, off: int, length: int) -> int:
    """The errno of a fallocate(2) that fails."""
    with pytest.raises(OSError, match="fallocate") as refused:
        fallocate(file, mode, off, length)
    assert refused.value.errno is not None
    return refused.value.errno


@ZEROING
@pytest.mark.parametrize("flags", [0, os.O_DIRECT], ids=["buffered", "direct"])
def test_ranges_read_as_zeros(ceph: Ceph, spec: str, path: Path, mode: int, flags: int) -> None:
    expected = bytearray(random_bytes(SIZE))
    with opened(path, os.O_RDWR | flags) as file:
        # In the page cache, where there is one.
        assert os.pread(file, SIZE, 0) == expected
        for off, length in (
            (0, 1),
            (4095, 2),
            (OBJECT - 7, 14),
            (2 * OBJECT, OBJECT),
            (4 * OBJECT + 1, OBJECT - 1),
            (6 * OBJECT - 1, OBJECT + 2),
            (8 * OBJECT + 100, 3 * OBJECT + 5000),
            (SIZE - 1, 1),
            (15 * OBJECT - 3, SIZE - 15 * OBJECT + 3),
        ):
            fallocate(file, mode, off, length)
            expected[off : off + length] = bytes(length)
            assert os.pread(file, SIZE, 0) == expected, (off, length)
        os.fsync(file)
        assert os.fstat(file).st_size == SIZE
    assert export_image(ceph, spec) == expected


@pytest.mark.parametrize("mode", [PUNCH, ZERO_RANGE | KEEP_SIZE])
def test_ranges_past_the_end_are_clipped(ceph: Ceph, spec: str, path: Path, mode: int) -> None:
    with opened(path, os.O_RDWR) as file:
        fallocate(file, mode, SIZE, OBJECT)
        fallocate(file, mode, 1 << 60, 1 << 60)
        assert os.pread(file, 2 * SIZE, 0) == random_bytes(SIZE)
        fallocate(file, mode, SIZE - 1000, 1 << 60)
        assert os.fstat(file).st_size == SIZE
        assert os.pread(file, 2000, SIZE - 2000) == random_bytes(SIZE)[-2000:-1000] + bytes(1000)
    assert len(export_image(ceph, spec)) == SIZE


@pytest.mark.parametrize("mode", [0, ZERO_RANGE], ids=["plain", "zero"])
def test_an_image_is_not_made_longer(ceph: Ceph, spec: str, path: Path, mode: int) -> None:
    with opened(path, os.O_RDWR) as file:
        assert code_of(file, mode, SIZE - 100, 101) == errno.ENOSPC
        assert code_of(file, mode, SIZE, 1) == errno.ENOSPC
        assert os.fstat(file).st_size == SIZE
        assert os.pread(file, 2 * SIZE, 0) == random_bytes(SIZE)
    assert export_image(ceph, spec) == random_bytes(SIZE)


def test_reserving_changes_nothing(ceph: Ceph, spec: str, path: Path) -> None:
    with opened(path, os.O_RDWR) as file:
        for mode in (0, KEEP_SIZE):
            fallocate(file, mode, 0, SIZE)
            fallocate(file, mode, 4097, 3)
        os.posix_fallocate(file, 0, SIZE)
        assert os.pread(file, SIZE, 0) == random_bytes(SIZE)


def test_modes_that_images_cannot_do(path: Path) -> None:
    """And none of them makes the kernel think that there is no fallocate at all."""
    with opened(path, os.O_RDWR) as file:
        for mode in (COLLAPSE_RANGE, INSERT_RANGE, UNSHARE_RANGE, 0x80):
            assert code_of(file, mode, 0, OBJECT) == errno.EOPNOTSUPP
        assert code_of(file, PUNCH, 0, 0) == errno.EINVAL
        fallocate(file, PUNCH, 0, 1)


def test_space_of_punched_objects_is_given_back(ceph: Ceph, spec: str, path: Path) -> None:
    before = used_bytes(ceph, spec)
    with opened(path, os.O_RDWR) as file:
        fallocate(file, PUNCH, OBJECT // 2, 8 * OBJECT)
        os.fsync(file)
    # Seven whole objects: what remains of the two at the ends is data.
    assert used_bytes(ceph, spec) == before - 7 * OBJECT


def test_snapshots_are_not_punched(ceph: Ceph, spec: str, path: Path) -> None:
    ceph.rbd("snap", "create", "--no-progress", f"{spec}@s")
    snap = path.with_name(f"{path.name}@s")
    eventually(snap.exists, what="the snapshot")
    with opened(snap, os.O_RDONLY) as file:
        assert code_of(file, PUNCH, 0, OBJECT) == errno.EBADF
    with pytest.raises(OSError, match="Read-only") as refused, opened(snap, os.O_RDWR):
        pass
    assert refused.value.errno == errno.EROFS
    with opened(path, os.O_RDWR) as image:
        fallocate(image, PUNCH, 0, SIZE)
        assert os.pread(image, SIZE, 0) == bytes(SIZE)
    assert snap.read_bytes() == random_bytes(SIZE) == export_image(ceph, f"{spec}@s")


@pytest.mark.parametrize("mode", [PUNCH, ZERO_RANGE])
def test_a_clone_does_not_show_its_parent_again(
    ceph: Ceph, pool: str, spec: str, image_name: str, mount: Mount, mode: int
) -> None:
    ceph.rbd("snap", "create", "--no-progress", f"{spec}@s")
    ceph.rbd("clone", "--rbd-default-clone-format=2", f"{spec}@s", f"{pool}/{image_name}-clone")
    expected = bytearray(random_bytes(SIZE))
    with opened(mount.file(f"{image_name}-clone"), os.O_RDWR) as file:
        for off, length in ((100, 10), (2 * OBJECT, OBJECT), (OBJECT * 7 // 2, 2 * OBJECT)):
            fallocate(file, mode, off, length)
            expected[off : off + length] = bytes(length)
        assert os.pread(file, SIZE, 0) == expected
        assert os.lseek(file, 0, os.SEEK_DATA) == 0
    assert export_image(ceph, f"{pool}/{image_name}-clone") == expected
    assert export_image(ceph, spec) == random_bytes(SIZE)


def test_without_trim(
    ceph: Ceph, spec: str, mounting: Mounting, pool: str, image_name: str
) -> None:
    with (
        mounting(pool, "-o", "notrim") as mount,
        opened(mount.file(image_name), os.O_RDWR) as file,
    ):
        for mode in (PUNCH, ZERO_RANGE, ZERO_RANGE | KEEP_SIZE):
            assert code_of(file, mode, 0, OBJECT) == errno.EOPNOTSUPP
        fallocate(file, 0, 0, SIZE)
        assert os.pread(file, SIZE, 0) == random_bytes(SIZE)


def test_a_growing_file_is_made_longer(
    ceph: Ceph, pool: str, image_name: str, mounting: Mounting
) -> None:
    with (
        mounting(pool, "-o", "manage") as mount,
        opened(mount.file(image_name), os.O_RDWR | os.O_CREAT) as file,
    ):
        os.write(file, b"data")
        fallocate(file, KEEP_SIZE, 0, 5000)
        fallocate(file, PUNCH, 2, 5000)
        assert os.fstat(file).st_size == 4
        fallocate(file, 0, 0, 5000)
        assert os.fstat(file).st_size == 5000
        fallocate(file, ZERO_RANGE, 1, 6000)
        assert os.pread(file, 9999, 0) == b"d" + bytes(6000)
    assert export_image(ceph, f"{pool}/{image_name}") == b"d" + bytes(6000)
