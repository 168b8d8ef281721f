"""Programs that copy sparse files: byte for byte what `rbd export` has, and no hole is read."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pytest

from tests.support.ceph import run
from tests.support.images import MIB, open_image, random_bytes
from tests.support.mounts import opened
from tests.support.space import assert_same, data_extents, requests, used_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.ceph import Ceph
    from tests.support.mounts import Mount, Mounting

GIB = 1024 * MIB
SIZE = 8 * GIB
OBJECT = 4 * MIB
# (offset, length), the third across two objects; and what SEEK_DATA may say of them at most.
DATA = ((0, 4096), (GIB + 12345, 100_000), (5 * GIB - 300_000, 600_000), (SIZE - 5000, 5000))
OBJECTS = 5
READ_AHEAD = 16 * MIB

pytestmark = pytest.mark.usefixtures("native")


@pytest.fixture(scope="module")
def mount(module_mounting: Mounting, pool: str, thin: str) -> Iterator[Mount]:
    with module_mounting(pool, "-o", "manage", lifetime_s=120.0) as mount:
        yield mount


@pytest.fixture(scope="module")
def thin(ceph: Ceph, pool: str) -> str:
    """A snapshot of 8 GiB with little data; the image has other data by now."""
    ceph.rbd("create", f"--size={SIZE}B", f"{pool}/thin")
    with open_image(ceph, pool, "thin") as image:
        for seed, (off, length) in enumerate(DATA):
            image.write(random_bytes(length, seed), off)
        image.create_snap("s")
        image.write(b"later", 2 * GIB)
        image.write(b"later", 0)
    return "thin@s"


@pytest.fixture(scope="module")
def exported(ceph: Ceph, pool: str, thin: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("exported") / "thin"
    ceph.rbd("export", "--no-progress", f"{pool}/{thin}", str(path))
    return path


@pytest.fixture
def source(mount: Mount, thin: str) -> Iterator[Path]:
    """The file of the snapshot; its test reads the objects, and nothing of 8 GiB of holes."""
    path = mount.file(thin)
    # Nothing that another test has read is in the page cache.
    with opened(path, os.O_RDONLY) as file:
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
    before = requests(mount)
    yield path
    after = requests(mount)
    count = after["bytes_read"] - before["bytes_read"]
    # The kernel reads ahead beyond the end of the data, not knowing that it is one.
    assert OBJECT < count <= OBJECTS * (OBJECT + READ_AHEAD)


@pytest.mark.parametrize("sparse", ["auto", "always"])
def test_cp(source: Path, exported: Path, tmp_path: Path, sparse: str) -> None:
    copy = tmp_path / "copy"
    run("cp", f"--sparse={sparse}", str(source), str(copy))
    assert_same(copy, exported)
    assert copy.stat().st_blocks * 512 <= OBJECTS * OBJECT


def test_tar(source: Path, exported: Path, tmp_path: Path) -> None:
    archive = tmp_path / "archive.tar"
    run("tar", "-S", "-cf", str(archive), "-C", str(source.parent), source.name)
    assert archive.stat().st_size < 2 * OBJECTS * OBJECT
    run("tar", "-xf", str(archive), "-C", str(tmp_path))
    assert_same(tmp_path / source.name, exported)


@pytest.mark.parametrize("cache", ["none", "writeback"])
def test_qemu_img_convert(source: Path, exported: Path, tmp_path: Path, cache: str) -> None:
    copy = tmp_path / "copy"
    run("qemu-img", "convert", "-T", cache, "-f", "raw", "-O", "raw", str(source), str(copy))
    assert_same(copy, exported)


def test_qemu_img_map(mount: Mount, thin: str) -> None:
    before = requests(mount)
    ranges = json.loads(run("qemu-img", "map", "-f", "raw", "--output=json", str(mount.file(thin))))
    assert sum(found["length"] for found in ranges) == SIZE
    data = [(found["start"], found["length"]) for found in ranges if found["data"]]
    assert data == [
        (0, OBJECT),
        (GIB, OBJECT),
        (5 * GIB - OBJECT, 2 * OBJECT),
        (SIZE - OBJECT, OBJECT),
    ]
    assert all(found["zero"] for found in ranges if not found["data"])
    # It looks for the format at the beginning, if anywhere.
    assert requests(mount)["bytes_read"] - before["bytes_read"] <= MIB


def test_rsync(ceph: Ceph, pool: str, image_name: str, mount: Mount, tmp_path: Path) -> None:
    """It reads holes too, as it does of any file."""
    spec = f"{pool}/{image_name}"
    ceph.rbd("create", "--size=256M", spec)
    with open_image(ceph, pool, image_name) as image:
        image.write(random_bytes(MIB), 100 * MIB - 1000)
        image.create_snap("s")
    copy, exported = tmp_path / "copy", tmp_path / "exported"
    run("rsync", "-S", str(mount.file(f"{image_name}@s")), str(copy))
    ceph.rbd("export", "--no-progress", f"{spec}@s", str(exported))
    run("cmp", str(copy), str(exported))
    assert copy.stat().st_blocks * 512 < 2 * MIB


@pytest.mark.parametrize("program", ["cp", "qemu-img", "rsync", "tar"])
def test_copies_into_the_mount_are_thin(
    ceph: Ceph, pool: str, image_name: str, mount: Mount, tmp_path: Path, program: str
) -> None:
    size = 128 * MIB
    source, target = tmp_path / image_name, mount.file(image_name)
    with source.open("wb") as file:
        file.truncate(size)
        file.seek(100 * MIB - 1000)
        file.write(random_bytes(MIB))
    # Permissions are those of the mount, and a program that cannot set them says so.
    source.chmod(0o600)
    run("tar", "-S", "-cf", str(tmp_path / "archive.tar"), "-C", str(tmp_path), image_name)
    commands = {
        "cp": ["cp", "--sparse=always", str(source), str(target)],
        "qemu-img": ["qemu-img", "convert", "-f", "raw", "-O", "raw", str(source), str(target)],
        "rsync": ["rsync", "-S", "--inplace", str(source), str(target)],
        "tar": ["tar", "-xf", str(tmp_path / "archive.tar"), "-C", str(mount.path)],
    }
    run(*commands[program])
    exported = tmp_path / "exported"
    ceph.rbd("export", "--no-progress", f"{pool}/{image_name}", str(exported))
    run("cmp", str(source), str(exported))
    # Two have data, and qemu-img writes zeros to the first, to learn what direct I/O asks for.
    assert used_bytes(ceph, f"{pool}/{image_name}") <= 3 * OBJECT


def test_what_is_copied_within_the_mount_is_as_thin(
    ceph: Ceph, pool: str, image_name: str, mount: Mount, thin: str, exported: Path
) -> None:
    copy, snapshot = mount.file(image_name), mount.file(f"{image_name}@s")
    run("cp", "--sparse=auto", str(mount.file(thin)), str(copy))
    # Of which the holes are known, so that they need not be compared.
    os.link(copy, snapshot)
    assert_same(snapshot, exported)
    assert used_bytes(ceph, f"{pool}/{image_name}@s") == OBJECTS * OBJECT
    with opened(mount.file(image_name), os.O_RDWR) as file:
        assert len(data_extents(file)) == len(DATA)
