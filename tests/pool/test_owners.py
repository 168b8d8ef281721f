"""chown and chmod with `-o manage`: kept with the image, and true on every mount."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
from functools import partial
from pathlib import Path
from stat import S_IMODE
from typing import TYPE_CHECKING

import pytest
import rbd

from tests.support.ceph import run
from tests.support.conditions import SEEN_S, eventually
from tests.support.images import MIB, import_image, open_image, random_bytes
from tests.support.mounts import opened
from tests.support.refusals import refusal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.ceph import Ceph
    from tests.support.mounts import Mounting

QEMU = (64055, 108)
NOBODY = 65534


@pytest.fixture
def image(ceph: Ceph, pool: str, image_name: str) -> str:
    """An image of a mebibyte with a snapshot `s`."""
    import_image(ceph, f"{pool}/{image_name}", random_bytes(MIB))
    ceph.rbd("snap", "create", "--no-progress", f"{pool}/{image_name}@s")
    return image_name


@pytest.fixture
def public() -> Iterator[Path]:
    """A mount point for an image, which other users can reach."""
    with tempfile.TemporaryDirectory(prefix="rbdfs-public-") as name:
        path = Path(name, "file")
        path.touch()
        path.parent.chmod(0o755)
        yield path


def owned(path: Path) -> tuple[int, int, int]:
    """Owner, group and mode as `ls -l` tells them."""
    status = path.stat()
    return status.st_uid, status.st_gid, S_IMODE(status.st_mode)


def as_nobody(*command: str | Path) -> int:
    return subprocess.run(
        command, user=NOBODY, group=NOBODY, extra_groups=[], capture_output=True
    ).returncode


def test_what_was_asked_for_holds_on_every_mount(
    ceph: Ceph, pool: str, image: str, mounting: Mounting
) -> None:
    with mounting(pool, "-o", "manage") as mount, mounting(pool, "-r") as other:
        assert owned(other.file(image)) == (0, 0, 0o600)
        path = mount.file(image)
        os.chmod(path, 0o640)
        os.chown(path, *QEMU)
        assert owned(path) == (*QEMU, 0o640)
        eventually(lambda: owned(other.file(image)) == (*QEMU, 0o640), SEEN_S)
        # Nothing writes to a snapshot.
        assert owned(other.file(f"{image}@s")) == (*QEMU, 0o440)
        listed = {entry.name: owned(Path(entry.path)) for entry in os.scandir(other.path)}
        assert (listed[image], listed[f"{image}@s"]) == ((*QEMU, 0o640), (*QEMU, 0o440))
        assert owned(mount.path) == (0, 0, 0o700)
    told = [line.split() for line in ceph.rbd("image-meta", "ls", f"{pool}/{image}").splitlines()]
    assert [line for line in told if line and line[0].startswith("rbdfs.")] == [
        ["rbdfs.gid", "108"],
        ["rbdfs.mode", "0640"],
        ["rbdfs.uid", "64055"],
    ]
    with mounting(pool) as again:
        assert owned(again.file(image)) == (*QEMU, 0o640)
        assert refusal(lambda: os.chmod(again.file(image), 0o600)) == "EPERM"
        assert owned(again.file(image)) == (*QEMU, 0o640)


def test_options_come_before_what_was_asked_for(pool: str, image: str, mounting: Mounting) -> None:
    with mounting(pool, "-o", "manage") as mount:
        os.chmod(mount.file(image), 0o640)
        os.chown(mount.file(image), *QEMU)
    with mounting(pool, "-o", "manage,uid=5,umask=027") as mount:
        path = mount.file(image)
        assert owned(path) == (5, 108, 0o640)
        assert refusal(lambda: os.chown(path, 6, -1)) == "EPERM"
        assert refusal(lambda: os.chmod(path, 0o600)) == "EPERM"
        # All that was asked for, or nothing.
        assert refusal(lambda: os.chown(path, 6, 7)) == "EPERM"
        assert owned(path) == (5, 108, 0o640)
        os.chown(path, -1, 7)
        assert owned(path) == (5, 7, 0o640)
    with mounting(pool, "-o", "manage,quiet,uid=5") as mount:
        path = mount.file(image)
        os.chown(path, 6, 8)
        os.chmod(path, 0o4755)
        assert owned(path) == (5, 8, 0o640)
    with mounting(pool) as mount:
        assert owned(mount.file(image)) == (64055, 8, 0o640)


def test_what_cannot_be_kept_is_refused(pool: str, image: str, mounting: Mounting) -> None:
    with mounting(pool, "-o", "manage") as mount:
        for path in (mount.path, mount.file(f"{image}@s")):
            for call in (partial(os.chmod, path, 0o444), partial(os.chown, path, 1, 1)):
                assert refusal(call) == "EPERM"
        for mode in (0o4600, 0o2600, 0o1600):
            assert refusal(partial(os.chmod, mount.file(image), mode)) == "EPERM"
        assert owned(mount.file(image)) == (0, 0, 0o600)
        assert owned(mount.file(f"{image}@s")) == (0, 0, 0o400)


def test_a_group_of_its_own_alone(ceph: Ceph, pool: str, image: str, mounting: Mounting) -> None:
    with mounting(pool, "-o", "manage") as mount:
        run("chgrp", "108", str(mount.file(image)))
        assert owned(mount.file(image)) == (0, 108, 0o600)
    assert "rbdfs.uid" not in ceph.rbd("image-meta", "ls", f"{pool}/{image}")
    with mounting(pool, "-o", "uid=7") as mount:
        assert owned(mount.file(image)) == (7, 108, 0o600)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("rbdfs.uid", value) for value in ("-1", "4294967295", "1 ", "root", "٣", "0x10")),
        *(("rbdfs.mode", value) for value in ("4755", "64", "0o640", "689", "rw-r--r--", "-640")),
        ("rbdfs.gid", "9" * 5000),
    ],
)
def test_image_meta_that_makes_no_sense_does_not_count(
    ceph: Ceph, pool: str, image_name: str, mounting: Mounting, key: str, value: str
) -> None:
    ceph.rbd("create", "--size=1M", f"{pool}/{image_name}")
    ceph.rbd("image-meta", "set", f"{pool}/{image_name}", "--", key, value)
    with mounting(pool) as mount:
        assert owned(mount.file(image_name)) == (0, 0, 0o600)


def test_the_kernel_decides_who_may(
    pool: str, image: str, mounting: Mounting, public: Path
) -> None:
    """Others do what they may do in a directory of any file system."""
    source = f"rbd:{pool}/{image}"
    with mounting(source, "-o", "manage,allow_other", mountpoint=public) as mount:
        path = mount.path
        assert as_nobody("head", "-c", "1", path)
        assert as_nobody("chmod", "0666", path)
        assert as_nobody("chown", str(NOBODY), path)
        os.chmod(path, 0o660)
        os.chown(path, -1, NOBODY)
        assert as_nobody("head", "-c", "1", path) == 0
        # Who may write to it is not its owner by that.
        assert as_nobody("chmod", "0666", path)
        for key, value in (("uid", b"65534"), ("mode", b"0666")):
            with pytest.raises(PermissionError):
                os.setxattr(path, f"user.rbd.meta.rbdfs.{key}", value)
            with pytest.raises(PermissionError):
                os.removexattr(path, f"user.rbd.meta.rbdfs.{key}")
        os.chown(path, NOBODY, -1)
        assert as_nobody("chmod", "0600", path) == 0
        assert as_nobody("chown", "0", path)
        assert as_nobody("chgrp", "0", path)
        assert owned(path) == (NOBODY, NOBODY, 0o600)


COPIERS: dict[str, Callable[[Path, Path], list[str]]] = {
    "install": lambda source, target: [
        *("install", "-m", "644", "-o", "64055", "-g", "108", str(source), str(target))
    ],
    "cp -p": lambda source, target: ["cp", "-p", str(source), str(target)],
    "rsync -a": lambda source, target: ["rsync", "-a", str(source), str(target)],
}


@pytest.mark.parametrize("copier", COPIERS)
def test_programs_that_copy_owners_and_modes(
    pool: str, image_name: str, mounting: Mounting, tmp_path: Path, copier: str
) -> None:
    source = tmp_path / "source"
    source.write_bytes(random_bytes(MIB))
    source.chmod(0o644)
    os.chown(source, *QEMU)
    with mounting(pool, "-o", "manage") as mount:
        path = mount.file(image_name)
        run(*COPIERS[copier](source, path))
        assert owned(path) == (*QEMU, 0o644)
        assert path.read_bytes() == random_bytes(MIB)


def test_what_is_made_has_the_mode_of_the_mount(
    pool: str, image_name: str, mounting: Mounting, tmp_path: Path
) -> None:
    """A disk is nobody else's because `cp` made it: a mode has to be asked for by name."""
    source = tmp_path / "source"
    source.write_bytes(random_bytes(MIB))
    source.chmod(0o666)
    with mounting(pool, "-o", "manage") as mount:
        run("cp", str(source), str(mount.file(image_name)))
        assert owned(mount.file(image_name)) == (0, 0, 0o600)
        os.close(os.open(mount.file(f"{image_name}-b"), os.O_CREAT | os.O_RDWR, 0o666))
        assert owned(mount.file(f"{image_name}-b")) == (0, 0, 0o600)


def test_whoever_writes_to_it_is_not_disturbed(
    ceph: Ceph, pool: str, image: str, mounting: Mounting
) -> None:
    """The exclusive lock stays where it is, and the image says it like any other image-meta."""
    with mounting(pool, "-o", "manage") as mount, open_image(ceph, pool, image) as writer:
        writer.lock_acquire(rbd.RBD_LOCK_MODE_EXCLUSIVE)
        os.chown(mount.file(image), *QEMU)
        assert writer.is_exclusive_lock_owner()
        assert writer.write(b"x" * 4096, 0) == 4096
        assert writer.metadata_get("rbdfs.uid") == "64055"
        assert owned(mount.file(image)) == (*QEMU, 0o600)
    ceph.rbd("image-meta", "remove", f"{pool}/{image}", "rbdfs.uid")
    with mounting(pool) as mount:
        assert owned(mount.file(image)) == (0, 108, 0o600)


def test_an_image_that_is_gone_gets_no_owner(
    ceph: Ceph, pool: str, image_name: str, mounting: Mounting
) -> None:
    ceph.rbd("create", "--size=1M", f"{pool}/{image_name}")
    with mounting(pool, "-o", "manage") as mount:
        mount.expect_log("setattr: .* was removed")
        mount.allow_log("getattr: .* was removed")
        with opened(mount.file(image_name), os.O_PATH) as file:
            ceph.rbd("rm", "--no-progress", f"{pool}/{image_name}")
            assert refusal(lambda: os.chown(f"/proc/self/fd/{file}", *QEMU)) == "ESTALE"


@pytest.mark.usefixtures("native")
def test_owners_stay_after_a_crash_of_the_server(pool: str, image: str, mounting: Mounting) -> None:
    with mounting(pool, "-o", "manage") as mount:
        path = mount.file(image)
        os.chown(path, *QEMU)
        with path.open("rb") as file:
            child = int(Path(f"/proc/{mount.pid}/task/{mount.pid}/children").read_text().split()[0])
            os.kill(child, signal.SIGKILL)
            mount.expect_log(r"was killed \(signal 9\)")
            status = os.fstat(file.fileno())
            assert (status.st_uid, status.st_gid) == QEMU
        os.chmod(path, 0o640)
        assert owned(path) == (*QEMU, 0o640)


def test_owners_go_with_an_image_to_another_pool(
    ceph: Ceph, pools: tuple[str, str], image_name: str, mounting: Mounting
) -> None:
    hdd, ssd = pools
    import_image(ceph, f"{hdd}/{image_name}", random_bytes(MIB))
    with mounting(None, "-o", "manage") as mount:
        mount.allow_log("`rbd migration (execute|commit) ")
        path = mount.path / hdd / image_name
        os.chown(path, *QEMU)
        os.chmod(path, 0o640)
        moved = path.rename(mount.path / ssd / image_name)
        assert owned(moved) == (*QEMU, 0o640)
        os.chmod(moved, 0o600)
        assert owned(moved) == (*QEMU, 0o600)
