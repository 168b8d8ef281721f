"""What others change is seen within two seconds, also under an open file."""

from __future__ import annotations

import errno
import os
import re
import sys
from typing import TYPE_CHECKING, Any

import pytest
import rbd

from tests.support import crashes
from tests.support.ceph import run
from tests.support.conditions import SEEN_S, eventually
from tests.support.images import MIB, export_image, import_image, open_image, random_bytes
from tests.support.mounts import opened, opened_and_lost
from tests.support.refusals import refusal

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.ceph import Ceph
    from tests.support.mounts import Mount, Mounting

DATA = random_bytes(MIB)
reading_and_writing = pytest.mark.parametrize(
    ("data_path", "flags"),
    [("native", os.O_RDONLY), ("native", os.O_RDWR), ("python", os.O_RDWR)],
    ids=["native-reading", "native-writing", "python-writing"],
)
on_both_data_paths = pytest.mark.parametrize("data_path", ["native", "python"])


@pytest.fixture
def data_path() -> str:
    return "native"


@pytest.fixture
def mount_options(data_path: str) -> tuple[str, ...]:
    return (f"datapath={data_path}",)


@pytest.fixture
def image(ceph: Ceph, pool: str, image_name: str) -> str:
    import_image(ceph, f"{pool}/{image_name}", DATA)
    return image_name


@pytest.fixture
def resize(ceph: Ceph, pool: str, image: str) -> Callable[[int], None]:
    """Resizes the image, as another client."""

    def resize(size: int) -> None:
        ceph.rbd("resize", "--no-progress", "--allow-shrink", f"--size={size}B", f"{pool}/{image}")

    return resize


def allow_log(mount: Mount, pattern: str) -> None:
    """Declare records that may be there, or not."""
    if re.search(pattern, mount.log_text):
        mount.expect_log(pattern)


def test_names(ceph: Ceph, pool: str, image: str, mount: Mount) -> None:
    def names() -> set[str]:
        return {name for name in os.listdir(mount.path) if name.startswith(image)}

    assert names() == {image}
    ceph.rbd("snap", "create", "--no-progress", f"{pool}/{image}@s")
    ceph.rbd("create", "--size=1M", f"{pool}/{image}-new")
    eventually(lambda: names() == {image, f"{image}@s", f"{image}-new"}, SEEN_S, "new names")
    ceph.rbd("mv", f"{pool}/{image}-new", f"{pool}/{image}-moved")
    ceph.rbd("snap", "rm", "--no-progress", f"{pool}/{image}@s")
    eventually(lambda: names() == {image, f"{image}-moved"}, SEEN_S, "other names")
    ceph.rbd("trash", "mv", f"{pool}/{image}-moved")
    eventually(lambda: names() == {image}, SEEN_S, "the end of a name")
    eventually(lambda: not mount.file(f"{image}-moved").exists(), SEEN_S, "its end for stat(2)")


@reading_and_writing
def test_open_file_grows(
    ceph: Ceph, pool: str, image: str, mount: Mount, resize: Callable[[int], None], flags: int
) -> None:
    with opened(mount.file(image), flags) as file:
        assert os.pread(file, 2 * MIB, 0) == DATA
        resize(3 * MIB)
        eventually(lambda: os.fstat(file).st_size == 3 * MIB, SEEN_S, "the new size")
        assert os.pread(file, 4 * MIB, 0) == DATA + bytes(2 * MIB)
        if flags == os.O_RDWR:
            assert os.pwrite(file, b"end", 3 * MIB - 3) == 3
            os.fsync(file)
            assert export_image(ceph, f"{pool}/{image}")[-3:] == b"end"
            assert refusal(lambda: os.pwrite(file, b"more", 3 * MIB)) == "ENOSPC"


@pytest.mark.parametrize(
    ("manage", "code"), [(False, "EPERM"), (True, "no error")], ids=["unmanaged", "managed"]
)
def test_growing_one_that_another_makes_larger_still(
    ceph: Ceph, pool: str, image: str, mounting: Mounting, manage: bool, code: str
) -> None:
    """What was to grow is cut only where that is allowed."""
    control = mounting.directory / "step"
    command = ["rbd", "-c", str(ceph.conf), "resize", "--no-progress", "--size=3M"]
    lines = ["meanwhile rbdfs.ceph.image:Image.resize", *command, f"{pool}/{image}"]
    control.write_text("\n".join(lines))
    program = [sys.executable, crashes.__file__, str(control)]
    options = ["-o", "manage"] if manage else []
    with mounting(pool, *options, program=program) as mount:
        path = mount.file(image)
        assert refusal(lambda: os.truncate(path, 2 * MIB)) == code
        assert not control.exists()
        size = 2 * MIB if manage else 3 * MIB
        eventually(lambda: path.stat().st_size == size, SEEN_S, "the size")
    assert export_image(ceph, f"{pool}/{image}") == DATA + bytes(size - MIB)


@reading_and_writing
def test_open_file_shrinks(
    image: str, mount: Mount, resize: Callable[[int], None], flags: int
) -> None:
    half = MIB // 2
    with opened(mount.file(image), flags) as file:
        assert os.pread(file, MIB, 0) == DATA
        resize(half)
        eventually(lambda: os.fstat(file).st_size == half, SEEN_S, "the new size")
        assert os.pread(file, MIB, 0) == DATA[:half]
        assert os.pread(file, MIB, half) == b""
        if flags == os.O_RDWR:
            assert refusal(lambda: os.pwrite(file, b"beyond", half)) == "ENOSPC"
        # What was cut off does not come back.
        resize(MIB)
        eventually(lambda: os.fstat(file).st_size == MIB, SEEN_S, "the old size")
        assert os.pread(file, MIB, 0) == DATA[:half] + bytes(half)


@on_both_data_paths
def test_snapshot_removed_while_open(ceph: Ceph, pool: str, image: str, mount: Mount) -> None:
    """librbd would answer with zeros, and call that a success."""
    for snap in ("s", "t"):
        ceph.rbd("snap", "create", "--no-progress", f"{pool}/{image}@{snap}")
    for snap in ("s", "t"):
        eventually(mount.file(f"{image}@{snap}").exists, SEEN_S, "the snapshot")
    with (
        opened_and_lost(mount.file(f"{image}@s"), os.O_RDONLY | os.O_DIRECT) as file,
        opened(mount.file(f"{image}@t"), os.O_RDONLY) as other,
        opened(mount.file(image), os.O_RDONLY) as head,
    ):
        assert os.pread(other, 4096, 0) == DATA[:4096]
        ceph.rbd("snap", "rm", "--no-progress", f"{pool}/{image}@s")
        eventually(lambda: refusal(lambda: os.pread(file, 4096, 0)) == "ESTALE", SEEN_S, "ESTALE")
        assert refusal(lambda: os.fstat(file)) == "ESTALE"
        assert not mount.file(f"{image}@s").exists()
        for left in (other, head):
            assert os.pread(left, MIB, 0) == DATA
        mount.expect_log(r"@s.* was removed")
    assert mount.alive


def test_image_removed_while_open_for_reading(
    ceph: Ceph, pool: str, image: str, mount: Mount
) -> None:
    with opened_and_lost(mount.file(image), os.O_RDONLY) as file:
        assert os.pread(file, MIB, 0) == DATA
        ceph.rbd("rm", "--no-progress", f"{pool}/{image}")
        eventually(lambda: refusal(lambda: os.pread(file, 4096, 0)) == "ESTALE", SEEN_S, "ESTALE")
        # An image of the same name is another one.
        import_image(ceph, f"{pool}/{image}", b"new" * 1000)
        eventually(mount.file(image).exists, SEEN_S, "the new image")
        assert mount.file(image).read_bytes() == b"new" * 1000
        assert refusal(lambda: os.pread(file, 4096, 0)) == "ESTALE"
        mount.expect_log(r"was removed")
    assert mount.alive


def test_image_open_for_writing_is_not_removed(
    ceph: Ceph, pool: str, image: str, mount: Mount
) -> None:
    with opened(mount.file(image), os.O_RDWR) as file:
        with pytest.raises(Exception, match="still has watchers"):
            ceph.rbd("rm", "--no-progress", f"{pool}/{image}")
        assert os.pread(file, MIB, 0) == DATA


def test_renamed_while_open(ceph: Ceph, pool: str, image: str, mount: Mount) -> None:
    with opened(mount.file(image), os.O_RDWR) as file:
        ceph.rbd("mv", f"{pool}/{image}", f"{pool}/{image}-b")
        eventually(mount.file(f"{image}-b").exists, SEEN_S, "the new name")
        assert os.fstat(file).st_ino == mount.file(f"{image}-b").stat().st_ino
        assert os.pwrite(file, b"after", 0) == 5
        os.fsync(file)
    assert export_image(ceph, f"{pool}/{image}-b")[:5] == b"after"


def test_remade_image_has_no_old_pages(ceph: Ceph, pool: str, image: str, mount: Mount) -> None:
    path = mount.file(image)
    run("cat", str(path))
    with opened(path, os.O_RDWR) as file:
        assert os.pread(file, MIB, 0) == DATA  # into the page cache
    other = random_bytes(MIB, 5)
    ceph.rbd("rm", "--no-progress", f"{pool}/{image}")
    import_image(ceph, f"{pool}/{image}", other)
    # Same size, same name: the content alone can tell.
    eventually(lambda: _reads(path, other), SEEN_S, "the new content")
    allow_log(mount, r"was removed")


def _reads(path: Path, data: bytes) -> bool:
    try:
        content = path.read_bytes()
    except OSError as exc:
        assert exc.errno in (errno.ENOENT, errno.ESTALE), exc  # noqa: PT017
        return False
    # Half of the one and half of the other would be the worst.
    assert content in (data, DATA)
    return content == data


def test_written_elsewhere(ceph: Ceph, pool: str, image: str, mount: Mount) -> None:
    """A file open for reading only shows what another client writes."""
    with opened(mount.file(image), os.O_RDONLY) as file:
        assert os.pread(file, MIB, 0) == DATA
        with open_image(ceph, pool, image) as other:
            other.write(b"elsewhere", 0)
        assert os.pread(file, 9, 0) == b"elsewhere"


def test_reader_that_was_opened_beside_a_writer(
    ceph: Ceph, pool: str, image: str, mount: Mount
) -> None:
    with opened(mount.file(image), os.O_RDWR) as writer:
        reader = os.open(mount.file(image), os.O_RDONLY)
        try:
            assert os.pread(reader, MIB, 0) == DATA
            assert os.pwrite(writer, b"here", 0) == 4
            assert os.pread(reader, 4, 0) == b"here"
        except BaseException:
            os.close(reader)
            raise
    try:
        eventually(lambda: ceph.watchers(f"{pool}/{image}") == [], 5.0, "the end of the writing")
        # The lock is given up: from now on anybody may write.
        with open_image(ceph, pool, image) as other:
            other.write(b"elsewhere", 0)
        eventually(lambda: os.pread(reader, 9, 0) == b"elsewhere", SEEN_S, "what others wrote")
    finally:
        os.close(reader)


def test_rolled_back(ceph: Ceph, pool: str, image: str, mount: Mount, ioctx: Any) -> None:
    with rbd.Image(ioctx, image) as other:
        other.create_snap("s")
        other.write(b"changed", 0)
    assert mount.file(image).read_bytes()[:7] == b"changed"
    with rbd.Image(ioctx, image) as other:
        other.rollback_to_snap("s")
    assert mount.file(image).read_bytes() == DATA


@on_both_data_paths
@pytest.mark.parametrize("what", ["snapshot", "image"])
def test_copy_that_ends_after_the_removal(
    ceph: Ceph, pool: str, image: str, mount: Mount, what: str
) -> None:
    """What is read then is zeros, until a look tells: close(2) asks, so that no copy is false."""
    name = f"{image}@s" if what == "snapshot" else image
    if what == "snapshot":
        ceph.rbd("snap", "create", "--no-progress", f"{pool}/{image}@s")
        eventually(mount.file(name).exists, SEEN_S, "the snapshot")
    with open_image(ceph, pool, image) as other:
        file = os.open(mount.file(name), os.O_RDONLY)
        assert os.pread(file, 4096, 0) == DATA[:4096]
        # Not by a command, which takes as long as a look.
        if what == "snapshot":
            other.remove_snap("s")
    if what == "image":
        with ceph.connect() as cluster, cluster.open_ioctx(pool) as ioctx:
            rbd.RBD().remove(ioctx, image)
    assert refusal(lambda: os.close(file)) == "ESTALE"
    mount.expect_log(r"was removed")
