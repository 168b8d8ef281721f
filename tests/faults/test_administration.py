"""What an administrator does to an image, with `rbd`, while files are open on it here."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.keeper.test_load import verify
from tests.support.ceph import CommandError
from tests.support.conditions import eventually
from tests.support.images import MIB, export_image, import_image, random_bytes
from tests.support.mounts import opened, opened_and_lost
from tests.support.refusals import refusal
from tests.support.servers import repeatedly

if TYPE_CHECKING:
    from tests.support.ceph import Ceph
    from tests.support.mounts import Mount, Mounting

DATA = random_bytes(4 * MIB)


@pytest.fixture
def image(ceph: Ceph, pool: str, image_name: str) -> str:
    """An image of 4 MiB, and another beside it."""
    import_image(ceph, f"{pool}/{image_name}", DATA)
    import_image(ceph, f"{pool}/{image_name}-other", random_bytes(MIB, seed=1))
    return image_name


def snapshot(ceph: Ceph, spec: str) -> None:
    ceph.rbd("snap", "create", "--no-progress", spec)


def assert_lives(mount: Mount, image: str) -> None:
    """The mount answers, and the other image is a file as before."""
    assert f"{image}-other" in os.listdir(mount.path)
    with opened(mount.file(f"{image}-other"), os.O_RDWR) as file:
        os.pwrite(file, b"lives", 0)
        os.fsync(file)
        assert os.pread(file, MIB, 0) == b"lives" + random_bytes(MIB, seed=1)[5:]


def test_flattened(ceph: Ceph, pool: str, image: str, mount: Mount) -> None:
    """A clone that becomes independent of its parent has the same data all the while."""
    snapshot(ceph, f"{pool}/{image}@s")
    ceph.rbd("clone", "--rbd-default-clone-format=2", f"{pool}/{image}@s", f"{pool}/{image}-clone")
    data = bytearray(DATA)
    with opened(mount.file(f"{image}-clone"), os.O_RDWR) as file:
        os.pwrite(file, b"before", 0)
        ceph.rbd("flatten", "--no-progress", f"{pool}/{image}-clone")
        os.pwrite(file, b"after", 2 * MIB)
        os.fsync(file)
        data[:6], data[2 * MIB : 2 * MIB + 5] = b"before", b"after"
        assert os.pread(file, 4 * MIB, 0) == data
        # Nothing is taken from the parent any more.
        with opened(mount.file(image), os.O_RDWR) as parent:
            os.pwrite(parent, bytes(4 * MIB), 0)
        assert os.pread(file, 4 * MIB, 0) == data
    assert_lives(mount, image)
    assert export_image(ceph, f"{pool}/{image}-clone") == data


def test_moved_to_the_trash(ceph: Ceph, pool: str, image: str, mount: Mount) -> None:
    """Not under a writer; a reader goes on without a name, and is the same file with one again."""
    spec, path = f"{pool}/{image}", mount.file(image)
    image_id = os.getxattr(path, "user.rbd.id").decode()
    with opened(path, os.O_RDWR) as file:
        with pytest.raises(CommandError, match="busy"):
            ceph.rbd("trash", "mv", spec)
        os.pwrite(file, DATA[:7], 0)
        os.fsync(file)
    eventually(lambda: not ceph.watchers(spec), what="the end of the watch")
    with opened(path, os.O_RDONLY) as file:
        inode = os.fstat(file).st_ino
        ceph.rbd("trash", "mv", spec)
        eventually(lambda: not path.exists(), what="the end of the name")
        assert os.pread(file, 4 * MIB, 0) == DATA
        assert_lives(mount, image)
        ceph.rbd("trash", "restore", f"{pool}/{image_id}")
        eventually(path.exists, what="the name")
        assert path.stat().st_ino == inode
        assert os.pread(file, 4 * MIB, 0) == DATA
    assert export_image(ceph, spec) == DATA


def test_migrated(ceph: Ceph, pool: str, image: str, mounting: Mounting) -> None:
    """Who reads the source is told that it is going; who writes to it keeps it."""
    spec, target = f"{pool}/{image}", f"{pool}/{image}-target"
    with mounting(pool) as mount:
        path = mount.file(image)
        with opened(path, os.O_RDWR), pytest.raises(CommandError):
            ceph.rbd("migration", "prepare", spec, target)
        eventually(lambda: not ceph.watchers(spec), what="the end of the watch")
        with opened_and_lost(path, os.O_RDONLY) as file:
            assert os.pread(file, 4 * MIB, 0) == DATA
            ceph.rbd("migration", "prepare", spec, target)
            mount.expect_log(rf"WARNING .*open files of {spec} are lost: .*moved elsewhere")
            mount.allow_log(rf"WARNING .*{spec}")
            text = f"open files of {spec} are lost"
            eventually(lambda: text in mount.log_text, what="the log")
            assert refusal(lambda: os.pread(file, 1, 0)) == "ESTALE"
        assert_lives(mount, image)
        eventually(mount.file(f"{image}-target").exists, what="the target")
        with opened(mount.file(f"{image}-target"), os.O_RDONLY) as file:
            ceph.rbd("migration", "execute", "--no-progress", target)
            ceph.rbd("migration", "commit", "--no-progress", target)
            assert os.pread(file, 4 * MIB, 0) == DATA
        assert mount.alive
    assert export_image(ceph, target) == DATA


def test_rolled_back(ceph: Ceph, pool: str, image: str, mount: Mount) -> None:
    """Not under a writer; readers and who opens it from then on see one state, the old one."""
    spec, path = f"{pool}/{image}", mount.file(image)
    snapshot(ceph, f"{spec}@s")
    with opened(path, os.O_RDWR) as file:
        os.pwrite(file, b"new" * MIB, 0)
        os.fsync(file)
        with pytest.raises(CommandError, match="[Rr]ead-only"):
            ceph.rbd("snap", "rollback", "--no-progress", f"{spec}@s")
        assert os.pread(file, 3 * MIB, 0) == b"new" * MIB
    eventually(lambda: not ceph.watchers(spec), what="the end of the watch")
    with opened(path, os.O_RDONLY) as reader:
        assert os.pread(reader, 4 * MIB, 0) == b"new" * MIB + DATA[3 * MIB :]
        ceph.rbd("snap", "rollback", "--no-progress", f"{spec}@s")
        assert os.pread(reader, 4 * MIB, 0) == DATA
        assert path.read_bytes() == DATA
        with opened(path, os.O_RDWR) as file:
            assert os.pread(file, 4 * MIB, 0) == DATA
    assert_lives(mount, image)
    assert export_image(ceph, spec) == DATA


def test_snapshots_taken_while_it_is_written(
    ceph: Ceph, pool: str, image_name: str, mounting: Mounting
) -> None:
    """The writer sees no error, and each snapshot stays as it was taken."""
    spec = f"{pool}/{image_name}"
    ceph.rbd("create", "--size=16M", spec)
    taken: list[str] = []
    exported: dict[str, bytes] = {}

    def take() -> None:
        name = f"s{len(taken)}"
        snapshot(ceph, f"{spec}@{name}")
        taken.append(name)
        if len(taken) == 1:
            exported[name] = export_image(ceph, f"{spec}@{name}")

    with mounting(pool) as mount:
        # Open before anybody else has it open: that would be EBUSY.
        with opened(mount.file(image_name), os.O_RDWR), repeatedly(take, 1.0):
            job = verify(mount.file(image_name), 8)
        assert job["error"] == 0
        assert len(taken) >= 2
        for name in taken:
            data = mount.file(f"{image_name}@{name}").read_bytes()
            assert data == exported.get(name, data) == export_image(ceph, f"{spec}@{name}")
        assert mount.alive
