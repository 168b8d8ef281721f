"""mount(8) and fstab: `mount -t fuse.rbdfs`, through the helper that libfuse brings."""

from __future__ import annotations

import os
import re
import shutil
from typing import TYPE_CHECKING

import pytest

from rbdfs.config.command_line import COMMANDS
from tests.support.conditions import eventually
from tests.support.images import MIB, import_image, random_bytes
from tests.support.mounts import opened_and_lost, processes_naming, wait_for_end
from tests.support.namespaces import in_fstab
from tests.support.refusals import refusal

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.ceph import Ceph
    from tests.support.namespaces import Namespace


def test_mount(
    ceph: Ceph, pool: str, image_name: str, here: Namespace, mountpoint_here: Path
) -> None:
    import_image(ceph, f"{pool}/{image_name}", random_bytes(MIB))
    options = f"ro,nosuid,nodev,_netdev,id=rw,conf={ceph.conf},keyring={ceph.keyring('rw')}"
    done = here.mount(pool, mountpoint_here, options)
    assert (done.returncode, done.stderr) == (0, "")
    assert here.path(mountpoint_here / image_name).read_bytes() == random_bytes(MIB)
    assert os.statvfs(here.path(mountpoint_here)).f_flag & os.ST_RDONLY
    assert here.run("umount", mountpoint_here).returncode == 0
    assert not here.mounted(mountpoint_here)


def test_fstab(
    ceph: Ceph, pool: str, image_name: str, here: Namespace, mountpoint_here: Path, tmp_path: Path
) -> None:
    import_image(ceph, f"{pool}/{image_name}", random_bytes(MIB))
    fstab = tmp_path / "fstab"
    fstab.write_text(
        f"{pool} {in_fstab(mountpoint_here)} fuse.rbdfs noauto,_netdev,conf={ceph.conf} 0 0\n"
    )
    done = here.run("mount", "--fstab", fstab, mountpoint_here)
    assert (done.returncode, done.stderr) == (0, "")
    with here.path(mountpoint_here / image_name).open("r+b") as file:
        assert file.write(b"written") == 7
    shown = here.run("findmnt", "-n", "-o", "SOURCE,FSTYPE", mountpoint_here)
    assert shown.stdout.split() == [pool, "fuse.rbdfs"]
    assert here.run("umount", mountpoint_here).returncode == 0


ALWAYS = {"nosuid", "nodev", "user_id=0", "group_id=0"}


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ("", {"rw", "relatime"}),
        ("defaults", {"rw", "relatime"}),
        ("rw,suid,dev,exec,atime,diratime,async", {"rw", "relatime"}),
        ("ro,noexec,noatime", {"ro", "noexec", "noatime"}),
        ("nodiratime,relatime", {"rw", "nodiratime", "relatime"}),
        ("strictatime,lazytime", {"rw", "lazytime"}),
        ("sync,dirsync,nosymfollow", {"rw", "sync", "dirsync", "nosymfollow", "relatime"}),
        ("user", {"rw", "noexec", "relatime"}),
        ("owner,group,nofail,_netdev,auto,silent,loud,comment=a", {"rw", "relatime"}),
        ("X-mount.mkdir,x-systemd.automount,x-systemd.idle-timeout=5min", {"rw", "relatime"}),
    ],
)
def test_what_the_kernel_keeps_of_the_options(
    ceph: Ceph, pool: str, here: Namespace, mountpoint_here: Path, tmp_path: Path, options: str,
    kept: set[str],
) -> None:  # fmt: skip
    """Those of mount(8) that are for every file system, in fstab."""
    fstab = tmp_path / "fstab"
    options = ",".join(filter(None, [options, f"conf={ceph.conf}"]))
    fstab.write_text(f"{pool} {in_fstab(mountpoint_here)} fuse.rbdfs {options} 0 0\n")
    done = here.run("mount", "--fstab", fstab, mountpoint_here)
    assert (done.returncode, done.stderr) == (0, "")
    assert here.flags(mountpoint_here) == kept | ALWAYS
    assert here.run("umount", mountpoint_here).returncode == 0


@pytest.mark.parametrize("option", ["mand", "iversion"])
def test_what_nobody_can_keep_is_refused(
    ceph: Ceph, pool: str, here: Namespace, mountpoint_here: Path, option: str
) -> None:
    options = f"{option},conf={ceph.conf}"
    done = here.mount(pool, mountpoint_here, options)
    assert done.returncode != 0
    assert f"rbdfs: option {option} cannot be kept: " in done.stderr
    assert not here.mounted(mountpoint_here)


def test_all_lines_of_fstab(
    ceph: Ceph, pool: str, image_name: str, here: Namespace, mountpoint_here: Path, tmp_path: Path
) -> None:
    """`mount -a` twice, and `umount -a`; each long switch stands in a line."""
    import_image(ceph, f"{pool}/{image_name}", random_bytes(MIB))
    other, file = tmp_path / "other", tmp_path / "disk.raw"
    other.mkdir()
    file.touch()
    options = f"conf={ceph.conf},id=rw,keyring={ceph.keyring('rw')},connect_timeout=20"
    fstab, log = tmp_path / "fstab", tmp_path / "log"
    fstab.write_text(
        f"{pool} {in_fstab(mountpoint_here)} fuse.rbdfs {options},debug,log={log} 0 0\n"
        f"rbdfs {other} fuse.rbdfs {options},all_pools 0 0\n"
        f"rbd:{pool}/{image_name} {file} fuse.rbdfs {options} 0 0\n"
        f"{pool} /nowhere fuse.rbdfs {options},noauto 0 0\n"
    )
    paths = (mountpoint_here, other, file)
    try:
        for _ in range(2):
            done = here.run("mount", "-a", "--fstab", fstab)
            assert (done.returncode, done.stderr) == (0, "")
            shown = here.run("findmnt", "-n", "-t", "fuse.rbdfs", "-o", "TARGET", "--raw").stdout
            found = [line.replace("\\x20", " ") for line in shown.splitlines()]
            assert sorted(found) == sorted(map(str, paths))
        assert here.path(mountpoint_here / image_name).read_bytes() == random_bytes(MIB)
        assert here.path(other / pool / image_name).read_bytes() == random_bytes(MIB)
        assert here.path(file).read_bytes() == random_bytes(MIB)
        here.run("ls", "-l", mountpoint_here)
        eventually(lambda: "DEBUG" in log.read_text(), what="what debug logs")
        done = here.run("umount", "-a", "-t", "fuse.rbdfs")
        assert (done.returncode, done.stderr) == (0, "")
        assert not any(map(here.mounted, paths))
    finally:
        daemons = [pid for path in paths for pid in processes_naming(str(path))]
        here.run("umount", "-a", "-t", "fuse.rbdfs")
        for pid in daemons:
            wait_for_end(pid)


def test_everyday_tools(
    ceph: Ceph, pool: str, image_name: str, here: Namespace, mountpoint_here: Path
) -> None:
    """df, lsof, umount of what is busy, and the two ways to unmount it all the same."""
    import_image(ceph, f"{pool}/{image_name}", random_bytes(MIB))
    for option in ("-l", "-f"):
        assert here.mount(pool, mountpoint_here, f"conf={ceph.conf}").returncode == 0
        shown = here.run("df", "--output=source,fstype,target", mountpoint_here).stdout
        assert shown.splitlines()[1].split(None, 2) == [pool, "fuse.rbdfs", str(mountpoint_here)]
        daemons = processes_naming(str(mountpoint_here))
        with opened_and_lost(here.path(mountpoint_here / image_name), os.O_RDONLY) as file:
            if shutil.which("lsof"):
                using = here.run("lsof", "-t", mountpoint_here / image_name).stdout.split()
                assert using == [str(os.getpid())]
            done = here.run("umount", mountpoint_here)
            assert (done.returncode, "target is busy" in done.stderr) == (32, True)
            here.run("umount", option, mountpoint_here)
            # -f ends the connection whatever is open; the kernel calls it busy all the same.
            eventually(lambda: not here.mounted(mountpoint_here), what="the end of it")
            if option == "-l":
                assert os.pread(file, MIB, 0) == random_bytes(MIB)
            else:
                assert refusal(lambda: os.pread(file, 1, 0)) in ("ENOTCONN", "ECONNABORTED")
        for pid in daemons:
            wait_for_end(pid)


def test_failure_is_told(ceph: Ceph, here: Namespace, mountpoint_here: Path) -> None:
    options = f"conf={ceph.conf}"
    done = here.mount("no-such-pool", mountpoint_here, options)
    assert done.returncode != 0
    assert "rbdfs: no such pool" in done.stderr
    assert not here.mounted(mountpoint_here)


def test_pool_of_the_name_of_a_command(ceph: Ceph, here: Namespace, mountpoint_here: Path) -> None:
    """In fstab there is no `--`, so what mount(8) runs is a mount, whatever the pool is called."""
    for name in COMMANDS:
        done = here.mount(name, mountpoint_here, f"conf={ceph.conf}")
        assert re.fullmatch(f"rbdfs: no such pool.*: {name}\n", done.stderr), done.stderr
    assert not here.mounted(mountpoint_here)
