"""What is written through a mount is what `rbd export` gives back, and where writing ends."""

from __future__ import annotations

import errno
import mmap
import os
import random
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from tests.support.ceph import run
from tests.support.conditions import eventually
from tests.support.images import MIB, export_image, import_image, open_image, random_bytes
from tests.support.mounts import opened

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.ceph import Ceph
    from tests.support.mounts import Mount, Mounting

SIZE = 9 * MIB + 1536


@pytest.fixture
def spec(ceph: Ceph, pool: str, image_name: str) -> str:
    """The spec of an image with `SIZE` random bytes in it."""
    import_image(ceph, f"{pool}/{image_name}", random_bytes(SIZE))
    return f"{pool}/{image_name}"


@pytest.fixture
def path(spec: str, image_name: str, mount: Mount) -> Path:
    """The file of that image."""
    return mount.file(image_name)


def assert_refused(code: int, path: Path, flags: int) -> None:
    with pytest.raises(OSError) as refusal, opened(path, flags):  # noqa: PT011 (the errno matters)
        pass
    assert errno.errorcode[refusal.value.errno or 0] == errno.errorcode[code]


def test_written_data_is_in_the_image(ceph: Ceph, spec: str, path: Path) -> None:
    expected = bytearray(random_bytes(SIZE))
    rng = random.Random(1)
    with opened(path, os.O_RDWR) as file:
        for _ in range(60):
            data = rng.randbytes(rng.choice((1, 511, 4096, 70_000, 300_001)))
            off = rng.randrange(SIZE - len(data))
            assert os.pwrite(file, data, off) == len(data)
            expected[off : off + len(data)] = data
        assert os.pread(file, SIZE, 0) == expected
        os.fsync(file)
        assert export_image(ceph, spec) == expected
    assert export_image(ceph, spec) == expected


def test_whole_image_copied_in(ceph: Ceph, spec: str, path: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(random_bytes(SIZE, 7))
    run("dd", f"if={source}", f"of={path}", "bs=1M", "conv=notrunc,fsync")
    assert export_image(ceph, spec) == source.read_bytes()


def test_direct_write_is_in_the_image_without_fsync(ceph: Ceph, spec: str, path: Path) -> None:
    with mmap.mmap(-1, 2 * MIB) as buffer, opened(path, os.O_RDWR | os.O_DIRECT) as file:
        buffer[:] = random_bytes(2 * MIB, 3)
        assert os.pwritev(file, [buffer], 3 * MIB) == 2 * MIB
        assert export_image(ceph, spec)[3 * MIB : 5 * MIB] == buffer[:]


def test_mapped_writes(ceph: Ceph, spec: str, path: Path) -> None:
    with opened(path, os.O_RDWR) as file, mmap.mmap(file, 0) as mapped:
        mapped[5 * MIB : 5 * MIB + 11] = b"mapped data"
        mapped.flush()
        assert export_image(ceph, spec)[5 * MIB : 5 * MIB + 11] == b"mapped data"


def test_many_writers_at_once(ceph: Ceph, spec: str, path: Path) -> None:
    blocks = [random_bytes(64 * 1024, number) for number in range(SIZE // (64 * 1024))]
    with opened(path, os.O_RDWR) as file, ThreadPoolExecutor(16) as threads:
        done = threads.map(
            lambda item: os.pwrite(file, item[1], item[0] * 64 * 1024), enumerate(blocks)
        )
        assert set(done) == {64 * 1024}
        os.fsync(file)
    assert export_image(ceph, spec)[: len(blocks) * 64 * 1024] == b"".join(blocks)


@pytest.mark.parametrize("direct", [0, os.O_DIRECT], ids=["buffered", "direct"])
def test_write_across_the_end_is_short_then_no_space(
    ceph: Ceph, spec: str, path: Path, direct: int
) -> None:
    last = SIZE // 4096 * 4096
    with mmap.mmap(-1, 8192) as buffer, opened(path, os.O_RDWR | direct) as file:
        buffer[:] = b"e" * 8192
        assert os.pwritev(file, [buffer], last) == SIZE - last
        for off in (last + 4096, SIZE + MIB - 1536):
            with pytest.raises(OSError, match="No space left"):
                os.pwritev(file, [buffer], off)
        os.fsync(file)
        assert os.fstat(file).st_size == SIZE
    assert export_image(ceph, spec) == random_bytes(SIZE)[:last] + b"e" * (SIZE - last)


def test_append_has_no_space(ceph: Ceph, spec: str, path: Path) -> None:
    with (
        opened(path, os.O_WRONLY | os.O_APPEND) as file,
        pytest.raises(OSError, match="No space left"),
    ):
        os.write(file, b"more")
    assert export_image(ceph, spec) == random_bytes(SIZE)


def test_nothing_cuts_an_image(ceph: Ceph, spec: str, path: Path) -> None:
    assert_refused(errno.EPERM, path, os.O_WRONLY | os.O_TRUNC)
    assert_refused(errno.EPERM, path, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    with opened(path, os.O_RDWR) as file:
        for size in (0, 1, SIZE - 1):
            with pytest.raises(PermissionError):
                os.ftruncate(file, size)
            with pytest.raises(PermissionError):
                os.truncate(path, size)
    assert export_image(ceph, spec) == random_bytes(SIZE)


def test_truncate_to_the_same_size(ceph: Ceph, spec: str, path: Path) -> None:
    os.truncate(path, SIZE)
    with opened(path, os.O_RDWR) as file:
        os.ftruncate(file, SIZE)
    assert export_image(ceph, spec) == random_bytes(SIZE)


def test_truncate_grows_the_image(ceph: Ceph, spec: str, path: Path) -> None:
    with opened(path, os.O_RDWR) as file:
        os.ftruncate(file, SIZE + MIB)
        assert os.fstat(file).st_size == SIZE + MIB
        assert os.pwrite(file, b"new end", SIZE + MIB - 7) == 7
        os.fsync(file)
    os.truncate(path, SIZE + 2 * MIB)
    assert path.stat().st_size == SIZE + 2 * MIB
    expected = random_bytes(SIZE) + bytes(MIB - 7) + b"new end" + bytes(MIB)
    assert path.read_bytes() == expected
    assert export_image(ceph, spec) == expected


def test_times_are_accepted_and_ignored(path: Path) -> None:
    def times() -> tuple[int, int]:
        status = path.stat()
        return status.st_mtime_ns, status.st_atime_ns

    before = times()
    os.utime(path, (1, 2))
    run("touch", str(path))
    run("touch", "-d", "2001-01-01", str(path))
    assert times() == before


def test_no_permission_to_write(
    ceph: Ceph, pool: str, spec: str, image_name: str, mounting: Mounting
) -> None:
    with mounting(pool, "--id", "ro") as mount:
        path = mount.file(image_name)
        for flags in (os.O_WRONLY, os.O_RDWR):
            assert_refused(errno.EROFS, path, flags)
        assert path.read_bytes() == random_bytes(SIZE)


def test_image_removed_and_made_anew(
    ceph: Ceph, pool: str, spec: str, image_name: str, mount: Mount
) -> None:
    """A file that is opened anew is the image of that name, and not what was read before."""
    path = mount.file(image_name)
    assert path.read_bytes() == random_bytes(SIZE)
    ceph.rbd("rm", "--no-progress", spec)
    import_image(ceph, spec, random_bytes(MIB, 8))
    eventually(lambda: path.stat().st_size == MIB, 3.0, "the new image")
    assert path.read_bytes() == random_bytes(MIB, 8)
    with opened(path, os.O_RDWR) as file:
        os.pwrite(file, b"new", 0)
    with open_image(ceph, pool, image_name, read_only=True) as image:
        assert image.read(0, 3) == b"new"
