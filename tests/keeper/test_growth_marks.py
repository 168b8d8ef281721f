"""Marks of growth that are left on images: which are looked at, by whom, and when they go."""

from __future__ import annotations

import contextlib
import os
import sys
from concurrent.futures import ThreadPoolExecutor, wait
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import rbd

from rbdfs.model.encoding import encode_map
from rbdfs.model.growth_mark import GrowthMark
from tests.support import crashes
from tests.support.conditions import eventually
from tests.support.images import MIB, random_bytes
from tests.support.mounts import opened, opened_and_lost
from tests.support.refusals import refusal
from tests.support.servers import killed_server, standing_still

if TYPE_CHECKING:
    from concurrent.futures import Future
    from pathlib import Path

    import rados

    from tests.support.ceph import Ceph
    from tests.support.mounts import Mounting

pytestmark = pytest.mark.usefixtures("native")

KEY = "rbdfs.growing"
ROOM = 64 * MIB
LOCKABLE = rbd.RBD_FEATURE_LAYERING | rbd.RBD_FEATURE_EXCLUSIVE_LOCK
DATA = random_bytes(MIB + 17)
MARKED = len(DATA)
# What would fail at once has failed by then.
HELD_S = 1.0
FENCED_S = 3600


def make(ioctx: rados.Ioctx, name: str, size: int = ROOM, mark: str = f"5 0 {ROOM} ID") -> None:
    """An image with data, as the death of a host has left it: `ID` is its id."""
    rbd.RBD().create(ioctx, name, size, old_format=False, features=61)
    with rbd.Image(ioctx, name) as image:
        if size:
            image.write(DATA, 0)
        image.metadata_set(KEY, mark.replace("ID", image.id()))


def found(ioctx: rados.Ioctx, name: str) -> tuple[int, bool]:
    """How large an image is, and whether it has a mark."""
    with rbd.Image(ioctx, name, read_only=True) as image:
        return image.size(), KEY in dict(image.metadata_list())


@pytest.mark.parametrize(
    "mark",
    [
        f"5 {ROOM // 2} {ROOM * 2} ID",
        f"5 0 {ROOM} d1ed",
        "5",
        "none of ours",
    ],
    ids=["resized", "copied", "of-an-old-version", "of-somebody"],
)
def test_one_that_tells_nothing_goes(
    ioctx: rados.Ioctx, pool: str, image_name: str, mounting: Mounting, mark: str
) -> None:
    """The image might get a size of the mark again, which somebody wants."""
    make(ioctx, image_name, mark=mark)
    with mounting(pool, "-o", "manage"):
        eventually(lambda: found(ioctx, image_name) == (ROOM, False), what="the end of the mark")


def test_one_that_is_no_text_goes(
    ioctx: rados.Ioctx, pool: str, image_name: str, mounting: Mounting
) -> None:
    """Whoever owns one file can set it, and must not end the mount of all."""
    make(ioctx, image_name)
    with rbd.Image(ioctx, image_name, read_only=True) as image:
        header = f"rbd_header.{image.id()}"
    ioctx.execute(header, "rbd", "metadata_set", encode_map({KEY.encode(): b"\xff"}))
    with mounting(pool, "-o", "manage") as mount:
        eventually(lambda: "had a mark of another growth" in mount.log_text, what="its end")
        assert found(ioctx, image_name) == (ROOM, False)


def test_what_is_moved_or_kept_has_its_length(
    ceph: Ceph, image_name: str, mounting: Mounting
) -> None:
    """The crash was that of another host: this mount has looked before."""
    with (
        ceph.temporary_pool() as pool,
        ceph.connect() as cluster,
        cluster.open_ioctx(pool) as ioctx,
        mounting(pool, "-o", "manage") as mount,
    ):
        mount.file("elsewhere").mkdir()
        for name in (f"{image_name}-moved", f"{image_name}-kept"):
            make(ioctx, name)
        moved = mount.file(f"{image_name}-moved").rename(mount.file("elsewhere/moved"))
        assert moved.stat().st_size == MARKED
        os.link(mount.file(f"{image_name}-kept"), mount.file(f"{image_name}-kept@s"))
        assert mount.file(f"{image_name}-kept@s").stat().st_size == MARKED
        mount.allow_log("`rbd migration (execute|commit) ")


def test_one_of_what_somebody_has_open_stays(
    ioctx: rados.Ioctx, pool: str, image_name: str, mounting: Mounting
) -> None:
    """It may be of a growth that goes on."""
    stale, growing, witness = (f"{image_name}-{n}" for n in range(3))
    make(ioctx, stale, mark=f"5 0 {ROOM // 2} ID")
    make(ioctx, growing)
    make(ioctx, witness)
    with (
        rbd.Image(ioctx, stale),
        rbd.Image(ioctx, growing),
        mounting(pool, "-o", "manage") as mount,
    ):
        eventually(lambda: found(ioctx, witness) == (MARKED, False), what="the trim")
        for name in (stale, growing):
            assert refusal(partial(os.open, mount.file(name), os.O_RDWR)) == "EBUSY"
            assert found(ioctx, name) == (ROOM, True)


@pytest.mark.parametrize("size", [0, ROOM])
def test_what_is_opened_for_writing_has_its_length_at_once(
    ioctx: rados.Ioctx, pool: str, image_name: str, mounting: Mounting, size: int
) -> None:
    """Whether or not it grows then: nobody comes to want the size with the room."""
    length = MARKED if size else 0
    with mounting(pool, "-o", "manage") as mount:
        # After the look that a mount begins with.
        eventually(lambda: "ready" in mount.log_text, what="the mount")
        make(ioctx, image_name, size)
        with opened(mount.file(image_name), os.O_RDWR) as file:
            assert os.fstat(file).st_size == length
            assert found(ioctx, image_name) == (length, False)


def test_many_open_one_for_writing_at_once(
    ioctx: rados.Ioctx, pool: str, image_name: str, mounting: Mounting
) -> None:
    """One of them trims it, and the others wait for that."""
    with mounting(pool, "-o", "manage") as mount, ThreadPoolExecutor(8) as threads:
        make(ioctx, image_name)
        path = mount.file(image_name)
        begun = [threads.submit(os.open, path, os.O_RDWR) for _ in range(8)]
        files = [future.result() for future in begun]
        assert {os.fstat(file).st_size for file in files} == {MARKED}
        for file in files:
            os.close(file)
    assert found(ioctx, image_name) == (MARKED, False)


def test_opened_again_while_its_last_writer_leaves(
    ioctx: rados.Ioctx, pool: str, image_name: str, mounting: Mounting, tmp_path: Path
) -> None:
    """The mark is of the growth that has just come to its end here, and the watch, too."""
    control = tmp_path / "step"
    control.write_text("hold rbdfs.files.growth:Growth.finish")
    program = [sys.executable, crashes.__file__, str(control)]
    with mounting(pool, "-o", "manage", program=program) as mount, ThreadPoolExecutor(1) as thread:
        path = mount.file(image_name)
        # Of two writers neither close(2) trims.
        with opened(path, os.O_CREAT | os.O_RDWR), opened(path, os.O_RDWR) as file:
            assert os.write(file, DATA) == len(DATA)
            os.fsync(file)
        again = thread.submit(os.open, path, os.O_RDWR)
        assert wait([again], timeout=HELD_S).not_done
        control.unlink()
        os.close(again.result())
    assert found(ioctx, image_name) == (MARKED, False)


def test_one_that_others_took_is_neither_trimmed_nor_its_mark_removed(
    ceph: Ceph, ioctx: rados.Ioctx, pool: str, image_name: str, mounting: Mounting
) -> None:
    """Not even when the fence is lifted: what has failed once stays so."""
    with mounting(pool, "-o", "manage") as mount:
        with opened_and_lost(mount.file(image_name), os.O_CREAT | os.O_RDWR) as file:
            assert os.write(file, DATA) == len(DATA)
            os.fsync(file)
            (address,) = ceph.watchers(f"{pool}/{image_name}")
            ceph.blocklist_add(address)
            with rbd.Image(ioctx, image_name) as image:
                image.resize(1 << 30)
                image.metadata_set(KEY, others := f"5 0 {1 << 30} {image.id()}")
            assert refusal(lambda: os.pwrite(file, DATA, ROOM)) == "ESHUTDOWN"
            ceph.blocklist_rm(address)
        eventually(lambda: not ceph.watchers(f"{pool}/{image_name}"), what="the close")
        mount.allow_log(r"WARNING .*108", r"ERROR .* keeps its size", r"lost")
        with rbd.Image(ioctx, image_name, read_only=True) as image:
            assert (image.size(), image.metadata_get(KEY)) == (1 << 30, others)


@pytest.mark.parametrize("size", [None, ROOM])
def test_opened_again_after_it_has_failed(
    ceph: Ceph,
    ioctx: rados.Ioctx,
    pool: str,
    image_name: str,
    mounting: Mounting,
    tmp_path: Path,
    size: int | None,
) -> None:
    """Whoever opens it before a look has found that out has the file, and not its room."""
    control = tmp_path / "step"
    program = [sys.executable, crashes.__file__, str(control)]
    control.write_text("hold rbdfs.files.freshness:Freshness._compare")
    with mounting(pool, "-o", "manage,timeout=2", program=program) as mount:
        mount.allow_log("(?s)(WARNING|ERROR) .*(timed out|ETIMEDOUT|110)")
        with opened_and_lost(path := mount.file(image_name), os.O_CREAT | os.O_RDWR) as file:
            assert os.write(file, DATA) == len(DATA)
            os.fsync(file)
            with standing_still(ceph, 0):
                assert refusal(lambda: os.pwrite(file, b"late", 0)) == "ETIMEDOUT"
            if size is not None:
                os.truncate(path, size)
            with opened(path, os.O_RDWR) as again:
                assert os.fstat(again).st_size == (size or len(DATA))
            assert found(ioctx, image_name) == (size or len(DATA), False)
            assert refusal(lambda: os.pread(file, 1, 0)) == "ETIMEDOUT"
        control.unlink()


@pytest.mark.parametrize("step", ["removed", "set"])
def test_of_one_that_others_took_meanwhile(
    ceph: Ceph,
    ioctx: rados.Ioctx,
    pool: str,
    image_name: str,
    mounting: Mounting,
    tmp_path: Path,
    step: str,
) -> None:
    """What was about to change it comes too late, and is refused."""
    control = tmp_path / "step"
    program = [sys.executable, crashes.__file__, str(control)]
    control.write_text("hold rbdfs.metadata.stamps:HeaderStamps.mark_growing")
    with (
        ceph.connect() as cluster,
        mounting(pool, "-o", "manage", program=program) as mount,
        ThreadPoolExecutor(1) as thread,
    ):
        control.unlink()
        with opened_and_lost(mount.file(image_name), os.O_CREAT | os.O_RDWR) as file:
            # No program is run from here on: it has a copy of the file, whose close trims it.
            (address,) = ceph.watchers(f"{pool}/{image_name}")
            assert os.write(file, DATA) == len(DATA)
            os.fsync(file)
            control.touch()
            late: Future[Any]
            if step == "removed":
                late = thread.submit(os.close, os.dup(file))
                eventually(lambda: found(ioctx, image_name) == (MARKED, True), what="the trim")
            else:
                late = thread.submit(os.pwrite, file, DATA, ROOM)
                assert wait([late], timeout=HELD_S).not_done
            cluster.blocklist_add(address, FENCED_S)
            with rbd.Image(ioctx, image_name) as image:
                image.resize(1 << 30)
                image.metadata_set(KEY, others := f"5 0 {1 << 30} {image.id()}")
            control.unlink()
            assert refusal(late.result) == "ESHUTDOWN"
        ceph.blocklist_rm(address)
        eventually(lambda: not ceph.watchers(f"{pool}/{image_name}"), what="the close")
        mount.allow_log(r"WARNING .*108", r"ERROR .* keeps its size", r"lost")
        with rbd.Image(ioctx, image_name, read_only=True) as image:
            assert (image.size(), image.metadata_get(KEY)) == (1 << 30, others)


def test_whose_resize_lands_after_its_time(
    ceph: Ceph, ioctx: rados.Ioctx, pool: str, image_name: str, mounting: Mounting, tmp_path: Path
) -> None:
    """librbd does not know of it: what looks as long as the file is not, and keeps its mark."""
    control = tmp_path / "step"
    program = [sys.executable, crashes.__file__, str(control)]
    control.write_text("hold rbdfs.ceph.image:Image.resize")
    # Without an object map it is one request that makes the image larger.
    rbd.RBD().create(ioctx, image_name, 0, old_format=False, features=LOCKABLE)
    options = "manage,timeout=2"
    with (
        mounting(pool, "-o", options, program=program) as mount,
        ThreadPoolExecutor(1) as thread,
    ):
        control.unlink()
        mount.allow_log("(?s)(WARNING|ERROR) .*(timed out|ETIMEDOUT|110)")
        path = mount.file(image_name)
        with opened_and_lost(path, os.O_RDWR) as file:
            assert os.write(file, DATA) == len(DATA)
            os.close(os.dup(file))
            assert found(ioctx, image_name) == (MARKED, False)
            control.touch()
            late = thread.submit(os.pwrite, file, DATA, MARKED)
            eventually(lambda: found(ioctx, image_name) == (MARKED, True), what="the mark")
            assert wait([late], timeout=HELD_S).not_done
            # librbd reads the header by that, or it would ask for it first, and wait.
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
            assert os.pread(file, 5, 0) == DATA[:5]
            with standing_still(ceph, 0):
                control.unlink()
                assert refusal(late.result) == "ETIMEDOUT"
            room = (MARKED + ROOM, True)
            eventually(lambda: found(ioctx, image_name) == room, what="the resize")
        eventually(lambda: not ceph.watchers(f"{pool}/{image_name}"), what="the close")
        assert found(ioctx, image_name) == room
        with opened(path, os.O_RDWR) as file:
            assert os.fstat(file).st_size == MARKED
        assert found(ioctx, image_name) == (MARKED, False)


def test_what_is_appended_to(
    ioctx: rados.Ioctx, pool: str, image_name: str, mounting: Mounting
) -> None:
    """The kernel knows of no end that was the room's."""
    with mounting(pool, "-o", "manage") as mount:
        make(ioctx, image_name)
        with opened(mount.file(image_name), os.O_RDONLY) as reader:
            assert os.fstat(reader).st_size == ROOM
            with opened(mount.file(image_name), os.O_WRONLY | os.O_APPEND) as file:
                assert refusal(lambda: os.write(file, b"more")) == "ENOSPC"
            assert os.pread(reader, 2 * MIB, 0) == DATA


def test_truncated_by_name_to_the_room(
    ioctx: rados.Ioctx, pool: str, image_name: str, mounting: Mounting
) -> None:
    with mounting(pool, "-o", "manage") as mount:
        make(ioctx, image_name)
        os.truncate(mount.file(image_name), ROOM)
        assert found(ioctx, image_name) == (ROOM, False)


def test_emptied_by_who_opens_it_for_reading(
    ioctx: rados.Ioctx, pool: str, image_name: str, mounting: Mounting
) -> None:
    """open(2) empties such a file as well, and the mark has told of what it was."""
    with mounting(pool, "-o", "manage") as mount:
        make(ioctx, image_name)
        with opened(mount.file(image_name), os.O_RDONLY | os.O_TRUNC) as file:
            assert os.fstat(file).st_size == 0
            assert found(ioctx, image_name) == (0, False)


def test_the_next_server_looks_on(
    ioctx: rados.Ioctx, pool: str, image_name: str, mounting: Mounting
) -> None:
    make(ioctx, image_name)
    make(ioctx, witness := f"{image_name}-witness")
    with contextlib.ExitStack() as stack:
        watching = stack.enter_context(rbd.Image(ioctx, image_name))
        mount = stack.enter_context(mounting(pool, "-o", "manage"))
        eventually(lambda: found(ioctx, witness) == (MARKED, False), what="the trim")
        assert found(ioctx, image_name) == (ROOM, True)
        watching.close()
        killed_server(mount)
        eventually(lambda: found(ioctx, image_name) == (MARKED, False), what="the trim")


def test_text_of_a_mark(ioctx: rados.Ioctx, image_name: str) -> None:
    """The marks above are as rbdfs writes them."""
    make(ioctx, image_name)
    with rbd.Image(ioctx, image_name, read_only=True) as image:
        assert image.metadata_get(KEY) == GrowthMark(5, 0, ROOM).text(image.id())
