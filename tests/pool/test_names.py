"""Names that librbd takes and a file system does not: each is one file, and none hides another."""

from __future__ import annotations

import errno
import os
import re
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
import rbd

from rbdfs.model.file_name import (
    FileName,
    directory_name,
    file_name,
    parse_directory_name,
    parse_file_name,
)
from tests.support.mounts import opened

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.support.ceph import Ceph
    from tests.support.mounts import Mount, Mounting

# What is made, and the file name that is to stand for it.
NAMES: dict[bytes, bytes] = {
    b"plain": b"plain",
    b"a/b": b"a%2Fb",
    b"a%2Fb": b"a%252Fb",
    b"/abs": b"%2Fabs",
    b"../x": b"..%2Fx",
    b".": b"%2E",
    b"..": b"%2E%2E",
    b"...": b"...",
    b".hidden": b".hidden",
    b"a@b": b"a%40b",
    b"@": b"%40",
    b"%": b"%25",
    b"%41": b"%2541",
    b"line\nbreak": b"line\nbreak",
    b"tab\tcr\resc\x1b[31m": b"tab\tcr\resc\x1b[31m",
    b" leading and trailing ": b" leading and trailing ",
    b"-rf": b"-rf",
    b"back\\slash 'quotes\" *?": b"back\\slash 'quotes\" *?",
    b"comma,colon:equals=": b"comma,colon:equals=",
    b"Case": b"Case",
    b"case": b"case",
    "\u00e9".encode(): "\u00e9".encode(),  # NFC
    "e\u0301".encode(): "e\u0301".encode(),  # NFD
    "ディスク \U0001f4be".encode(): "ディスク \U0001f4be".encode(),
    b"caf\xe9": b"caf%E9",
    b"\xff\xfe": b"%FF%FE",
    b"\xed\xa0\x80": b"%ED%A0%80",
    b"vm-part1": b"vm-part1",
    b"id:4": b"id:4",
    b"n" * 255: b"n" * 255,
    b"@" * 85: b"%40" * 85,
}
# Whose file name would be longer than 255 bytes.
TOO_LONG = (b"m" * 256, b"%" * 86, b"@" * 85 + b"x", b"l\nm" * 333, b"w" * 1001, b"z" * 2000)
SIZE = 8192
LEFT_OUT = r"left out of the listing: .*: file name of \d+ bytes, at most 255"
# What an image and its snapshot share a file name of.
SNAP_NAMES = {name: file for name, file in NAMES.items() if len(file) <= 249} | {
    # `@id:N` is the snapshot with that id.
    b"id:4": b"id%3A4",
    b"n" * 249: b"n" * 249,
}
SNAPS_TOO_LONG = (b"m" * 250, b"%" * 84, b"s" * 1000)


def content(name: bytes) -> bytes:
    return (name + b"\0" * SIZE)[:SIZE]


def make(ioctx: Any, name: bytes, data: bytes) -> None:
    rbd.RBD().create(ioctx, name, SIZE, features=rbd.RBD_FEATURE_LAYERING)
    with rbd.Image(ioctx, name) as image:
        image.write(data, 0)


@pytest.fixture(scope="module")
def images(ioctx: Any, pool: str) -> str:
    """A pool with an image of each name, which has its name in it."""
    for name in (*NAMES, *TOO_LONG):
        make(ioctx, name, content(name))
    return pool


@pytest.fixture(scope="module")
def looked_into(images: str, module_mounting: Mounting) -> Iterator[Mount]:
    with module_mounting(images, "-o", "partitions") as mount:
        yield mount
        expect_left_out(mount)


@pytest.fixture(scope="module")
def namespaces(ioctx: Any, images: str) -> Any:
    """A namespace of each name, with an image `inside` that has the namespace's name in it."""
    named = [name for name, file in NAMES.items() if len(file) < 200]
    for name in named:
        rbd.RBD().namespace_create(ioctx, name)
        if is_utf8(name):
            ioctx.set_namespace(name.decode())
            make(ioctx, b"inside", content(name))
            ioctx.set_namespace("")
    yield [name for name in named if is_utf8(name)]
    for name in named:
        if is_utf8(name):
            ioctx.set_namespace(name.decode())
            rbd.RBD().remove(ioctx, b"inside")
            ioctx.set_namespace("")
        rbd.RBD().namespace_remove(ioctx, name)


def is_utf8(name: bytes) -> bool:
    return name.decode("utf-8", "replace").encode() == name


def listed(path: Path) -> set[bytes]:
    """The names in a directory, each of which is listed once."""
    names = os.listdir(os.fsencode(path))
    assert len(names) == len(set(names))
    return set(names)


def below(path: Path, *names: bytes) -> bytes:
    return b"/".join((os.fsencode(path), *names))


def read(path: bytes) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def use_c_locale(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is started from now on takes text for ASCII: Python would use UTF-8 nevertheless."""
    for variable, value in (("LC_ALL", "C"), ("PYTHONUTF8", "0"), ("PYTHONCOERCECLOCALE", "0")):
        monkeypatch.setenv(variable, value)


def expect_left_out(mount: Mount, left_out: int = len(TOO_LONG)) -> None:
    """The log names what was left out, each of so many once, however often it was left out."""
    mount.expect_log(LEFT_OUT)
    reports = re.findall(LEFT_OUT, mount.log_text)
    assert len(reports) == len(set(reports)) == left_out
    # A name with line breaks must not look like several records.
    assert "\nm" not in mount.log_text


def test_every_image_is_a_file_with_its_own_content(images: str, mounting: Mounting) -> None:
    with mounting(images) as mount:
        assert listed(mount.path) == set(NAMES.values())
        for name, file in NAMES.items():
            assert read(below(mount.path, file)) == content(name)
            assert os.stat(below(mount.path, file)).st_size == SIZE
        inodes = {os.stat(below(mount.path, file)).st_ino for file in NAMES.values()}
        assert len(inodes) == len(NAMES)
        expect_left_out(mount)


def test_other_spellings_are_not_names(images: str, mounting: Mounting) -> None:
    with mounting(images) as mount:
        for file in (b"a%2fb", b"%61", b"plain%00", b"%C3%A9", b"caf\xe9", b"a%2Fb%", b"plain@"):
            with pytest.raises(FileNotFoundError):
                os.stat(below(mount.path, file))
        for name in TOO_LONG:
            file = name.replace(b"%", b"%25").replace(b"@", b"%40")
            with pytest.raises(OSError, match="File name too long"):
                os.stat(below(mount.path, file))
        expect_left_out(mount)


def test_hostile_names_are_written_to(images: str, ioctx: Any, mounting: Mounting) -> None:
    with mounting(images) as mount:
        for name in (b"a/b", b"..", b"caf\xe9", b"line\nbreak", b"n" * 255):
            path = below(mount.path, NAMES[name])
            with opened(os.fsdecode(path), os.O_RDWR) as file:
                assert os.pwrite(file, b"written", SIZE - 7) == 7
            with rbd.Image(ioctx, name) as image:
                assert image.read(0, SIZE) == content(name)[:-7] + b"written"
                image.write(content(name), 0)
        expect_left_out(mount)


def test_in_the_c_locale(
    images: str, mounting: Mounting, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    use_c_locale(monkeypatch)
    with mounting(images) as mount:
        found = subprocess.run(
            ["find", mount.path, "-type", "f", "-printf", "%P\\0"], capture_output=True, check=True
        )
        assert set(found.stdout.rstrip(b"\0").split(b"\0")) == set(NAMES.values())
        subprocess.run(["cp", "-r", "--", mount.path, tmp_path / "copy"], check=True)
        for name, file in NAMES.items():
            assert read(below(tmp_path / "copy", file)) == content(name)
        expect_left_out(mount)


def test_names_of_snapshots(images: str, ioctx: Any, mounting: Mounting) -> None:
    names = [*SNAP_NAMES, *SNAPS_TOO_LONG]
    with rbd.Image(ioctx, "plain") as image:
        for name in names:
            image.write(content(name), 0)
            image.create_snap(name)
        image.write(content(b"plain"), 0)
    expected = {b"plain@" + file: name for name, file in SNAP_NAMES.items()}
    try:
        with mounting(images) as mount:
            assert listed(mount.path) == set(NAMES.values()) | expected.keys()
            for file, name in expected.items():
                path = below(mount.path, file)
                assert read(path) == content(name)
                with pytest.raises(OSError, match="Read-only file system"):
                    os.open(path, os.O_RDWR)
            inodes = {os.stat(below(mount.path, file)).st_ino for file in expected}
            assert len(inodes) == len(expected)
            for file in (b"plain@", b"plain@nothing", b"plain@a@b", b"plain@a/b", b"plain@id:4"):
                with pytest.raises((FileNotFoundError, NotADirectoryError)):
                    os.stat(below(mount.path, file))
            expect_left_out(mount, len(TOO_LONG) + len(SNAPS_TOO_LONG))
    finally:
        with rbd.Image(ioctx, "plain") as image:
            for name in names:
                image.remove_snap(name)


@pytest.mark.parametrize(
    ("file", "code"),
    [
        (b"plain@nosnap", errno.ENOENT),
        (b"nothing@nosnap", errno.ENOENT),
        (b"plain@", errno.ENOENT),
        (b"@", errno.ENOENT),
        (b"@@", errno.ENOENT),
        (b"@nosuchnamespace", errno.ENOENT),
        (b"plain/", errno.ENOTDIR),
        (b"plain/below", errno.ENOTDIR),
        (b"plain/.", errno.ENOTDIR),
        (b"nothing/", errno.ENOENT),
        (b"x" * 256, errno.ENAMETOOLONG),
        (b"x" * 1024, errno.ENAMETOOLONG),
        (b"x" * 1025, errno.ENAMETOOLONG),
        (b"plain@" + b"x" * 250, errno.ENAMETOOLONG),
        (b"@" + b"x" * 255, errno.ENAMETOOLONG),
        (b"\xff", errno.ENOENT),
        (b"plain@\xff", errno.ENOENT),
        (b"@\xff", errno.ENOENT),
        (b"%", errno.ENOENT),
        (b"plain-part1", errno.ENOENT),
    ],
)
@pytest.mark.parametrize("call", [os.stat, os.unlink, os.listxattr])
def test_names_that_nothing_has(
    looked_into: Mount, call: Callable[[bytes], object], file: bytes, code: int
) -> None:
    """What says that a thing is not there comes before what says that it may not be removed."""
    with pytest.raises(OSError, match=".") as caught:
        call(below(looked_into.path, file))
    assert errno.errorcode[caught.value.errno or 0] == errno.errorcode[code]


def test_names_of_namespaces(images: str, namespaces: list[bytes], mounting: Mounting) -> None:
    with mounting(images) as mount:
        # Each has the name of an image, and so is listed by its alias.
        directories = {name: b"@" + NAMES[name] for name in namespaces}
        assert listed(mount.path) == set(NAMES.values()) | set(directories.values())
        for name, directory in directories.items():
            assert os.listdir(below(mount.path, directory)) == [b"inside"]
            assert read(below(mount.path, directory, b"inside")) == content(name)
        # librados' binding cannot use them: no name, but nothing is hidden by them either.
        assert not os.path.lexists(below(mount.path, b"@caf%E9"))
        mount.expect_log(
            r"left out of .*: namespaces that are not UTF-8, or have a NUL: 'caf\\udce9', "
        )
        expect_left_out(mount)


def test_made_and_removed_under_every_name(
    ceph: Ceph, images: str, ioctx: Any, mounting: Mounting
) -> None:
    """What is made as a file is the image, the snapshot or the namespace of the name meant."""
    ceph.rbd("namespace", "create", f"{images}/made")
    ioctx.set_namespace("made")
    snap_names = {b"made": b"made"} | SNAP_NAMES
    features = f"rbd_default_features={rbd.RBD_FEATURE_LAYERING}"
    with mounting(f"{images}/made", "-o", "manage=snapshots", "-o", features) as mount:
        for name, file in NAMES.items():
            with open(below(mount.path, file), "xb") as image:
                image.write(content(name))
            with rbd.Image(ioctx, name, read_only=True) as image:
                assert image.read(0, image.size()) == content(name)
        for file in snap_names.values():
            os.link(below(mount.path, b"plain"), below(mount.path, b"plain@" + file))
        with rbd.Image(ioctx, b"plain", read_only=True) as image:
            for name in snap_names:
                image.set_snap(name)
        snapshots = {b"plain@" + file for file in snap_names.values()}
        assert listed(mount.path) == set(NAMES.values()) | snapshots
        for file in (*snapshots, *NAMES.values()):
            os.unlink(below(mount.path, file))
        assert listed(mount.path) == set()
        for file in NAMES.values():
            os.close(os.open(below(mount.path, file), os.O_CREAT | os.O_EXCL))
        assert listed(mount.path) == set(NAMES.values())
    ioctx.set_namespace("")


def test_namespaces_made_and_removed_under_every_name(ceph: Ceph, mounting: Mounting) -> None:
    named = {name: file for name, file in NAMES.items() if is_utf8(name)}
    with ceph.temporary_pool() as pool, mounting(pool, "-o", "manage") as mount:
        for file in named.values():
            os.mkdir(below(mount.path, file))
        assert listed(mount.path) == set(named.values())
        with ceph.connect() as cluster, cluster.open_ioctx(pool) as ioctx:
            made = set(rbd.RBD().namespace_list(ioctx))
        assert made == {name.decode() for name in named}
        for file in named.values():
            os.rmdir(below(mount.path, file))
        assert listed(mount.path) == set()
        for name in NAMES.keys() - named.keys():
            with pytest.raises(OSError, match="Invalid argument"):
                os.mkdir(below(mount.path, NAMES[name]))


@pytest.mark.parametrize(("name", "locale"), [("line\nbreak", "C.UTF-8"), ("é", "C")])
def test_namespace_with_such_a_name_is_mounted(
    images: str,
    namespaces: list[bytes],
    mounting: Mounting,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    locale: str,
) -> None:
    assert name.encode() in namespaces
    if locale == "C":
        use_c_locale(monkeypatch)
    with mounting(f"{images}/{name}") as mount:
        assert os.listdir(mount.path) == ["inside"]
        assert mount.file("inside").read_bytes() == content(name.encode())


def test_namespace_that_is_not_utf8_is_refused(
    images: str, namespaces: list[bytes], mounting: Mounting
) -> None:
    path = mounting.mountpoint()
    command = mounting.command(f"{images}/{os.fsdecode(b'caf' + bytes([0xE9]))}", path)
    done = subprocess.run(command, capture_output=True, timeout=30)
    assert (done.returncode, done.stdout) == (1, b"")
    # An image has that name.
    assert re.fullmatch(rb"rbdfs: \S+/caf%E9 is an image: .*\n", done.stderr)


def test_escapes_are_those_of_the_specification() -> None:
    for name, file in (NAMES | SNAP_NAMES).items():
        text = name.decode("utf-8", "surrogateescape")
        if name != b"id:4":
            assert file_name(text) == file
            assert directory_name(text) == file
        if len(file) <= 249:
            assert parse_file_name(file_name("vm", text)) == FileName("vm", text)
    for name, file in NAMES.items():
        text = name.decode("utf-8", "surrogateescape")
        assert parse_file_name(file) == FileName(text)
        assert parse_directory_name(file) == (text, False)
