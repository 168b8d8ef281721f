"""What a mount refuses, with which errno, and that nothing has changed then."""

from __future__ import annotations

import os
import re
import socket
import subprocess
from functools import partial
from stat import S_IFBLK
from typing import TYPE_CHECKING

import pytest

from tests.support.conditions import eventually
from tests.support.images import MIB, export_image, import_image, pool_objects, random_bytes
from tests.support.mounts import opened
from tests.support.refusals import refusal

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.ceph import Ceph
    from tests.support.mounts import Mount, Mounting

WRITING = {
    "O_WRONLY": os.O_WRONLY,
    "O_RDWR": os.O_RDWR,
    "O_WRONLY|O_APPEND": os.O_WRONLY | os.O_APPEND,
    "O_WRONLY|O_TRUNC": os.O_WRONLY | os.O_TRUNC,
    "O_RDONLY|O_TRUNC": os.O_RDONLY | os.O_TRUNC,
    "O_RDWR|O_DIRECT": os.O_RDWR | os.O_DIRECT,
}


@pytest.fixture
def image(ceph: Ceph, pool: str, image_name: str) -> str:
    """An image of a mebibyte with a snapshot `s`."""
    import_image(ceph, f"{pool}/{image_name}", random_bytes(MIB))
    ceph.rbd("snap", "create", "--no-progress", f"{pool}/{image_name}@s")
    return image_name


def bind(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))


def changing_calls(image: Path, new: Path) -> dict[str, Callable[[], object]]:
    """What would create, remove, rename or mark, by name."""
    snap = image.with_name(f"{image.name}@s")
    return {
        "creat": lambda: os.open(new, os.O_WRONLY | os.O_CREAT),
        "creat snapshot": lambda: os.open(f"{image}@new", os.O_WRONLY | os.O_CREAT),
        "mkdir": lambda: os.mkdir(new),
        "mknod": lambda: os.mknod(new),
        "mkfifo": lambda: os.mkfifo(new),
        "mknod device": lambda: os.mknod(new, S_IFBLK | 0o600, os.makedev(7, 0)),
        "symlink": lambda: os.symlink("target", new),
        "link": lambda: os.link(image, new),
        "link snapshot": lambda: os.link(image, f"{image}@new"),
        "unlink": lambda: os.unlink(image),
        "unlink snapshot": lambda: os.unlink(snap),
        "rename": lambda: os.rename(image, new),
        "rename over": lambda: os.rename(image, snap),
        "chmod": lambda: os.chmod(image, 0o644),
        "chown": lambda: os.chown(image, 1, 1),
        "setxattr": lambda: os.setxattr(image, "user.colour", b"red"),
        "removexattr": lambda: os.removexattr(image, "user.colour"),
    }


@pytest.mark.parametrize(("options", "code"), [((), "EPERM"), (("-r",), "EROFS")])
def test_nothing_is_created_removed_or_renamed(
    ceph: Ceph, pool: str, image: str, mounting: Mounting, options: tuple[str, ...], code: str
) -> None:
    ceph.rbd("namespace", "create", f"{pool}/ns-{image}")
    with mounting(pool, *options) as mount:
        before = pool_objects(ceph, pool), mount.file(image).stat()
        calls = changing_calls(mount.file(image), mount.file("new"))
        calls["rmdir"] = lambda: os.rmdir(mount.file(f"ns-{image}"))
        calls["bind"] = lambda: bind(mount.file("new"))
        answers = {name: refusal(call) for name, call in calls.items()}
        assert answers == dict.fromkeys(calls, code)
        assert not mount.file("new").exists()
        assert (pool_objects(ceph, pool), mount.file(image).stat()) == before
        assert mount.alive


def test_a_mode_that_cannot_be_kept_is_no_error_where_it_is_asked_for(
    image: str, pool: str, mounting: Mounting
) -> None:
    with mounting(pool, "-o", "quiet,umask=007,gid=5") as mount:
        path = mount.file(image)
        os.chmod(path, 0o600)
        os.chown(path, 64055, 108)
        assert (path.stat().st_mode & 0o777, path.stat().st_uid, path.stat().st_gid) == (
            0o660,
            0,
            5,
        )
        assert refusal(lambda: os.truncate(path, 0)) == "EPERM"


COPIES = {
    "cp": ["cp", "SOURCE", "IMAGE"],
    "cat": ["sh", "-c", "cat SOURCE > IMAGE"],
    "dd": ["dd", "if=SOURCE", "of=IMAGE"],
    "qemu-img": ["qemu-img", "convert", "-O", "raw", "SOURCE", "IMAGE"],
}


@pytest.mark.parametrize("command", COPIES.values(), ids=COPIES)
def test_a_copy_over_an_image_is_told_how(
    ceph: Ceph, pool: str, image: str, mount: Mount, tmp_path: Path, command: list[str]
) -> None:
    """A device would keep its old tail behind a shorter copy, so an image is not emptied."""
    source = tmp_path / "source"
    source.write_bytes(b"\0" * 65536)
    names = {"SOURCE": str(source), "IMAGE": str(mount.file(image))}
    for word, name in names.items():
        command = [part.replace(word, name) for part in command]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert done.returncode != 0
    assert "Operation not permitted" in done.stderr
    line = (
        f"INFO .*: {pool}/{image}: it keeps its size, as a disk does: write into it with"
        " `dd conv=notrunc`, `qemu-img convert -n` or `rsync --inplace`, or mount with -o manage\n"
    )
    eventually(lambda: re.search(line, mount.log_text), what="the line that names the way")
    assert export_image(ceph, f"{pool}/{image}") == random_bytes(MIB)


def test_other_refusals(image: str, mount: Mount) -> None:
    path = mount.file(image)
    assert refusal(lambda: os.open(path, os.O_CREAT | os.O_EXCL)) == "EEXIST"
    assert refusal(lambda: os.open(path, os.O_DIRECTORY)) == "ENOTDIR"
    assert refusal(lambda: os.open(mount.path, os.O_WRONLY)) == "EISDIR"
    assert refusal(lambda: os.open(mount.path, os.O_TMPFILE | os.O_RDWR)) == "ENOTSUP"
    assert refusal(lambda: os.rmdir(path)) == "ENOTDIR"
    assert refusal(lambda: os.readlink(path)) == "EINVAL"
    assert refusal(lambda: os.getxattr(path, "user.colour")) == "ENODATA"
    assert refusal(lambda: os.unlink(mount.file("nothing"))) == "ENOENT"
    assert "user.colour" not in os.listxattr(path)


@pytest.mark.parametrize("options", [(), ("-o", "manage")], ids=["plain", "manage"])
def test_attributes_outside_of_user_are_not_supported(
    pool: str, image: str, mounting: Mounting, options: tuple[str, ...]
) -> None:
    """As on vfat and NFS. libvirt takes ENODATA for "could be set", and starts no domain then."""
    with mounting(pool, *options) as mount:
        for path in (mount.path, mount.file(image), mount.file(f"{image}@s")):
            for name in ("trusted.libvirt.security.dac", "security.selinux", "system.nfs4_acl"):
                for call in (
                    partial(os.getxattr, path, name),
                    partial(os.setxattr, path, name, b"x"),
                    partial(os.removexattr, path, name),
                ):
                    assert refusal(call) == "ENOTSUP", call
            assert refusal(partial(os.getxattr, path, "security.capability")) == "ENOTSUP"
            assert refusal(partial(os.getxattr, path, "user.colour")) == "ENODATA"


@pytest.mark.usefixtures("native")
def test_writing_asks_for_no_capability(image: str, pool: str, mounting: Mounting) -> None:
    """The kernel asks for security.capability before a write, and takes EOPNOTSUPP for none."""
    with mounting(pool, "-d") as mount:
        for flags in (os.O_RDWR, os.O_RDWR | os.O_SYNC):
            with opened(mount.file(image), flags) as file:
                for block in range(64):
                    assert os.pwrite(file, b"x" * 4096, 4096 * block) == 4096
        assert mount.log_text.count("security.capability") <= 2


@pytest.mark.parametrize("flags", WRITING.values(), ids=WRITING)
def test_snapshot_is_never_opened_for_writing(image: str, mount: Mount, flags: int) -> None:
    path = mount.file(f"{image}@s")
    assert refusal(lambda: os.open(path, flags)) == "EROFS"
    assert path.read_bytes() == random_bytes(MIB)


def test_snapshot_is_never_resized(ceph: Ceph, pool: str, image: str, mount: Mount) -> None:
    path = mount.file(f"{image}@s")
    for size in (0, MIB - 1, MIB + 1):
        assert refusal(lambda size=size: os.truncate(path, size)) == "EROFS"  # type: ignore[misc]
    assert not os.access(path, os.W_OK)
    assert os.access(path, os.R_OK)
    assert export_image(ceph, f"{pool}/{image}@s") == random_bytes(MIB)


@pytest.mark.parametrize("option", [("-r",), ("-o", "ro")], ids=" ".join)
def test_read_only_mount(
    ceph: Ceph, pool: str, image: str, mounting: Mounting, option: tuple[str, ...]
) -> None:
    with mounting(pool, *option) as mount:
        path = mount.file(image)
        answers = {
            name: refusal(lambda flags=flags: os.open(path, flags))  # type: ignore[misc]
            for name, flags in WRITING.items()
        }
        assert answers == dict.fromkeys(WRITING, "EROFS")
        assert refusal(lambda: os.truncate(path, 2 * MIB)) == "EROFS"
        assert os.statvfs(path).f_flag & os.ST_RDONLY
        assert path.read_bytes() == random_bytes(MIB)
        assert ceph.watchers(f"{pool}/{image}") == []
