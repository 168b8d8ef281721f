"""A virtual machine uses an image of the mount as its disk."""

from __future__ import annotations

import hashlib
import re
import shutil
from typing import TYPE_CHECKING

import pytest

from tests.support.ceph import run
from tests.support.guest import run_guest
from tests.support.images import MIB, export_image

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.ceph import Ceph
    from tests.support.mounts import Mount

SCRIPT = """
mkdir /tools
mount -t ext4 -o ro /dev/vdb /tools
mount -o bind /dev /tools/dev
chroot /tools /sbin/mke2fs -q -F -t ext4 /dev/vda
mount -t ext4 /dev/vda /mnt
dd if=/dev/urandom of=/mnt/random bs=64k count=48
mkdir /mnt/dir
echo written by the guest > /mnt/dir/file
sync
sha256sum /mnt/random
umount /mnt
"""


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    """A disk with mke2fs and its libraries: busybox makes no ext4."""
    tree = tmp_path / "tools"
    program = shutil.which("mke2fs")
    assert program is not None, "mke2fs is not installed (contrib/setup installs e2fsprogs)"
    libraries = re.findall(r"(/\S+) \(0x", run("ldd", program))
    for source in libraries:
        (tree / source[1:]).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, tree / source[1:])
    (tree / "sbin").mkdir()
    shutil.copy(program, tree / "sbin" / "mke2fs")
    for name in ("dev", "etc"):
        (tree / name).mkdir()
    shutil.copy("/etc/mke2fs.conf", tree / "etc")
    disk = tmp_path / "tools.raw"
    run("mke2fs", "-q", "-t", "ext4", "-d", str(tree), str(disk), "16M")
    return disk


def test_guest_makes_an_ext4(
    ceph: Ceph, pool: str, image_name: str, mount: Mount, tools: Path, tmp_path: Path
) -> None:
    ceph.rbd("create", "--size=64M", f"{pool}/{image_name}")
    disk = mount.file(image_name)
    output = run_guest(SCRIPT, [disk, tools], timeout=50.0)
    expected = re.search(r"^([0-9a-f]{64})  /mnt/random$", output, re.MULTILINE)
    assert expected is not None, output

    # fsck's exit code is 0 for a clean file system only.
    assert "has_journal" in run("dumpe2fs", "-h", str(disk))
    run("e2fsck", "-fn", str(disk))
    assert run("debugfs", "-R", "cat /dir/file", str(disk)) == "written by the guest\n"
    run("debugfs", "-R", f"dump /random {tmp_path}/random", str(disk))
    data = (tmp_path / "random").read_bytes()
    assert len(data) == 3 * MIB
    assert hashlib.sha256(data).hexdigest() == expected[1]

    # A machine that was powered off has written all of it: the cluster has the same.
    exported = tmp_path / "exported"
    exported.write_bytes(export_image(ceph, f"{pool}/{image_name}"))
    run("cmp", str(exported), str(disk))
