"""Single files from a snapshot, with and without root."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.ceph import run
from tests.support.images import MIB, import_image
from tests.support.recipes import POOL, need

if TYPE_CHECKING:
    from tests.support.ceph import Ceph
    from tests.support.recipes import Machine

HOSTS = "127.0.0.1 localhost\n"
# Of the file that HOSTS has replaced.
OLD_HOSTS = "127.0.0.1 old"


# What the kernel has committed, and written to no other place yet.
IN_THE_JOURNAL = f"""
rbdfs -o partitions vms /srv/rbd
mkdir /srv/guest
mount -o loop /srv/rbd/vm1-part2 /srv/guest
printf %s '{HOSTS}' >/srv/guest/etc/hosts.new
mv /srv/guest/etc/hosts.new /srv/guest/etc/hosts
sync /srv/guest/etc/hosts
rbd snap create --no-progress vms/vm1@nightly
umount /srv/guest
rbdfs umount /srv/rbd
"""


@pytest.fixture
def disk(ceph: Ceph, here: Machine, tmp_path: Path) -> None:
    """vm1@nightly, a disk with an EFI system partition and an ext4 that is in use."""
    need("mcopy", "sfdisk", "mke2fs")
    tree, disk = tmp_path / "tree", tmp_path / "disk"
    (tree / "etc").mkdir(parents=True)
    (tree / "etc/hosts").write_text(OLD_HOSTS)
    (tree / "home/user").mkdir(parents=True)
    (tree / "home/user/notes").write_text("notes of a user")
    (tree / "boot.efi").write_text("of the firmware")
    with disk.open("wb") as file:
        file.truncate(32 * MIB)
    run("sfdisk", "-q", str(disk), stdin=b"label: gpt\n,8M,U\n,20M\n")
    fat = f"{disk}@@{MIB}"
    run("mformat", "-i", fat, "-T", str(8 * MIB // 512), "-h", "16", "-s", "63", "::")
    run("mmd", "-i", fat, "::/EFI")
    run("mcopy", "-i", fat, str(tree / "boot.efi"), "::/EFI")
    ext4 = ("mke2fs", "-q", "-t", "ext4", "-d", str(tree), "-E", f"offset={9 * MIB}")
    run(*ext4, str(disk), "20M")
    import_image(ceph, f"{POOL}/vm1", disk.read_bytes())
    here.shell(IN_THE_JOURNAL)


@pytest.mark.usefixtures("disk")
def test_files_without_root(here: Machine) -> None:
    recipe, home = "files-of-a-snapshot", here.path(Path("/srv/home/nobody"))

    def follow(heading: str) -> str:
        return here.follow(recipe, heading, as_user=True)

    found = follow("Which partition")
    assert re.findall(r'-part(\d): .*TYPE="(vfat|ext4)"', found) == [("1", "vfat"), ("2", "ext4")]
    follow("From ext4")
    assert (home / "hosts").read_text() in (OLD_HOSTS, HOSTS)
    assert "recovering journal" in follow("From ext4, with its journal")
    assert (home / "hosts-replayed").read_text() == HOSTS
    assert (home / "home/user/notes").read_text() == "notes of a user"
    follow("From FAT")
    assert (home / "EFI/boot.efi").read_text() == "of the firmware"
    follow("The end")


@pytest.mark.usefixtures("disk")
def test_files_as_root(here: Machine) -> None:
    here.follow("files-of-a-snapshot", "As root")
    assert here.path(Path("/srv/home/root/hosts")).read_text() in (OLD_HOSTS, HOSTS)


@pytest.fixture
def xfs(ceph: Ceph, pool: str, tmp_path: Path) -> None:
    """vm2@nightly, an xfs on a disk without partitions, of the least size that mkfs.xfs makes."""
    need("mkfs.xfs")
    hosts, layout, disk = tmp_path / "hosts", tmp_path / "layout", tmp_path / "disk"
    hosts.write_text(HOSTS)
    root, file = "d--755 0 0", f"hosts ---644 0 0 {hosts}"
    layout.write_text(f"none\n0 0\n{root}\netc {root}\n{file}\n$\n$\n")
    run("mkfs.xfs", "-q", "-p", str(layout), "-d", f"file,name={disk},size=300m")
    ceph.rbd("import", "--no-progress", str(disk), f"{POOL}/vm2")
    ceph.rbd("snap", "create", "--no-progress", f"{POOL}/vm2@nightly")


@pytest.mark.usefixtures("xfs")
def test_files_as_root_with_xfs(here: Machine) -> None:
    if "\txfs\n" not in Path("/proc/filesystems").read_text():
        pytest.skip("the kernel has no xfs")
    here.follow("files-of-a-snapshot", "As root, with xfs")
    assert here.path(Path("/srv/home/root/hosts")).read_text() == HOSTS


@pytest.mark.slow
@pytest.mark.usefixtures("xfs")
def test_files_with_guestfish(here: Machine) -> None:
    need("guestfish")
    if not any(os.access(kernel, os.R_OK) for kernel in Path("/boot").glob("vmlinuz-*")):
        pytest.skip("guestfish needs a kernel in /boot")
    recipe = "files-of-a-snapshot"
    here.shell("mkdir -p ~/vms; rbdfs --id ro -o ro,partitions vms ~/vms", as_user=True)
    assert "/dev/sda: xfs" in here.follow(recipe, "From all others", as_user=True)
    assert here.path(Path("/srv/home/nobody/hosts")).read_text() == HOSTS
    here.follow(recipe, "The end", as_user=True)
