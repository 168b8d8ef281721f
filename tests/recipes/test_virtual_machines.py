"""Virtual machines: those of libvirt, and one that tries a snapshot out."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.support.boot_sector import BOOT_SECTOR
from tests.support.images import MIB, export_image, import_image, open_image, random_bytes
from tests.support.libvirt import PROGRAMS, QEMU, libvirt_in
from tests.support.recipes import POOL, Machine, need, set_up, write

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.ceph import Ceph


@pytest.fixture
def libvirt_host(ceph: Ceph, pool: str, tmp_path: Path) -> Iterator[Machine]:
    """A machine that runs libvirtd."""
    if os.geteuid() or not os.path.exists("/dev/fuse"):
        pytest.skip("needs root and /dev/fuse")
    need(*PROGRAMS)
    files = tmp_path / "files"
    files.mkdir()
    with libvirt_in(tmp_path) as libvirt:
        yield set_up(libvirt.holder, ceph, files)


def test_libvirt(ceph: Ceph, libvirt_host: Machine) -> None:
    recipe, host = "libvirt", libvirt_host

    def owner(name: str) -> int:
        return host.file(name).stat().st_uid

    host.follow(recipe, "Mount and pool")
    host.follow(recipe, "Volumes")
    write(ceph, "vm1", random_bytes(MIB), 0)
    host.follow(recipe, "A domain")
    assert [owner(name) for name in ("vm1", "vm1-data")] == [QEMU, QEMU]
    host.follow(recipe, "A snapshot")
    assert export_image(ceph, f"{POOL}/vm1@before").startswith(random_bytes(MIB))
    host.follow(recipe, "A snapshot of libvirt")
    host.follow(recipe, "A backup of a running domain")
    host.shell("qemu-img compare -U -f raw -F qcow2 /srv/rbd/vm1@before /srv/rbd/vm1-backup")
    host.follow(recipe, "Larger")
    with open_image(ceph, POOL, "vm1", read_only=True) as image:
        assert image.size() == 96 * MIB
    assert host.shell("virsh domstate vm1").strip() == "running"
    host.follow(recipe, "The end")
    assert sorted(ceph.rbd("ls", POOL).split()) == ["vm1", "vm1-backup", "vm1-data"]


def test_try_a_snapshot(ceph: Ceph, here: Machine) -> None:
    need("qemu-nbd", "qemu-system-x86_64")
    disk = BOOT_SECTOR + bytes(2 * MIB - len(BOOT_SECTOR))
    import_image(ceph, f"{POOL}/vm1", disk)
    ceph.rbd("snap", "create", "--no-progress", f"{POOL}/vm1@nightly")
    recipe = "try-a-snapshot"
    here.follow(recipe, "An overlay")
    here.follow(recipe, "Boot it")
    here.follow(recipe, "Serve it as a network block device")
    here.follow(recipe, "Keep it")
    tried = bytearray(disk)
    tried[512:1024] = BOOT_SECTOR
    tried[MIB : MIB + 4096] = b"\x55" * 4096
    assert export_image(ceph, f"{POOL}/vm1-tried") == tried
    here.follow(recipe, "Throw it away")
    for unchanged in ("vm1", "vm1@nightly"):
        assert export_image(ceph, f"{POOL}/{unchanged}") == disk
