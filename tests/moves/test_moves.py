"""`mv` of images between pools, while nobody and while everybody uses them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.support.images import MIB, export_image
from tests.support.mounts import opened
from tests.support.moves import (
    SIZE,
    ModelWriter,
    assert_nothing_left,
    make,
    move,
    wait_until_done,
    whole_cluster,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.ceph import Ceph
    from tests.support.mounts import Mount, Mounting


@pytest.fixture
def mount(mounting: Mounting) -> Iterator[Mount]:
    with whole_cluster(mounting) as mount:
        yield mount


def test_nobody_uses_it(ceph: Ceph, pools: tuple[str, str], mount: Mount, image_name: str) -> None:
    """Into a namespace too, under another name; a clone stays one."""
    hdd, ssd = pools
    data = make(ceph, f"{hdd}/{image_name}", snapshot=True)
    ceph.rbd("snap", "protect", f"{hdd}/{image_name}@before")
    clone_of = ["clone", "--rbd-default-clone-format=2", f"{hdd}/{image_name}@before"]
    ceph.rbd(*clone_of, f"{ssd}/{image_name}-clone")
    before = export_image(ceph, f"{hdd}/{image_name}@before")
    mount.file(f"{ssd}/tenant").mkdir()
    new = f"{image_name}-new"
    with opened(mount.file(f"{ssd}/{image_name}-clone"), os.O_RDONLY) as clone:
        move(mount.file(f"{hdd}/{image_name}"), mount.file(f"{ssd}/tenant/{new}"))
        assert sorted(os.listdir(mount.file(f"{ssd}/tenant"))) == [new, f"{new}@before"]
        assert image_name not in os.listdir(mount.file(hdd))
        # Opened before all is copied: the answers come when they are right.
        assert mount.file(f"{ssd}/tenant/{new}").read_bytes() == data
        assert mount.file(f"{ssd}/tenant/{new}@before").read_bytes() == before
        wait_until_done(mount, new)
        assert os.pread(clone, SIZE, 0) == before
    assert export_image(ceph, f"{ssd}/tenant/{new}") == data
    assert export_image(ceph, f"{ssd}/tenant/{new}@before") == before
    assert export_image(ceph, f"{ssd}/{image_name}-clone") == before
    assert_nothing_left(ceph, hdd, image_name)


@pytest.mark.parametrize(
    ("mount_options", "snapshot"),
    [("native", False), ("native", True), ("python", True)],
    indirect=["mount_options"],
)
def test_open_files_follow(
    ceph: Ceph, pools: tuple[str, str], mount: Mount, image_name: str, snapshot: bool
) -> None:
    hdd, ssd = pools
    data = make(ceph, f"{hdd}/{image_name}", snapshot=snapshot)
    source, target = (mount.file(f"{pool}/{image_name}") for pool in pools)
    watched = f"{image_name}@before" if snapshot else image_name
    with (
        opened(mount.file(f"{hdd}/{watched}"), os.O_RDONLY) as reader,
        opened(source, os.O_RDONLY) as other,
    ):
        before = os.pread(reader, SIZE, 0) if snapshot else b""
        with ModelWriter(source, data).running() as writer:
            inode = os.fstat(other).st_ino
            move(source, target)
            assert not source.exists()
            # Under another number the kernel would keep pages of its own.
            assert os.stat(target).st_ino == os.fstat(other).st_ino == inode
            if snapshot:
                assert os.pread(reader, SIZE, 0) == before
            wait_until_done(mount, image_name)
            writer.wait_for_more()
        assert os.pread(other, SIZE, 0) == writer.data
        assert not snapshot or os.pread(reader, SIZE, 0) == before
    assert target.read_bytes() == writer.data
    assert ceph.watchers(f"{ssd}/{image_name}") == []
    assert export_image(ceph, f"{ssd}/{image_name}") == writer.data
    if snapshot:
        assert export_image(ceph, f"{ssd}/{image_name}@before") == before
    assert_nothing_left(ceph, hdd, image_name)


def test_into_a_namespace_of_a_mounted_pool(
    ceph: Ceph, pools: tuple[str, str], mounting: Mounting, image_name: str
) -> None:
    hdd, _ = pools
    data = make(ceph, f"{hdd}/{image_name}", snapshot=True, size=MIB)
    with mounting(hdd, "-o", "manage") as mount:
        space = mount.file(f"{image_name}-space")
        space.mkdir()
        move(mount.file(image_name), space / image_name)
        wait_until_done(mount, image_name)
        assert (space / image_name).read_bytes() == data
        assert sorted(os.listdir(space)) == [image_name, f"{image_name}@before"]
        assert not mount.file(image_name).exists()
    assert export_image(ceph, f"{hdd}/{space.name}/{image_name}") == data
    assert_nothing_left(ceph, hdd, image_name)
