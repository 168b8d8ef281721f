"""Starts that make no sense, are not allowed, or look as if they did more than they say."""

from __future__ import annotations

import os
import re
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.images import MIB, import_image, random_bytes
from tests.support.mounts import (
    RBDFS,
    TIMEOUT_S,
    force_unmount,
    mounted,
    processes_naming,
    wait_for_end,
)

if TYPE_CHECKING:
    from tests.support.ceph import Ceph
    from tests.support.mounts import Mounting

NOBODY = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]


def output(command: list[str], **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # type: ignore[call-overload,no-any-return]
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        **options,
    )


def assert_refused(done: subprocess.CompletedProcess[str], code: int, pattern: str = "") -> None:
    assert (done.returncode, done.stdout) == (code, ""), done.stderr
    assert re.fullmatch(rf"rbdfs: .*{pattern}.*\n", done.stderr), done.stderr


@pytest.mark.parametrize(
    "option",
    [
        *("timeout=0", "timeout=-1", "timeout=nan", "timeout=inf", "timeout=soon", "timeout="),
        *("timeout=1e300", "connect_timeout=0", "uid=", "uid=4294967295", "gid=1.5", "umask=1000"),
        *("umask=-1", "lock=none", "cache=", "cache=maybe", "snapshots=some", "datapath=c"),
        *(
            "object_size=3000",
            "object_size=1G",
            "object_size=-4K",
            "sector_size=1024",
            "data_pool=",
            "id=",
            "=1",
            "=",
        ),
        *("allow_other=1", "partitions=yes", "manage=1", "fsname"),
    ],
)
def test_option_without_a_meaning(mounting: Mounting, option: str) -> None:
    mountpoint = mounting.mountpoint()
    done = output(mounting.command("rbd", mountpoint, "-o", option))
    assert_refused(done, 2, re.escape(option))
    assert not mounted(mountpoint)


def test_mount_point_that_is_empty(mounting: Mounting) -> None:
    assert_refused(output(mounting.command("rbd", "")), 1)


@pytest.mark.parametrize("source", ["-rbd", "rbd@", "rbd/a/b", "/rbd", "r\nbd", "ünï", "\udcff"])
def test_source_that_is_no_pool(mounting: Mounting, source: str) -> None:
    mountpoint = mounting.mountpoint()
    done = output(mounting.command(source, mountpoint))
    assert done.returncode in (1, 2)
    assert_refused(done, done.returncode)
    assert "unexpected" not in done.stderr
    assert not mounted(mountpoint)
    assert processes_naming(str(mountpoint)) == []


def test_names_that_look_like_options(ceph: Ceph, mounting: Mounting, image_name: str) -> None:
    """Nothing in a name becomes an option of the mount: allow_other least of all."""
    pool = f"{image_name},allow_other,dev"
    ceph.ceph("osd", "pool", "create", pool, "8")
    try:
        ceph.rbd("pool", "init", pool)
        path = mounting.mountpoint("a,allow_other,suid")
        with mounting(pool, mountpoint=path):
            with open("/proc/self/mountinfo", encoding="utf-8") as mounts:
                (line,) = [line for line in mounts if "allow_other,suid" in line]
            before, _, after = line.partition(" - ")
            assert "nosuid,nodev" in before.split(" ")[5]
            assert "allow_other" not in after.rpartition(" ")[2]
    finally:
        ceph.ceph("osd", "pool", "rm", pool, pool, "--yes-i-really-really-mean-it")


def test_two_starts_at_the_same_time(pool: str, mounting: Mounting) -> None:
    """One of them serves, and what it serves is what is seen."""
    mountpoint = mounting.mountpoint()
    command = mounting.command(pool, mountpoint)
    try:
        with ThreadPoolExecutor(2) as threads:
            codes = sorted(done.returncode for done in threads.map(output, [command, command]))
        assert codes == [0, 1]
        assert os.listdir(mountpoint) is not None
    finally:
        daemons = processes_naming(str(mountpoint))
        force_unmount(mountpoint)
        for pid in daemons:
            wait_for_end(pid)


@pytest.mark.parametrize("variables", [{"LC_ALL": "C"}, {"PYTHONIOENCODING": "ascii"}], ids=str)
def test_locale_without_utf8(
    ceph: Ceph, pool: str, image_name: str, mounting: Mounting, variables: dict[str, str]
) -> None:
    name = f"{image_name}-ünï"
    import_image(ceph, f"{pool}/{name}", random_bytes(MIB))
    mountpoint = mounting.mountpoint("pünkt")
    done = output(
        mounting.command(pool, mountpoint),
        env={key: os.environ[key] for key in os.environ if key != "LANG"} | variables,
    )
    try:
        assert (done.returncode, done.stderr) == (0, "")
        assert name.encode() in os.listdir(os.fsencode(mountpoint))
        assert (mountpoint / name).read_bytes() == random_bytes(MIB)
    finally:
        subprocess.run(["umount", mountpoint], check=True)


def test_user_who_may_not(ceph: Ceph, mounting: Mounting, tmp_path: Path) -> None:
    """allow_other is root's to grant, and a mount point has to be one's own."""
    # What a user needs to get as far as mounting.
    copy = tmp_path / "ceph"
    copy.mkdir()
    keyring = copy / "keyring"
    keyring.write_text(ceph.keyring("rw").read_text())
    conf = copy / "ceph.conf"
    conf.write_text(ceph.conf.read_text())
    theirs = mounting.mountpoint("theirs")
    for path in (keyring, conf, copy, theirs):
        os.chown(path, 65534, 65534)
    for path in theirs.parents:
        path.chmod(path.stat().st_mode | 0o011)
    command = [*NOBODY, str(RBDFS), "-c", str(conf), "--id", "rw", "-k", str(keyring)]
    environment = os.environ | {"HOME": "/nonexistent"}
    if "user_allow_other" not in Path("/etc/fuse.conf").read_text().split():
        done = output([*command, "-o", "allow_other", "rbd", str(theirs)], env=environment, cwd="/")
        assert_refused(done, 1, "user_allow_other")
    root = mounting.mountpoint("root")
    root.chmod(0o755)
    done = output([*command, "rbd", str(root)], env=environment, cwd="/")
    assert_refused(done, 1, "cannot mount")
    assert not mounted(theirs)
    assert not mounted(root)
