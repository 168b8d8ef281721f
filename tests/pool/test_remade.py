"""A pool that is removed, renamed, or made anew under its name, below a mount that goes on."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.support.conditions import eventually
from tests.support.images import MIB, export_image, import_image, random_bytes
from tests.support.mounts import Mount, opened, opened_and_lost
from tests.support.refusals import refusal

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.ceph import Ceph
    from tests.support.mounts import Mounting

OLD, NEW = random_bytes(MIB, seed=1), random_bytes(MIB, seed=2)
both_data_paths = pytest.mark.parametrize("mount_options", ["native", "python"], indirect=True)
every_mount = pytest.mark.parametrize("everything", [False, True], ids=["pool", "all pools"])


def make_pool(ceph: Ceph, name: str) -> None:
    ceph.ceph("osd", "pool", "create", name, "8")
    ceph.rbd("pool", "init", name)


@pytest.fixture
def doomed(ceph: Ceph, image_name: str) -> Iterator[str]:
    """A pool with image `vm` and snapshot `vm@s`, and image `gone`."""
    name = f"doomed-{image_name}"
    make_pool(ceph, name)
    import_image(ceph, f"{name}/vm", OLD)
    ceph.rbd("snap", "create", "--no-progress", f"{name}/vm@s")
    import_image(ceph, f"{name}/gone", OLD)
    yield name
    for pool in ceph.ceph("osd", "pool", "ls").split():
        if pool.startswith(name):
            ceph.remove_pool(pool)


def mount_of(mounting: Mounting, pool: str, *, everything: bool) -> tuple[Mount, str]:
    """A mount, and where in it the pool is."""
    return (mounting(None), pool) if everything else (mounting(pool), ".")


def names(directory: Path) -> set[str]:
    try:
        return set(os.listdir(directory))
    except OSError:
        return set()


@both_data_paths
@every_mount
def test_pool_removed_and_made_anew(
    ceph: Ceph, doomed: str, mounting: Mounting, everything: bool
) -> None:
    mount, where = mount_of(mounting, doomed, everything=everything)
    with mount:
        mount.allow_log("WARNING", "ERROR")
        directory = mount.file(where)
        with (
            opened_and_lost(directory / "vm", os.O_RDONLY) as reader,
            opened_and_lost(directory / "gone", os.O_RDWR) as writer,
            opened_and_lost(directory / "vm@s", os.O_RDONLY) as snapshot,
        ):
            assert os.pread(snapshot, MIB, 0) == OLD
            inode = os.fstat(reader).st_ino
            ceph.remove_pool(doomed)
            make_pool(ceph, doomed)
            import_image(ceph, f"{doomed}/vm", NEW)
            ceph.rbd("snap", "create", "--no-progress", f"{doomed}/vm@s")
            import_image(ceph, f"{doomed}/late", NEW)
            for file in (reader, writer):
                eventually(lambda file=file: refusal(lambda: os.pread(file, 512, 0)) == "ESTALE")  # type: ignore[misc]
            # The pages of a snapshot would stay for ever.
            eventually(lambda: refusal(lambda: os.pread(snapshot, 512, 0)) == "ESTALE")
            assert refusal(lambda: os.pwrite(writer, b"w", 0)) == "ESTALE"
            assert refusal(lambda: os.fsync(writer)) == "ESTALE"
            eventually(lambda: names(directory) == {"vm", "vm@s", "late"}, what="the new images")
            assert (directory / "vm").read_bytes() == NEW
            assert (directory / "vm@s").read_bytes() == NEW
            assert (directory / "vm").stat().st_ino != inode
            assert not (directory / "gone").exists()
            with opened(directory / "vm", os.O_RDWR) as file:
                assert os.pwrite(file, b"w" * 4096, 0) == 4096
                os.fsync(file)
            assert refusal(lambda: os.pread(reader, 512, 0)) == "ESTALE"
        assert mount.alive
    assert export_image(ceph, f"{doomed}/vm") == b"w" * 4096 + NEW[4096:]


@every_mount
def test_name_first_asked_for_after_the_pool_was_made_anew(
    ceph: Ceph, doomed: str, mounting: Mounting, everything: bool
) -> None:
    """Nothing but a look for one name tells the mount that the pool is another one."""
    mount, where = mount_of(mounting, doomed, everything=everything)
    with mount:
        mount.allow_log("WARNING")
        assert mount.file(f"{where}/vm").stat().st_size == MIB
        ceph.remove_pool(doomed)
        make_pool(ceph, doomed)
        import_image(ceph, f"{doomed}/vm", NEW + NEW)
        eventually(lambda: refusal(mount.file(f"{where}/vm").stat) == "no error")
        eventually(lambda: mount.file(f"{where}/vm").stat().st_size == 2 * MIB, what="the size")
        assert mount.file(f"{where}/vm").read_bytes() == NEW + NEW


def test_pool_removed(ceph: Ceph, doomed: str, mounting: Mounting) -> None:
    """Not an empty directory, which a mirror would take for a deletion."""
    with mounting(doomed) as mount:
        mount.allow_log("WARNING")
        ceph.remove_pool(doomed)
        eventually(lambda: refusal(lambda: os.listdir(mount.path)) == "ESTALE", what="ESTALE")
        for _ in range(5):
            assert refusal(lambda: os.listdir(mount.path)) == "ESTALE"
        make_pool(ceph, doomed)
        eventually(lambda: refusal(lambda: os.listdir(mount.path)) == "no error", what="a pool")
        assert os.listdir(mount.path) == []


@both_data_paths
def test_pool_renamed(ceph: Ceph, doomed: str, mounting: Mounting) -> None:
    """Open files go on, in the pool that they are in; the name is another pool's."""
    with mounting(doomed) as mount:
        with opened(mount.file("vm"), os.O_RDWR) as file:
            assert os.pwrite(file, b"a" * 512, 0) == 512
            ceph.ceph("osd", "pool", "rename", doomed, f"{doomed}-old")
            make_pool(ceph, doomed)
            import_image(ceph, f"{doomed}/vm", NEW)
            eventually(lambda: mount.file("vm").read_bytes() == NEW, what="the new image")
            assert os.pwrite(file, b"b" * 512, 512) == 512
            os.fsync(file)
            assert os.pread(file, 1024, 0) == b"a" * 512 + b"b" * 512
            assert names(mount.path) == {"vm"}
        assert mount.alive
    assert export_image(ceph, f"{doomed}-old/vm") == b"a" * 512 + b"b" * 512 + OLD[1024:]
    assert export_image(ceph, f"{doomed}/vm") == NEW
