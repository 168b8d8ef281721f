"""Attributes that tools rely on: rsync, find, tar and du do the right thing."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
import time
from typing import TYPE_CHECKING, Any

import pytest
import rbd

from tests.support.ceph import run
from tests.support.conditions import SEEN_S, eventually
from tests.support.images import MIB, import_image, random_bytes

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.ceph import Ceph
    from tests.support.mounts import Mounting

SIZE = MIB + 512
THIN, DATA_AT = 3 * MIB, 2 * MIB
DATA = random_bytes(SIZE)


@pytest.fixture(scope="module")
def images(ceph: Ceph, pool: str, ioctx: Any) -> str:
    """A pool with `vm` (data and snapshot `s`) and `thin` (3 MiB, with data in the middle)."""
    import_image(ceph, f"{pool}/vm", DATA)
    rbd.RBD().create(ioctx, "thin", THIN)
    with rbd.Image(ioctx, "thin") as image:
        image.write(b"data", DATA_AT)
    ceph.rbd("snap", "create", "--no-progress", f"{pool}/vm@s")
    return pool


def inodes(path: Path) -> dict[str, int]:
    return {entry.name: entry.inode() for entry in os.scandir(path)}


def test_inode_numbers_survive_a_remount(images: str, mounting: Mounting) -> None:
    with mounting(images) as mount:
        first = inodes(mount.path)
        assert first == {name: mount.file(name).stat().st_ino for name in first}
        assert len(set(first.values())) == len(first) == 3
    with mounting(images) as mount:
        # The other way round: looked up first, then listed.
        looked_up = {name: mount.file(name).stat().st_ino for name in reversed(first)}
        assert looked_up == inodes(mount.path) == first


def test_inode_numbers_change_when_remade(
    ceph: Ceph, pool: str, ioctx: Any, image_name: str, mounting: Mounting
) -> None:
    def make() -> None:
        rbd.RBD().create(ioctx, image_name, MIB)
        with rbd.Image(ioctx, image_name) as image:
            image.create_snap("s")

    make()
    with mounting(pool) as mount:
        path, snap = mount.file(image_name), mount.file(f"{image_name}@s")
        image_inode, snap_inode = path.stat().st_ino, snap.stat().st_ino
        with rbd.Image(ioctx, image_name) as image:
            image.remove_snap("s")
            image.create_snap("s")
        eventually(lambda: snap.stat().st_ino != snap_inode, SEEN_S, "another inode")
        assert path.stat().st_ino == image_inode
        with rbd.Image(ioctx, image_name) as image:
            image.remove_snap("s")
        rbd.RBD().remove(ioctx, image_name)
        rbd.RBD().create(ioctx, image_name, MIB)
        eventually(lambda: path.stat().st_ino != image_inode, SEEN_S, "another inode")
    rbd.RBD().remove(ioctx, image_name)


def test_times_are_not_now(images: str, mounting: Mounting) -> None:
    with mounting(images) as mount:
        for name in ("vm", "vm@s", "thin"):
            before = mount.file(name).stat()
            assert 0 < time.time() - before.st_mtime < 600
            mount.file(name).read_bytes()
            after = mount.file(name).stat()
            assert (after.st_mtime_ns, after.st_ctime_ns) == (
                before.st_mtime_ns,
                before.st_ctime_ns,
            )
        # The snapshot's time is its own: it was taken after the image was made.
        assert mount.file("vm@s").stat().st_mtime > mount.file("vm").stat().st_ctime


def test_find_newer(images: str, mounting: Mounting, tmp_path: Path) -> None:
    with mounting(images) as mount:

        def newer(than: Path) -> list[str]:
            command = ["find", str(mount.path), "-type", "f", "-newer", str(than)]
            return sorted(run(*command, "-printf", "%P\\n").split())

        snap_taken = mount.file("vm@s").stat().st_mtime
        stamp = tmp_path / "stamp"
        stamp.touch()
        os.utime(stamp, (snap_taken - 0.001, snap_taken - 0.001))
        assert newer(stamp) == ["vm@s"]
        stamp.touch()
        assert newer(stamp) == []
        os.utime(stamp, (1, 1))
        assert newer(stamp) == ["thin", "vm", "vm@s"]


def test_second_rsync_copies_nothing(images: str, mounting: Mounting, tmp_path: Path) -> None:
    with mounting(images) as mount:

        def rsync() -> list[str]:
            out = run("rsync", "-a", "--sparse", "-i", f"{mount.path}/", f"{tmp_path}/copy/")
            return [line.split()[-1] for line in out.splitlines() if line.startswith(">f")]

        assert sorted(rsync()) == ["thin", "vm", "vm@s"]
        assert rsync() == []
        assert (tmp_path / "copy/vm").read_bytes() == DATA
        assert (tmp_path / "copy/vm@s").read_bytes() == DATA
        assert (tmp_path / "copy/thin").read_bytes()[DATA_AT : DATA_AT + 4] == b"data"


@pytest.mark.parametrize("method", ["seek", "raw"])
def test_tar_of_sparse_files_is_complete(images: str, mounting: Mounting, method: str) -> None:
    """GNU tar looks for holes by SEEK_HOLE or for zeros, and takes no blocks for one hole."""
    with mounting(images) as mount:
        archive = subprocess.run(
            ["tar", "-cS", f"--hole-detection={method}", "-C", mount.path, "."],
            capture_output=True,
            check=True,
        )
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as tar:
        content = {}
        for member in tar.getmembers():
            file = tar.extractfile(member)
            if file is not None:
                content[os.path.basename(member.name)] = file.read()
    assert content["vm"] == content["vm@s"] == DATA
    thin = bytearray(THIN)
    thin[DATA_AT : DATA_AT + 4] = b"data"
    assert content["thin"] == thin


def test_du_and_statfs(images: str, mounting: Mounting) -> None:
    with mounting(images) as mount:
        sizes = {"vm": SIZE, "vm@s": SIZE, "thin": THIN}
        for name, size in sizes.items():
            status = mount.file(name).stat()
            assert (status.st_size, status.st_nlink) == (size, 1)
            # At most the whole of it, and not 0, where there is data.
            assert 0 < status.st_blocks * 512 <= size
        apparent = run("du", "-s", "--apparent-size", "-B1", str(mount.path)).split()[0]
        assert int(apparent) == sum(sizes.values())
        eventually(lambda: os.statvfs(mount.path).f_bavail, 30.0, "the pool's usage")
        assert os.statvfs(mount.path) == os.statvfs(mount.file("vm"))


def test_du_tells_what_was_written(
    ceph: Ceph, pool: str, ioctx: Any, image_name: str, mounting: Mounting
) -> None:
    """In whole objects, which is what is stored; of a clone, whose parent has the rest, all."""
    rbd.RBD().create(ioctx, image_name, 64 * MIB)
    with rbd.Image(ioctx, image_name) as image:
        image.write(b"one", 0)
        image.write(b"two", 20 * MIB)
        image.create_snap("s")
        image.write(b"three", 40 * MIB)
        image.write(b"one again", 0)
    clone = f"{pool}/{image_name}-clone"
    ceph.rbd("clone", "--rbd-default-clone-format=2", f"{pool}/{image_name}@s", clone)
    with mounting(pool) as mount:
        names = (image_name, f"{image_name}@s", f"{image_name}-clone")
        lines = run("du", "-B1", *(str(mount.file(name)) for name in names)).splitlines()
        assert [int(line.split()[0]) // MIB for line in lines] == [12, 8, 64]


def test_growing_by_truncate(ceph: Ceph, pool: str, image_name: str, mounting: Mounting) -> None:
    import_image(ceph, f"{pool}/{image_name}", b"x" * 4096)
    with mounting(pool, "-o", "notrim") as mount:
        path = mount.file(image_name)
        run("truncate", "-s", "3M", str(path))
        assert path.stat().st_size == 3 * MIB
        run("truncate", "-s", "+1M", str(path))
        assert path.read_bytes() == b"x" * 4096 + bytes(4 * MIB - 4096)
        with pytest.raises(subprocess.CalledProcessError):
            subprocess.run(["truncate", "-s", "1M", path], check=True, stderr=subprocess.DEVNULL)
        assert f'"size":{4 * MIB},' in ceph.rbd("info", f"{pool}/{image_name}", "--format=json")
        # Without trimming, discards do not reach the cluster, and nobody is told they did.
        done = subprocess.run(
            ["fallocate", "-p", "-o", "0", "-l", "4096", path], capture_output=True, text=True
        )
        assert done.returncode == 1
        # That is how it reports EOPNOTSUPP.
        assert "keep size mode is unsupported" in done.stderr
        assert path.read_bytes()[:4096] == b"x" * 4096
    with mounting(pool, "-o", "ro") as mount:
        done = subprocess.run(
            ["truncate", "-s", "5M", mount.file(image_name)], capture_output=True, text=True
        )
        assert "Read-only file system" in done.stderr
    ceph.rbd("rm", "--no-progress", f"{pool}/{image_name}")
