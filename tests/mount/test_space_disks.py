"""File systems give back what they do not use: over loop devices, and from a virtual machine."""

from __future__ import annotations

import contextlib
import os
import shutil
from typing import TYPE_CHECKING

import pytest

from tests.support.ceph import run
from tests.support.conditions import eventually
from tests.support.guest import run_guest
from tests.support.images import MIB, random_bytes
from tests.support.loops import loop_device
from tests.support.mounts import opened
from tests.support.space import requests, used_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.ceph import Ceph
    from tests.support.mounts import Mount

# mkfs.xfs makes none smaller.
SIZE_MIB = 320
FILE_BYTES = 64 * MIB
MAKE = {
    # All of it at once, so that nothing is written behind the test's back.
    "ext4": ["mkfs.ext4", "-q", "-E", "lazy_itable_init=0,lazy_journal_init=0"],
    "xfs": ["mkfs.xfs", "-q"],
}
CHECK = {"ext4": ["e2fsck", "-fn"], "xfs": ["xfs_repair", "-n"]}
# Journals may be left out of the log: a snapshot is read-only, and so is its loop device.
READ_ONLY = {"ext4": "ro,noload", "xfs": "ro,norecovery,nouuid"}

pytestmark = pytest.mark.usefixtures("native")


@pytest.fixture
def spec(ceph: Ceph, pool: str, image_name: str) -> str:
    spec = f"{pool}/{image_name}"
    ceph.rbd("create", f"--size={SIZE_MIB}M", spec)
    return spec


@pytest.fixture
def disk(spec: str, image_name: str, mount: Mount) -> Path:
    """The image's file, once the monitors know of the pool: a loop device asks statfs(2)."""
    eventually(lambda: _free_bytes(mount.path), what="the usage of the pool")
    return mount.file(image_name)


def _free_bytes(path: Path) -> int | None:
    try:
        return os.statvfs(path).f_bavail
    except FileNotFoundError:
        return None


@contextlib.contextmanager
def mounted_at(directory: Path, device: str, options: str) -> Iterator[Path]:
    directory.mkdir(exist_ok=True)
    run("mount", "-o", options, device, str(directory))
    try:
        yield directory
    finally:
        run("umount", str(directory))


@contextlib.contextmanager
def frozen(directory: Path) -> Iterator[None]:
    """A file system that is complete without its journal."""
    run("fsfreeze", "--freeze", str(directory))
    try:
        yield
    finally:
        run("fsfreeze", "--unfreeze", str(directory))


@pytest.mark.parametrize("direct", ["off", "on"], ids=["buffered", "direct"])
@pytest.mark.parametrize("kind", MAKE)
def test_loop_device(
    ceph: Ceph, spec: str, disk: Path, tmp_path: Path, kind: str, direct: str
) -> None:
    if shutil.which(MAKE[kind][0]) is None:
        pytest.skip(f"{MAKE[kind][0]} is not installed")
    data = random_bytes(FILE_BYTES)
    with loop_device(disk, f"--direct-io={direct}") as device:
        run(*MAKE[kind], device)
        with mounted_at(tmp_path / "fs", device, "rw") as files:
            (files / "kept").write_bytes(data[:MIB])
            (files / "file").write_bytes(data)
            os.sync()
            full = used_bytes(ceph, spec)
            (files / "file").unlink()
            # What was deleted is free when its transaction is complete, and xfs takes its time.
            with frozen(files):
                pass
            run("fstrim", str(files))
            # Objects that hold metadata too remain.
            assert used_bytes(ceph, spec) <= full - FILE_BYTES // 2
            (files / "file").write_bytes(data)
            with frozen(files):
                ceph.rbd("snap", "create", "--no-progress", f"{spec}@s")
            (files / "file").unlink()
            with frozen(files):
                pass
            run("fstrim", str(files))
        run(*CHECK[kind], device)
    snap = disk.with_name(f"{disk.name}@s")
    eventually(snap.exists, what="the snapshot")
    with (
        loop_device(snap, "--read-only") as device,
        mounted_at(tmp_path / "fs", device, READ_ONLY[kind]) as files,
    ):
        assert (files / "file").read_bytes() == data
        assert (files / "kept").read_bytes() == data[:MIB]


def test_discarded_device_is_empty(ceph: Ceph, spec: str, disk: Path) -> None:
    with loop_device(disk, "--direct-io=on") as device:
        with opened(device, os.O_WRONLY) as file:
            os.pwrite(file, random_bytes(MIB), 5 * MIB + 512)
            os.pwrite(file, random_bytes(MIB), 300 * MIB)
            os.fsync(file)
        run("blkdiscard", "--offset", "0", "--length", str(100 * MIB), device)
        assert used_bytes(ceph, spec) == 4 * MIB
        run("blkdiscard", "--zeroout", device)
        assert used_bytes(ceph, spec) == 0
    with opened(disk, os.O_RDONLY) as file:
        assert os.pread(file, 2 * MIB, 300 * MIB) == bytes(2 * MIB)


# The first byte of a sector is not zero: what is zero, QEMU need not write.
GUEST = f"""
mount -t ext4 /dev/vda /mnt
yes "written by the guest" | dd of=/mnt/file bs=1M count={FILE_BYTES // MIB} iflag=fullblock
sync
rm /mnt/file
sync
fstrim -v /mnt
umount /mnt
"""


def test_guest_gives_back_what_it_deletes(ceph: Ceph, spec: str, disk: Path, mount: Mount) -> None:
    run("mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0", str(disk))
    empty = used_bytes(ceph, spec)
    before = requests(mount)["bytes_written"]
    output = run_guest(GUEST, [disk], timeout=50.0)
    assert "bytes trimmed" in output or "bytes were trimmed" in output, output
    assert requests(mount)["bytes_written"] - before >= FILE_BYTES
    assert used_bytes(ceph, spec) <= empty + FILE_BYTES // 2
    run("e2fsck", "-fn", str(disk))
