"""mount(8) and fstab: `mount -t fuse.rbdfs`, through the helper that libfuse brings."""

from __future__ import annotations

import os
import re
import shutil
from typing import TYPE_CHECKING

import pytest

from rbdfs.config.command_line import COMMANDS
from tests.support.images import MIB, import_image, random_bytes
from tests.support.mounts import RBDFS, processes_naming, wait_for_end
from tests.support.namespaces import Namespace, namespace

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.ceph import Ceph
    from tests.support.mounts import Mounting

pytestmark = pytest.mark.skipif(
    shutil.which("mount.fuse3", path="/sbin:/usr/sbin") is None, reason="needs mount.fuse3"
)


@pytest.fixture
def here() -> Iterator[Namespace]:
    """A namespace where rbdfs is installed, in a place that mount(8) has in its PATH."""
    install = f"mount -t tmpfs none /usr/local/bin && ln -s {RBDFS} /usr/local/bin/rbdfs"
    with namespace(install) as here:
        yield here


@pytest.fixture
def mountpoint(mounting: Mounting, here: Namespace) -> Iterator[Path]:
    path = mounting.mountpoint("with space")
    try:
        yield path
    finally:
        daemons = processes_naming(str(path))
        here.run("umount", "-l", path)
        for pid in daemons:
            wait_for_end(pid)


def test_mount(ceph: Ceph, pool: str, image_name: str, here: Namespace, mountpoint: Path) -> None:
    import_image(ceph, f"{pool}/{image_name}", random_bytes(MIB))
    options = f"ro,nosuid,nodev,_netdev,id=rw,conf={ceph.conf},keyring={ceph.keyring('rw')}"
    done = here.run("mount", "-t", "fuse.rbdfs", "-o", options, pool, mountpoint)
    assert (done.returncode, done.stderr) == (0, "")
    assert here.path(mountpoint / image_name).read_bytes() == random_bytes(MIB)
    assert os.statvfs(here.path(mountpoint)).f_flag & os.ST_RDONLY
    assert here.run("umount", mountpoint).returncode == 0
    assert not here.mounted(mountpoint)


def test_fstab(
    ceph: Ceph, pool: str, image_name: str, here: Namespace, mountpoint: Path, tmp_path: Path
) -> None:
    import_image(ceph, f"{pool}/{image_name}", random_bytes(MIB))
    fstab = tmp_path / "fstab"
    where = str(mountpoint).replace(" ", "\\040")
    fstab.write_text(f"{pool} {where} fuse.rbdfs noauto,_netdev,conf={ceph.conf} 0 0\n")
    done = here.run("mount", "--fstab", fstab, mountpoint)
    assert (done.returncode, done.stderr) == (0, "")
    with here.path(mountpoint / image_name).open("r+b") as file:
        assert file.write(b"written") == 7
    shown = here.run("findmnt", "-n", "-o", "SOURCE,FSTYPE", mountpoint)
    assert shown.stdout.split() == [pool, "fuse.rbdfs"]
    assert here.run("umount", mountpoint).returncode == 0


def test_failure_is_told(ceph: Ceph, here: Namespace, mountpoint: Path) -> None:
    options = f"conf={ceph.conf}"
    done = here.run("mount", "-t", "fuse.rbdfs", "-o", options, "no-such-pool", mountpoint)
    assert done.returncode != 0
    assert "rbdfs: no such pool" in done.stderr
    assert not here.mounted(mountpoint)


def test_pool_of_the_name_of_a_command(ceph: Ceph, here: Namespace, mountpoint: Path) -> None:
    """In fstab there is no `--`, so what mount(8) runs is a mount, whatever the pool is called."""
    for name in COMMANDS:
        done = here.run("mount", "-t", "fuse.rbdfs", "-o", f"conf={ceph.conf}", name, mountpoint)
        assert re.fullmatch(f"rbdfs: no such pool.*: {name}\n", done.stderr), done.stderr
    assert not here.mounted(mountpoint)
