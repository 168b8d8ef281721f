"""`mount -o remount` of a mount that is there: through mount(8), which runs its helper for it."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.support.conditions import eventually
from tests.support.images import MIB, export_image, import_image, random_bytes
from tests.support.mounts import RBDFS, TIMEOUT_S, opened
from tests.support.namespaces import in_fstab
from tests.support.refusals import refusal

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.ceph import Ceph
    from tests.support.mounts import Mounting
    from tests.support.namespaces import Namespace


@pytest.fixture
def mount(
    ceph: Ceph, pool: str, image_name: str, here: Namespace, mountpoint_here: Path
) -> Namespace:
    """The pool mounted by mount(8), with an image in it."""
    import_image(ceph, f"{pool}/{image_name}", random_bytes(MIB))
    options = f"manage,noexec,conf={ceph.conf}"
    done = here.mount(pool, mountpoint_here, options)
    assert (done.returncode, done.stderr) == (0, "")
    return here


def test_read_only_and_back(
    ceph: Ceph, pool: str, image_name: str, mount: Namespace, mountpoint_here: Path
) -> None:
    path, spec = mount.path(mountpoint_here / image_name), f"{pool}/{image_name}"
    with path.open("r+b") as file:
        file.write(b"before")
    reader = os.open(path, os.O_RDONLY)
    try:
        for _ in range(2):
            done = mount.run("mount", "-o", "remount,ro", mountpoint_here)
            assert (done.returncode, done.stderr) == (0, "")
            assert {"ro", "noexec", "nosuid", "nodev"} <= mount.flags(mountpoint_here)
            assert refusal(lambda: os.open(path, os.O_WRONLY)) == "EROFS"
            assert refusal(lambda: os.truncate(path, 0)) == "EROFS"
            assert refusal(lambda: os.unlink(path)) == "EROFS"
            assert refusal(lambda: os.mkdir(path.with_name("space"))) == "EROFS"
            assert refusal(lambda: os.link(path, f"{path}@s")) == "EROFS"
            assert os.pread(reader, 6, 0) == b"before"
            eventually(lambda: ceph.lock_owners(spec) == [], what="the end of the lock")
            assert export_image(ceph, spec)[:6] == b"before"
        done = mount.run("mount", "-o", "remount,rw", mountpoint_here)
        assert (done.returncode, done.stderr) == (0, "")
        assert {"rw", "noexec"} <= mount.flags(mountpoint_here)
        with path.open("r+b") as file:
            file.write(b"after!")
        assert os.pread(reader, 6, 0) == b"after!"
        path.with_name("space").mkdir()
        path.with_name("space").rmdir()
    finally:
        os.close(reader)


def test_what_is_open_for_writing_decides(
    ceph: Ceph, pool: str, image_name: str, mount: Namespace, mountpoint_here: Path
) -> None:
    path = mount.path(mountpoint_here / image_name)
    with opened(path, os.O_RDWR) as file:
        done = mount.run("mount", "-o", "remount,ro", mountpoint_here)
        assert done.returncode != 0
        assert "is not remounted: files are open for writing, and it is used by " in done.stderr
        assert f"{os.getpid()} (" in done.stderr
        assert "rw" in mount.flags(mountpoint_here)
        assert os.pwrite(file, b"still", 0) == 5
    done = mount.run("mount", "-o", "remount,ro", mountpoint_here)
    assert (done.returncode, done.stderr) == (0, "")
    assert export_image(ceph, f"{pool}/{image_name}")[:5] == b"still"


def test_flags_of_the_kernel_are_changed(mount: Namespace, mountpoint_here: Path) -> None:
    done = mount.run("mount", "-o", "remount,noatime,exec,sync", mountpoint_here)
    assert (done.returncode, done.stderr) == (0, "")
    flags = mount.flags(mountpoint_here)
    assert {"rw", "noatime", "sync", "nosuid", "nodev"} <= flags
    assert "noexec" not in flags


@pytest.mark.parametrize(
    ("option", "word"),
    [
        ("lock=auto", "lock"),
        ("manage=snapshots", "manage"),
        ("rbd_cache=true", "rbd_cache"),
        ("dirsync", "dirsync"),
    ],
)
def test_what_only_a_new_mount_can_have(
    mount: Namespace, mountpoint_here: Path, option: str, word: str
) -> None:
    done = mount.run("mount", "-o", f"remount,ro,{option}", mountpoint_here)
    assert done.returncode != 0
    why = f"{word} cannot be changed (umount and mount it again)"
    assert f"rbdfs: '{mountpoint_here}' is not remounted: {why}\n" in done.stderr
    assert "rw" in mount.flags(mountpoint_here)


def test_by_a_line_of_fstab(
    ceph: Ceph, pool: str, here: Namespace, mountpoint_here: Path, tmp_path: Path
) -> None:
    """What is said there is said again, and is no change; what was changed there meanwhile is."""
    fstab = tmp_path / "fstab"
    where = in_fstab(mountpoint_here)
    # A comma in a value has a backslash, as between the addresses of mon_host.
    keyrings = rf"{ceph.keyring('rw')}\,{tmp_path}/other"
    line = f"{pool} {where} fuse.rbdfs noauto,_netdev,umask=027,keyring={keyrings}"
    line += f",id=rw,conf={ceph.conf}"
    fstab.write_text(f"{line} 0 0\n")
    assert here.run("mount", "--fstab", fstab, mountpoint_here).returncode == 0
    done = here.run("mount", "--fstab", fstab, "-o", "remount,ro", mountpoint_here)
    assert (done.returncode, done.stderr) == (0, "")
    assert "ro" in here.flags(mountpoint_here)
    fstab.write_text(f"{line},notrim 0 0\n")
    done = here.run("mount", "--fstab", fstab, "-o", "remount,rw", mountpoint_here)
    assert "notrim cannot be changed" in done.stderr
    assert "ro" in here.flags(mountpoint_here)


def test_what_the_kernel_shows_of_a_mount_of_all_users_is_no_change(
    ceph: Ceph, pool: str, here: Namespace, mountpoint_here: Path
) -> None:
    """Without a line in fstab mount(8) repeats /proc/mounts: default_permissions goes with it."""
    options = f"allow_other,sync,conf={ceph.conf}"
    here.mount(pool, mountpoint_here, options)
    assert {"allow_other", "default_permissions"} <= here.flags(mountpoint_here)
    for word in ("ro", "rw"):
        done = here.run("mount", "-o", f"remount,{word}", mountpoint_here)
        assert (done.returncode, done.stderr) == (0, "")
        assert {word, "sync", "allow_other"} <= here.flags(mountpoint_here)


@pytest.mark.parametrize(
    "form", ["{pool}/", "rbd:{pool}/{image}:id=rw:conf={conf}:rbd_cache=false"]
)
def test_a_source_of_fstab_in_another_form(
    ceph: Ceph, pool: str, image_name: str, here: Namespace, mountpoint_here: Path, form: str
) -> None:
    """The kernel shows the same source for it, without what it says of Ceph."""
    import_image(ceph, f"{pool}/{image_name}", random_bytes(MIB))
    path = mountpoint_here
    if form.startswith("rbd:"):
        path = mountpoint_here.with_name("disk")
        path.touch()
    fstab = mountpoint_here.with_name("fstab")

    def write(form: str) -> None:
        source = form.format(pool=pool, image=image_name, conf=ceph.conf)
        fstab.write_text(f"{source} {in_fstab(path)} fuse.rbdfs noauto,conf={ceph.conf} 0 0\n")

    write(form)
    done = here.run("mount", "--fstab", fstab, path)
    assert (done.returncode, done.stderr) == (0, "")
    done = here.run("mount", "--fstab", fstab, "-o", "remount,ro", path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "ro" in here.flags(path)
    for old, new, why in (
        ("id=rw", "id=admin", "id cannot be changed"),
        ("=false", "=true", "rbd_cache cannot be changed"),
        ("conf={conf}", "conf=/else", "conf cannot be changed"),
        ("{pool}", "other", "is a mount of "),
    ):
        if old in form:
            write(form.replace(old, new))
            done = here.run("mount", "--fstab", fstab, "-o", "remount,rw", path)
            assert done.returncode != 0
            assert why in done.stderr
            assert "ro" in here.flags(path)


def test_a_server_that_was_started_read_only_writes_nothing(
    ceph: Ceph, pool: str, here: Namespace, mountpoint_here: Path
) -> None:
    assert here.mount(pool, mountpoint_here, f"ro,conf={ceph.conf}").returncode == 0
    done = here.run("mount", "-o", "remount,rw", mountpoint_here)
    assert done.returncode != 0
    assert "is not remounted: its server was started with ro (umount and mount it again)" in (
        done.stderr
    )
    assert "ro" in here.flags(mountpoint_here)


def said(*command: str | Path) -> tuple[int, str]:
    done = subprocess.run([RBDFS, *command], capture_output=True, text=True, timeout=TIMEOUT_S)
    return done.returncode, done.stderr


def test_what_cannot_be_remounted(pool: str, mounting: Mounting, tmp_path: Path) -> None:
    with mounting(pool) as mount:
        asked = ("other", mount.path, "-o", "remount,ro")
        assert said(*asked) == (
            1,
            f"rbdfs: '{mount.path}' is a mount of {pool}, not of other\n",
        )
        assert said("-r", pool, mount.path, "-o", "remount") == (
            2,
            "rbdfs: a remount takes its options behind -o alone\n",
        )
    with mounting(pool, "-o", "datapath=python") as mount:
        assert said(pool, mount.path, "-o", "remount,ro") == (
            1,
            f"rbdfs: '{mount.path}': no keeper answers for it\n",
        )
    code, why = said(pool, tmp_path, "-o", "remount,ro")
    assert code == 1
    assert f"'{tmp_path}' is not a mount of rbdfs" in why
