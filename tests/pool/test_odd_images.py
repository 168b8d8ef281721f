"""Images that are not whole, not ours or not usual: shown or left out, and none hides another."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import pytest
import rbd

from tests.support.ceph import run
from tests.support.conditions import eventually
from tests.support.images import MIB, export_image, import_image, open_image, random_bytes
from tests.support.mounts import opened
from tests.support.refusals import refusal

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.ceph import Ceph
    from tests.support.mounts import Mount, Mounting

DATA = random_bytes(MIB)
HUGE = 1 << 60
# Sizes of what is listed.
SIZES = {
    "clone-of-removed": MIB,
    "clone-of-trashed": MIB,
    "data-lost": MIB,
    "data-lost@s": MIB,
    "empty": 0,
    "encrypted": 20 * MIB,
    "huge": HUGE,
    "huge@s": HUGE,
    "importing": MIB,
    "migrating": MIB,
    "old": 4 * MIB,
    "old@s": 4 * MIB,
    "secondary": MIB,
    "usual": MIB,
}
LEFT_OUT = ("being-removed", "half-made", "nothing-left")


@pytest.fixture(scope="module")
def images(ceph: Ceph, pool: str, ioctx: Any, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A pool with an image of each kind; the names tell which."""
    import_image(ceph, f"{pool}/usual", DATA)
    rbd.RBD().create(ioctx, "empty", 0)
    make_huge(ioctx)
    make_old(ceph, pool)
    make_encrypted(ceph, pool, tmp_path_factory.mktemp("secret"))
    make_data_lost(ceph, pool)
    make_remains(ceph, pool, ioctx)
    make_secondary(ceph, pool)
    import_image(ceph, f"{pool}/migrated", DATA)
    ceph.rbd("migration", "prepare", f"{pool}/migrated", f"{pool}/migrating")
    make_importing(ceph, pool, tmp_path_factory.mktemp("elsewhere"))
    make_trashed(ceph, pool)
    return pool


def make_huge(ioctx: Any) -> None:
    # No object map is that large.
    rbd.RBD().create(ioctx, "huge", HUGE, features=rbd.RBD_FEATURE_LAYERING)
    with rbd.Image(ioctx, "huge") as image:
        image.write(b"end", HUGE - 3)
        image.create_snap("s")


def make_old(ceph: Ceph, pool: str) -> None:
    """Format 1, of which librbd makes no more unless it is forced to."""
    spec = f"{pool}/old"
    options = ["--image-format=1", "--size=4M", "-c", str(ceph.conf)]
    run("env", "RBD_FORCE_ALLOW_V1=1", "rbd", "create", *options, spec)
    with open_image(ceph, pool, "old") as image:
        image.write(DATA, 0)
    ceph.rbd("snap", "create", "--no-progress", f"{spec}@s")


def make_encrypted(ceph: Ceph, pool: str, scratch: Path) -> None:
    secret = scratch / "passphrase"
    secret.write_text("secret")
    ceph.rbd("create", "--size=20M", f"{pool}/encrypted")
    # The passphrase of the second version takes half a minute of a busy processor.
    ceph.rbd("encryption", "format", f"{pool}/encrypted", "luks1", str(secret))


def make_data_lost(ceph: Ceph, pool: str) -> None:
    with ceph.temporary_pool("data") as data_pool:
        ceph.rbd("create", "--size=1M", f"--data-pool={data_pool}", f"{pool}/data-lost")
        ceph.rbd("snap", "create", "--no-progress", f"{pool}/data-lost@s")


def make_remains(ceph: Ceph, pool: str, ioctx: Any) -> None:
    """What is there when a client dies while it makes or removes an image."""
    ids = {}
    for name in LEFT_OUT:
        rbd.RBD().create(ioctx, name, MIB, features=rbd.RBD_FEATURE_LAYERING)
        with rbd.Image(ioctx, name, read_only=True) as image:
            ids[name] = image.id()
    for name, image_id in ids.items():
        ceph.rados("-p", pool, "rm", f"rbd_header.{image_id}")
        if name != "being-removed":
            ceph.rados("-p", pool, "rmomapkey", "rbd_directory", f"name_{name}")
            ceph.rados("-p", pool, "rmomapkey", "rbd_directory", f"id_{image_id}")
        if name == "nothing-left":
            ceph.rados("-p", pool, "rm", f"rbd_id.{name}")


def make_secondary(ceph: Ceph, pool: str) -> None:
    import_image(ceph, f"{pool}/secondary", DATA)
    ceph.rbd("mirror", "pool", "enable", pool, "image")
    ceph.rbd("mirror", "image", "enable", f"{pool}/secondary", "snapshot")
    ceph.rbd("mirror", "image", "demote", f"{pool}/secondary")


def make_importing(ceph: Ceph, pool: str, scratch: Path) -> None:
    """The target of a migration from a file: from no pool, and from an image without an id."""
    scratch.chmod(0o755)
    path = scratch / "elsewhere.raw"
    path.write_bytes(DATA)
    spec = {"type": "raw", "stream": {"type": "file", "file_path": str(path)}}
    command = ("migration", "prepare", "--import-only", "--source-spec", json.dumps(spec))
    ceph.rbd(*command, f"{pool}/importing")


def make_trashed(ceph: Ceph, pool: str) -> None:
    import_image(ceph, f"{pool}/trashed", DATA)
    ceph.rbd("snap", "create", "--no-progress", f"{pool}/trashed@s")
    clone = f"{pool}/clone-of-trashed"
    ceph.rbd("clone", "--rbd-default-clone-format=2", f"{pool}/trashed@s", clone)
    ceph.rbd("trash", "mv", f"{pool}/trashed")
    # Until the last clone is gone, from a trash source of its own.
    import_image(ceph, f"{pool}/removed", DATA)
    ceph.rbd("snap", "create", "--no-progress", f"{pool}/removed@s")
    clone = f"{pool}/clone-of-removed"
    ceph.rbd("clone", "--rbd-default-clone-format=2", f"{pool}/removed@s", clone)
    ceph.rbd("snap", "rm", "--no-progress", f"{pool}/removed@s")
    keep = "--rbd-move-parent-to-trash-on-remove=true"
    ceph.rbd(keep, "rm", "--no-progress", f"{pool}/removed")
    assert "USER_PARENT" in ceph.rbd("trash", "ls", "--all", "--long", pool)


@pytest.fixture(scope="module", params=["native", "python"])
def mount(
    images: str, module_mounting: Mounting, request: pytest.FixtureRequest
) -> Iterator[Mount]:
    mounted = module_mounting(images, "-o", f"partitions,datapath={request.param}")
    with mounted as mount:
        yield mount
        mount.expect_log(r"left out of the listing: image 'being-removed' of .*, or what is left")
        mount.expect_log(r"left out of the listing: the partitions of .*/data-lost: .*No such dev")
        mount.expect_log(r"left out of the listing: the partitions of .*/data-lost@s: .*No such d")
        # What Python answers, it logs.
        mount.allow_log(r"(read|write|fsync|flush): .*/data-lost(@s)?: .*: No such device")
    assert mounted.log_text.count("image 'being-removed'") == 1


def test_listed_or_left_out(mount: Mount) -> None:
    for _ in range(2):
        with os.scandir(mount.path) as entries:
            assert {entry.name: entry.stat().st_size for entry in entries} == SIZES
    for name in (*LEFT_OUT, "removed", "trashed", "trashed@s", "migrated"):
        assert refusal(lambda name=name: mount.file(name).stat()) == "ENOENT"  # type: ignore[misc]
        assert refusal(lambda name=name: os.open(mount.file(name), os.O_RDWR)) == "ENOENT"  # type: ignore[misc]
    for command in (["ls", "-lR"], ["find", "-size", "+0"], ["du", "-a"]):
        run(*command[:1], str(mount.path), *command[1:])


READABLE = (
    *("clone-of-removed", "clone-of-trashed", "importing"),
    *("migrating", "old", "old@s", "secondary"),
)


@pytest.mark.parametrize("name", READABLE)
def test_read_like_any_other(ceph: Ceph, mount: Mount, images: str, name: str) -> None:
    content = mount.file(name).read_bytes()
    assert content[:MIB] == DATA
    assert content[MIB:] == bytes(SIZES[name] - MIB)
    assert export_image(ceph, f"{images}/{name}") == content


def test_a_managed_mount_hides_no_more(images: str, mounting: Mounting) -> None:
    """It reads the trash, for what clients that died have left there."""
    with mounting(images, "-o", "manage") as mount:
        assert set(os.listdir(mount.path)) == set(SIZES)
        pending = rf"migration of {images}/migrated to {images}/migrating is not complete"
        eventually(lambda: pending in mount.log_text, what="a look at the trash")
        mount.expect_log("left out of the listing: image 'being-removed'", pending)


def test_size_0(mount: Mount) -> None:
    path = mount.file("empty")
    assert path.read_bytes() == b""
    assert path.stat().st_blocks == 0
    with opened(path, os.O_RDWR) as file:
        assert refusal(lambda: os.pwrite(file, b"x", 0)) == "ENOSPC"
        assert refusal(lambda: os.lseek(file, 0, os.SEEK_DATA)) == "ENXIO"


def test_size_of_an_exbibyte(ceph: Ceph, mount: Mount, images: str) -> None:
    for name in ("huge", "huge@s"):
        # Without a map it is not known which of it is data.
        assert mount.file(name).stat().st_blocks == HUGE // 512
        with opened(mount.file(name), os.O_RDONLY) as file:
            assert os.pread(file, 100, HUGE - 3) == b"end"
            assert os.pread(file, 100, HUGE) == b""
            assert os.lseek(file, 0, os.SEEK_DATA) == 0
            assert os.lseek(file, 0, os.SEEK_HOLE) == HUGE
    with opened(mount.file("huge"), os.O_RDWR) as file:
        assert os.pwrite(file, b"END and more", HUGE - 3) == 3
        assert refusal(lambda: os.pwrite(file, b"x", HUGE)) == "ENOSPC"
    with open_image(ceph, images, "huge") as image:
        assert image.read(HUGE - 3, 3) == b"END"
        image.write(b"end", HUGE - 3)


def test_an_encrypted_image_shows_what_is_stored(ceph: Ceph, mount: Mount, images: str) -> None:
    content = mount.file("encrypted").read_bytes()
    assert content.startswith(b"LUKS\xba\xbe\0\1")
    assert content == export_image(ceph, f"{images}/encrypted")


def test_an_image_whose_data_pool_is_gone(mount: Mount) -> None:
    for name in ("data-lost", "data-lost@s"):
        # librbd's ENODEV would say that the mount's own device is gone.
        assert refusal(mount.file(name).read_bytes) == "EIO"
    assert refusal(lambda: mount.file("data-lost").write_bytes(b"x")) == "EPERM"
    descriptor = os.open(mount.file("data-lost"), os.O_RDWR)
    assert refusal(lambda: os.pwrite(descriptor, b"x", 0)) == "EIO"
    assert refusal(lambda: os.fsync(descriptor)) == "EIO"
    assert refusal(lambda: os.close(descriptor)) == "EIO"
    assert mount.file("usual").read_bytes() == DATA


def test_a_mirror_s_secondary_is_read_only(mount: Mount) -> None:
    assert refusal(lambda: os.open(mount.file("secondary"), os.O_RDWR)) == "EROFS"
    assert refusal(lambda: os.truncate(mount.file("secondary"), 2 * MIB)) == "EROFS"


def test_an_old_image_is_written_to(ceph: Ceph, mount: Mount, images: str) -> None:
    with opened(mount.file("old"), os.O_RDWR) as file:
        assert os.pwrite(file, b"new", 2 * MIB) == 3
        assert refusal(lambda: os.pwrite(file, b"x", 4 * MIB)) == "ENOSPC"
        os.fsync(file)
        with open_image(ceph, images, "old", read_only=True) as image:
            assert image.read(2 * MIB, 4) == b"new\0"
        os.pwrite(file, b"\0\0\0", 2 * MIB)
    assert refusal(lambda: os.open(mount.file("old@s"), os.O_RDWR)) == "EROFS"


@pytest.mark.parametrize("name", ["importing", "migrating"])
def test_a_migrating_image_is_written_to(ceph: Ceph, mount: Mount, images: str, name: str) -> None:
    """Prepared and not executed: what is not written here is read from the source."""
    with opened(mount.file(name), os.O_RDWR) as file:
        assert os.pwrite(file, DATA[:4096], 0) == 4096
        assert os.pread(file, MIB, 0) == DATA
    assert export_image(ceph, f"{images}/{name}") == DATA
