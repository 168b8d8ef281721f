"""Images and snapshots read through a mount are what `rbd export` says they are."""

from __future__ import annotations

import mmap
import os
from typing import TYPE_CHECKING

import pytest
import rbd

from tests.support.ceph import run
from tests.support.conditions import eventually
from tests.support.images import MIB, export_image, import_image, open_image, random_bytes
from tests.support.mounts import opened

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.ceph import Ceph
    from tests.support.mounts import Mount, Mounting

# No multiple of anything: not of an object, a page or a sector.
ODD_SIZE = 9 * MIB + 1234


@pytest.fixture
def image(ceph: Ceph, pool: str, image_name: str) -> str:
    """An image of an odd size, changed after each of its snapshots `one` and `two`."""
    spec = f"{pool}/{image_name}"
    import_image(ceph, spec, random_bytes(ODD_SIZE))
    for number, snap in enumerate(("one", "two")):
        ceph.rbd("snap", "create", "--no-progress", f"{spec}@{snap}")
        with open_image(ceph, pool, image_name) as image:
            image.write(random_bytes(300_000, number + 1), number * 4 * MIB + 4000)
    return image_name


def test_image_and_snapshots_are_as_exported(
    ceph: Ceph, pool: str, image: str, mount: Mount, tmp_path: Path
) -> None:
    contents = set()
    for number, name in enumerate((image, f"{image}@one", f"{image}@two")):
        exported = tmp_path / f"exported-{number}"
        ceph.rbd("export", "--no-progress", f"{pool}/{name}", str(exported))
        run("cmp", str(exported), str(mount.file(name)))
        contents.add(exported.read_bytes())
    assert len(contents) == 3


def test_any_range_can_be_read(ceph: Ceph, pool: str, image: str, mount: Mount) -> None:
    data = export_image(ceph, f"{pool}/{image}")
    with opened(mount.file(image), os.O_RDONLY) as file:
        for off, length in (
            (0, 1),
            (511, 514),
            (4 * MIB - 1, 2),
            (4 * MIB - 5000, MIB),
            (ODD_SIZE - 1, 1),
            (ODD_SIZE - 10, 100),
            (ODD_SIZE, 100),
            (ODD_SIZE + MIB, 100),
        ):
            assert os.pread(file, length, off) == data[off : off + length]


def test_direct_reads(ceph: Ceph, pool: str, image: str, mount: Mount) -> None:
    data = export_image(ceph, f"{pool}/{image}")
    buffer = mmap.mmap(-1, MIB)
    with opened(mount.file(image), os.O_RDONLY | os.O_DIRECT) as file, buffer:
        for off in (0, 4 * MIB - 4096, ODD_SIZE // 4096 * 4096):
            expected = data[off : off + MIB]
            assert os.preadv(file, [buffer], off) == len(expected)
            assert buffer[: len(expected)] == expected


def mapped_content(path: Path) -> bytes:
    with (
        opened(path, os.O_RDONLY) as file,
        mmap.mmap(file, 0, prot=mmap.PROT_READ) as mapped,
    ):
        return mapped[:]


def test_mapped_snapshot(ceph: Ceph, pool: str, image: str, mount: Mount) -> None:
    assert mapped_content(mount.file(f"{image}@one")) == export_image(ceph, f"{pool}/{image}@one")


def test_mapped_image(ceph: Ceph, pool: str, image: str, mount: Mount) -> None:
    if "data path: python" in mount.log_text:
        pytest.skip("libfuse 3.14 does not ask for FUSE_DIRECT_IO_ALLOW_MMAP")
    assert mapped_content(mount.file(image)) == export_image(ceph, f"{pool}/{image}")


def test_thin_image_reads_zeros(ceph: Ceph, pool: str, image_name: str, mount: Mount) -> None:
    size = 10 * 1024 * MIB
    ceph.rbd("create", "--size=10G", f"{pool}/{image_name}")
    with open_image(ceph, pool, image_name) as image:
        image.write(b"end", size - 3)
    with opened(mount.file(image_name), os.O_RDONLY) as file:
        assert os.fstat(file).st_size == size
        assert os.pread(file, 4096, 5 * 1024 * MIB) == bytes(4096)
        assert os.pread(file, 4096, size - 5) == b"\0\0end"


def test_empty_image(ceph: Ceph, pool: str, image_name: str, mount: Mount) -> None:
    ceph.rbd("create", "--size=0", f"{pool}/{image_name}")
    assert mount.file(image_name).read_bytes() == b""


def test_snapshot_is_as_large_as_the_image_was(
    ceph: Ceph, pool: str, image: str, mount: Mount
) -> None:
    ceph.rbd("resize", "--no-progress", "--allow-shrink", "--size=1M", f"{pool}/{image}")
    path = mount.file(image)
    eventually(lambda: path.stat().st_size == MIB, what="the new size")
    assert path.read_bytes() == export_image(ceph, f"{pool}/{image}")
    assert mount.file(f"{image}@one").read_bytes() == export_image(ceph, f"{pool}/{image}@one")


def test_clone_reads_through_to_its_parent(ceph: Ceph, pool: str, image: str, mount: Mount) -> None:
    ceph.rbd("snap", "protect", f"{pool}/{image}@one")
    ceph.rbd("clone", f"{pool}/{image}@one", f"{pool}/{image}-clone")
    with open_image(ceph, pool, f"{image}-clone") as clone:
        clone.write(b"its own", 5 * MIB)
    content = mount.file(f"{image}-clone").read_bytes()
    assert content == export_image(ceph, f"{pool}/{image}-clone")
    assert (
        content.replace(b"its own", b"", 1)[: 5 * MIB]
        == (export_image(ceph, f"{pool}/{image}@one")[: 5 * MIB])
    )


def test_namespaces_are_directories(ceph: Ceph, pool: str, image: str, mounting: Mounting) -> None:
    inner = f"{pool}/tenant-{image}"
    ceph.rbd("namespace", "create", inner)
    ceph.rbd("namespace", "create", f"{pool}/{image}")
    import_image(ceph, f"{inner}/disk", b"inside" * 1000)
    ceph.rbd("snap", "create", "--no-progress", f"{inner}/disk@s")
    with mounting(pool) as mount, mounting(inner) as inner_mount:
        directory = mount.file(f"tenant-{image}")
        assert directory.is_dir()
        for path in (directory, inner_mount.path):
            assert sorted(os.listdir(path)) == ["disk", "disk@s"]
            assert (path / "disk@s").read_bytes() == b"inside" * 1000
        # A namespace that has the name of an image gives way to it.
        assert mount.file(image).is_file()
        assert os.listdir(mount.file(f"@{image}")) == []
        assert {image, f"@{image}", f"tenant-{image}"} <= set(os.listdir(mount.path))


def test_names_that_no_file_can_have(
    ceph: Ceph, pool: str, image_name: str, mounting: Mounting
) -> None:
    names = {"a/b": "a%2Fb", "a%2Fb": "a%252Fb", "x@y": "x%40y", "..": "%2E%2E", "ü\n -": "ü\n -"}
    namespace = f"{pool}/{image_name}"
    ceph.rbd("namespace", "create", namespace)
    with ceph.connect() as cluster, cluster.open_ioctx(pool) as ioctx:
        ioctx.set_namespace(image_name)
        for number, name in enumerate(names):
            rbd.RBD().create(ioctx, name, (number + 1) * MIB)
        with mounting(namespace) as mount:
            assert set(os.listdir(mount.path)) == set(names.values())
            for number, file in enumerate(names.values()):
                assert mount.file(file).read_bytes() == bytes((number + 1) * MIB)


NOT_UTF8 = b"not \xff utf-8"


def test_image_name_that_is_not_utf8(ceph: Ceph, pool: str, image: str, mounting: Mounting) -> None:
    with ceph.connect() as cluster, cluster.open_ioctx(pool) as ioctx:
        rbd.RBD().create(ioctx, NOT_UTF8, MIB)
        try:
            with mounting(pool, lifetime_s=15.0) as mount:
                assert {image, "not %FF utf-8"} <= set(os.listdir(mount.path))
                assert mount.file("not %FF utf-8").read_bytes() == bytes(MIB)
        finally:
            rbd.RBD().remove(ioctx, NOT_UTF8)


def test_snapshot_name_that_is_not_utf8(
    ceph: Ceph, pool: str, image: str, mounting: Mounting
) -> None:
    with open_image(ceph, pool, image) as handle:
        handle.create_snap(NOT_UTF8)
    with mounting(pool) as mount:
        assert f"{image}@not %FF utf-8" in os.listdir(mount.path)
        content = mount.file(f"{image}@not %FF utf-8").read_bytes()
        assert content == export_image(ceph, f"{pool}/{image}")


def test_many_images(ceph: Ceph, pool: str, image_name: str, mounting: Mounting) -> None:
    namespace = f"{pool}/{image_name}"
    ceph.rbd("namespace", "create", namespace)
    sizes = {f"image-{number}": (number + 1) * MIB for number in range(300)}
    with ceph.connect() as cluster, cluster.open_ioctx(pool) as ioctx:
        ioctx.set_namespace(image_name)
        for name, size in sizes.items():
            rbd.RBD().create(ioctx, name, size)
    with mounting(namespace) as mount:
        with os.scandir(mount.path) as entries:
            assert {entry.name: entry.stat().st_size for entry in entries} == sizes
        listed = run("ls", "-l", str(mount.path)).splitlines()[1:]
        assert {line.split()[-1]: int(line.split()[4]) for line in listed} == sizes
        assert not ceph.watchers(f"{namespace}/image-7")
