"""What no disk image can do, asked of it: an errno, and nothing has changed."""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
import subprocess
from typing import TYPE_CHECKING

import pytest
import rbd

from tests.support.conditions import eventually
from tests.support.images import MIB, export_image, import_image, random_bytes
from tests.support.mounts import TIMEOUT_S, mounted, opened, opened_and_lost
from tests.support.refusals import refusal

if TYPE_CHECKING:
    from tests.support.ceph import Ceph
    from tests.support.mounts import Mount, Mounting

# linux/fs.h and linux/fiemap.h; the argument is in, out, or both.
IOCTLS = {
    "BLKGETSIZE64": (0x80081272, bytes(8)),
    "BLKSSZGET": (0x1268, bytes(4)),
    "BLKRRPART": (0x125F, bytes(8)),
    "BLKDISCARD": (0x1277, struct.pack("QQ", 0, 4096)),
    "BLKZEROOUT": (0x127F, struct.pack("QQ", 0, 4096)),
    "FS_IOC_GETFLAGS": (0x80086601, bytes(8)),
    "FS_IOC_SETFLAGS": (0x40086602, struct.pack("q", 0x10)),
    "FS_IOC_FSSETXATTR": (0x401C5820, bytes(28)),
    "FS_IOC_FIEMAP": (0xC020660B, struct.pack("QQIIII", 0, MIB, 0, 0, 0, 0)),
    "FICLONE": (0x40049409, None),
    "FIFREEZE": (0xC0045877, bytes(4)),
    "FITRIM": (0xC0185879, struct.pack("QQQ", 0, MIB, 0)),
}
FIBMAP = 0x1
# Each says that it is not there.
NOT_THERE = {"ENOTTY", "EOPNOTSUPP", "EINVAL", "EPERM", "EXDEV", "ENOTSUP"}
both_data_paths = pytest.mark.parametrize("mount_options", ["native", "python"], indirect=True)


@both_data_paths
def test_ioctls(ceph: Ceph, pool: str, image: str, mounting: Mounting) -> None:
    with mounting(pool) as mount:
        with opened(mount.file(image), os.O_RDWR) as file:
            for name, (request, argument) in IOCTLS.items():
                code = refusal(
                    lambda request=request, argument=argument: fcntl.ioctl(  # type: ignore[misc]
                        file, request, file if argument is None else argument
                    )
                )
                assert code in NOT_THERE, (name, code)
            # The kernel answers it itself: there is no such block.
            assert fcntl.ioctl(file, FIBMAP, bytes(4)) == bytes(4)
            assert os.fstat(file).st_size == MIB
        assert mount.alive
    assert export_image(ceph, f"{pool}/{image}") == random_bytes(MIB)


def test_program_in_an_image(ceph: Ceph, pool: str, image: str, mount: Mount) -> None:
    with pytest.raises(PermissionError):
        subprocess.run([mount.file(image)], timeout=TIMEOUT_S)
    assert mount.alive


def test_swap(ceph: Ceph, pool: str, image_name: str, mount: Mount) -> None:
    """The kernel would write to the image behind the back of whoever serves it."""
    # Without a hole, which swapon(8) refuses by itself.
    import_image(ceph, f"{pool}/{image_name}", random_bytes(4 * MIB))
    path = mount.file(image_name)
    subprocess.run(["mkswap", path], check=True, capture_output=True, timeout=TIMEOUT_S)
    done = subprocess.run(["swapon", path], capture_output=True, text=True, timeout=TIMEOUT_S)
    if done.returncode == 0:
        subprocess.run(["swapoff", path], check=True, timeout=TIMEOUT_S)
    assert done.returncode != 0
    assert "swapon failed: " in done.stderr
    assert mount.alive


@both_data_paths
def test_hundred_descriptors(ceph: Ceph, pool: str, image: str, mounting: Mounting) -> None:
    with mounting(pool) as mount:
        with contextlib.ExitStack() as stack:
            flags = (os.O_RDONLY, os.O_RDWR, os.O_RDONLY | os.O_DIRECT, os.O_RDWR | os.O_SYNC)
            files = [
                stack.enter_context(opened(mount.file(image), flags[number % 4]))
                for number in range(100)
            ]
            assert os.pwrite(files[1], b"x" * 512, 0) == 512
            for file in files[::4]:
                assert os.pread(file, 1024, 0) == b"x" * 512 + random_bytes(MIB)[512:1024]
            assert len(ceph.watchers(f"{pool}/{image}")) == 1
        eventually(lambda: ceph.watchers(f"{pool}/{image}") == [], what="no watcher")
        assert mount.alive


@both_data_paths
@pytest.mark.parametrize("flags", [0, os.O_SYNC, os.O_DSYNC], ids=["plain", "sync", "dsync"])
def test_append(ceph: Ceph, pool: str, image: str, mounting: Mounting, flags: int) -> None:
    """At the end there is no room; where a write is to go, O_APPEND decides and not pwrite(2)."""
    with mounting(pool) as mount:
        with opened(mount.file(image), os.O_WRONLY | os.O_APPEND | flags) as file:
            assert refusal(lambda: os.write(file, b"more")) == "ENOSPC"
            assert refusal(lambda: os.pwrite(file, b"more", 0)) == "ENOSPC"
        assert mount.file(image).stat().st_size == MIB
    assert export_image(ceph, f"{pool}/{image}") == random_bytes(MIB)


def test_name_that_forges_a_log_record(
    ceph: Ceph, pool: str, image_name: str, mounting: Mounting
) -> None:
    forged = "2026-01-01 00:00:00,000 rbdfs[1] CRITICAL rbdfs.keeper.keeper: forged"
    name = f"{image_name}\n{forged}\x1b[31m"
    import_image(ceph, f"{pool}/{name}", random_bytes(MIB))
    ceph.rbd("snap", "create", "--no-progress", f"{pool}/{name}@s\n{forged}")
    with mounting(pool, "-d", "-o", "manage=snapshots") as mount:
        with opened(mount.file(name), os.O_RDWR) as file:
            assert refusal(lambda: os.pwrite(file, b"x", MIB)) == "ENOSPC"
        snap = f"{name}@s\n{forged}"
        assert refusal(lambda: os.open(mount.file(snap), os.O_RDWR)) == "EROFS"
        assert refusal(lambda: os.getxattr(mount.file(name), f"user.x{name}")) == "ENODATA"
        assert refusal(mount.file(f"{name}.not").stat) == "ENOENT"
        assert refusal(lambda: os.mkdir(mount.file(name))) == "EEXIST"
        assert refusal(lambda: os.link(mount.file(name), mount.file(name))) != "no error"
        with opened_and_lost(mount.file(snap), os.O_RDONLY) as file:
            os.unlink(mount.file(snap))
            eventually(lambda: refusal(lambda: os.pread(file, 512, 0)) == "ESTALE", what="ESTALE")
        mount.expect_log("WARNING .* are lost")
        mount.allow_log("WARNING .*ESTALE", "WARNING .*removed")
        eventually(lambda: "forged" in mount.log_text, what="a line of the log")
        assert not [line for line in mount.log_text.split("\n") if line.startswith(forged[:23])]
        assert "\x1b" not in mount.log_text
        os.unlink(mount.file(name))


def test_mount_inside_a_mount(ceph: Ceph, pool: str, image_name: str, mounting: Mounting) -> None:
    """On a directory that another mount serves, which is the same pool's."""
    namespace = f"ns-{image_name}"
    ceph.rbd("namespace", "create", f"{pool}/{namespace}")
    import_image(ceph, f"{pool}/{image_name}", random_bytes(MIB))
    with mounting(pool) as outer:
        with mounting(pool, mountpoint=outer.file(namespace)) as inner:
            assert inner.file(image_name).read_bytes() == random_bytes(MIB)
            assert not mounted(inner.file(namespace))
            # Two mounts are two clients, wherever they are.
            with opened(outer.file(image_name), os.O_RDWR):
                assert refusal(lambda: os.open(inner.file(image_name), os.O_RDWR)) == "EBUSY"
            assert subprocess.run(["umount", outer.path], capture_output=True).returncode != 0
        assert outer.alive
        assert os.listdir(outer.file(namespace)) == []


def test_pool_of_any_name(ceph: Ceph, image_name: str, mounting: Mounting) -> None:
    name = f'-pünkt \'n "q" %{image_name}'
    ceph.ceph("osd", "pool", "create", "--", name, "8")
    try:
        # Not by rbd(8), which takes a dash for an option.
        ceph.ceph("osd", "pool", "application", "enable", "--", name, "rbd")
        with ceph.connect() as cluster, cluster.open_ioctx(name) as ioctx:
            rbd.RBD().create(ioctx, "vm", MIB)
        with mounting(name) as mount:
            assert mount.file("vm").stat().st_size == MIB
            with open("/proc/self/mountinfo", encoding="utf-8") as mounts:
                (line,) = [line for line in mounts if str(mount.path) in line]
            assert "-pünkt" in line
    finally:
        with ceph.connect() as cluster:
            cluster.delete_pool(name)
