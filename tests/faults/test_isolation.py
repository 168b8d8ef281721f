"""An OSD of one pool stands still: the other pools, images and names answer as ever.

Two OSDs, each with pools of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING

import pytest

from tests.support import changed, crashes
from tests.support.ceph import Ceph
from tests.support.conditions import eventually
from tests.support.images import MIB, export_image, import_image, random_bytes
from tests.support.mounts import RBDFS, TIMEOUT_S, Mounting, opened
from tests.support.moves import wait_for_progress, wait_until_done
from tests.support.refusals import refusal
from tests.support.servers import ask, killed_server, standing_still

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

POOLS = ("stuck", "free")
REQUESTS = 200
# With which everything has to answer that needs the other pool only.
AT_ONCE_S = 1.0


@pytest.fixture(scope="module")
def pools(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ceph]:
    """A cluster whose pool `stuck` is on osd.1, and everything else on osd.0."""
    cluster = Ceph.start(tmp_path_factory.mktemp("isolation"), osds=2)
    try:
        for number, pool in ((1, "stuck"), (0, "free")):
            device_class = f"class{number}"
            cluster.ceph("osd", "crush", "rm-device-class", f"osd.{number}")
            cluster.ceph("osd", "crush", "set-device-class", device_class, f"osd.{number}")
            rule = f"rule{number}"
            cluster.ceph("osd", "crush", "rule", "create-replicated", rule, "default", "osd")
            cluster.ceph("osd", "crush", "rule", "rm", rule)
            create = ["osd", "crush", "rule", "create-replicated", rule, "default", "osd"]
            cluster.ceph(*create, device_class)
            cluster.ceph("osd", "pool", "create", pool, "8", "8", "replicated", rule)
            cluster.rbd("pool", "init", pool)
            import_image(cluster, f"{pool}/image", random_bytes(MIB, seed=number))
            import_image(cluster, f"{pool}/other", random_bytes(MIB, seed=number))
        cluster.ceph("osd", "pool", "set", "rbd", "crush_rule", "rule0")
        yield cluster
    finally:
        cluster.stop()


def at_once(what: str, call: Callable[[], object]) -> object:
    begun = time.monotonic()
    result = call()
    took = time.monotonic() - begun
    assert took < AT_ONCE_S, f"{what} took {took:.1f} s"
    return result


def use(pools: Path, directory: Path) -> None:
    """Everything that a user does in the pool that is served."""
    at_once("ls of pools", lambda: os.listdir(pools))
    at_once("ls", lambda: os.listdir(directory))
    at_once("stat", lambda: [entry.stat() for entry in os.scandir(directory)])
    at_once("statfs", lambda: os.statvfs(directory))
    other = directory / "other"
    assert at_once("read", other.read_bytes) == random_bytes(MIB, seed=0)
    for name in ("watchers", "meta.owner"):
        get = partial(os.getxattr, other, f"user.rbd.{name}")
        at_once(name, partial(refusal, get))
    with opened(directory / "image", os.O_RDWR) as file:
        at_once("write", lambda: os.pwrite(file, b"free", 0))
        at_once("fsync", lambda: os.fsync(file))


@pytest.mark.parametrize("mode", ["native", "python"])
def test_one_stuck_pool_stops_nobody_else(pools: Ceph, tmp_path: Path, mode: str) -> None:
    options = [] if mode == "native" else ["datapath=python"]
    mounting = Mounting(pools, tmp_path, options)
    with mounting(None) as mount, ThreadPoolExecutor(REQUESTS) as threads:
        stuck, free = mount.path / "stuck", mount.path / "free"
        assert set(os.listdir(mount.path)) >= {"stuck", "free"}
        assert set(os.listdir(stuck)) == {"image", "other"}
        use(mount.path, free)
        file = os.open(stuck / "image", os.O_RDWR)
        started = threading.Semaphore(0)

        def read(number: int) -> bytes:
            started.release()
            return os.pread(file, 512, number * 4096)

        def look() -> list[str]:
            started.release()
            return os.listdir(stuck)

        def open_other() -> bytes:
            started.release()
            return (stuck / "other").read_bytes()

        def ask() -> str:
            started.release()
            return refusal(lambda: os.getxattr(stuck / "other", "user.rbd.meta.owner"))

        with standing_still(pools, 1):
            waiting = [threads.submit(read, number) for number in range(REQUESTS // 2)]
            looking = [threads.submit(look) for _ in range(REQUESTS // 4)]
            opening = [threads.submit(open_other) for _ in range(REQUESTS // 8)]
            asking = [threads.submit(ask) for _ in range(REQUESTS // 8)]
            for _ in range(REQUESTS):
                started.acquire()
            begun = time.monotonic()
            # Longer than anything is kept.
            eventually(lambda: time.monotonic() - begun > 2.5)
            use(mount.path, free)
            use(mount.path, free)
            assert not any(future.done() for future in waiting)
        data = random_bytes(MIB, seed=1)
        for number, future in enumerate(waiting):
            assert future.result(TIMEOUT_S) == data[number * 4096 :][:512]
        assert all(set(future.result(TIMEOUT_S)) == {"image", "other"} for future in looking)
        assert all(future.result(TIMEOUT_S) == data for future in opening)
        assert all(future.result(TIMEOUT_S) == "ENODATA" for future in asking)
        os.close(file)
        assert mount.alive


def test_stat_of_an_image_with_a_clone_in_a_stuck_pool(pools: Ceph, tmp_path: Path) -> None:
    """It tells all that the other pools have, and what it could not ask for."""
    for snap, clone in (("old", 1), ("new", 2)):
        pools.rbd("snap", "create", "--no-progress", f"free/image@{snap}")
        pools.rbd("snap", "protect", f"free/image@{snap}")
        format = f"--rbd-default-clone-format={clone}"
        pools.rbd("clone", format, f"free/image@{snap}", f"stuck/clone-of-{snap}")
    try:
        with Mounting(pools, tmp_path)(None) as mount:
            file = mount.path / "free" / "image"
            with standing_still(pools, 1):
                done = subprocess.run(
                    [RBDFS, "stat", "--json", file], capture_output=True, timeout=TIMEOUT_S
                )
                assert (done.returncode, done.stderr) == (0, b"")
                report = json.loads(done.stdout)
            assert (report["children"], report["left_out"]) == ([], {"children": 1})
            assert report["not_known"] == {"children": "pool 'stuck' does not answer"}
            assert report["encryption"] == "none"
    finally:
        for snap in ("old", "new"):
            pools.rbd("rm", "--no-progress", f"stuck/clone-of-{snap}")
            pools.rbd("snap", "unprotect", f"free/image@{snap}")
            pools.rbd("snap", "rm", "--no-progress", f"free/image@{snap}")


def test_server_killed_while_a_pool_is_stuck(pools: Ceph, tmp_path: Path) -> None:
    """The next one serves the other pool at once, and the stuck one when that answers."""
    data = bytearray(random_bytes(MIB, seed=1))
    ours = bytearray(random_bytes(MIB, seed=0))
    mounting = Mounting(pools, tmp_path)
    with mounting(None) as mount, ThreadPoolExecutor(8) as threads:
        stuck, free = mount.path / "stuck", mount.path / "free"
        # What the kernel knows before: names, an open directory, a working directory.
        assert set(os.listdir(stuck)) == set(os.listdir(free)) == {"image", "other"}
        with (
            opened(stuck / "image", os.O_RDWR) as writer,
            opened(stuck / "image", os.O_RDONLY) as reader,
            opened(stuck / "other", os.O_RDONLY) as left,
            opened(free / "image", os.O_RDWR) as file,
            opened(free, os.O_RDONLY | os.O_DIRECTORY) as directory,
            # The kernel knows its inode, and the server hears nothing of that.
            opened(free / "other", os.O_PATH) as known,
        ):
            for descriptor in (writer, file):
                os.pwrite(descriptor, b"before", 0)
                os.fsync(descriptor)
            data[:6] = ours[:6] = b"before"
            with standing_still(pools, 1):
                killed_server(mount)
                waiting = [
                    threads.submit(os.pread, reader, MIB // 2, MIB // 2),
                    threads.submit(os.pread, writer, MIB // 2, MIB // 2),
                ]
                writing = threads.submit(os.pwrite, writer, b"while stuck", 4096)
                listing = threads.submit(os.listdir, stuck)
                assert os.pread(file, MIB, 0) == ours
                os.pwrite(file, b"after", 8192)
                os.fsync(file)
                assert set(os.listdir(free)) == set(os.listdir(directory)) == {"image", "other"}
                assert {"stuck", "free"} <= set(os.listdir(mount.path))
                assert os.stat("other", dir_fd=directory).st_size == MIB
                with opened(f"/proc/self/fd/{known}", os.O_RDONLY) as again:
                    assert os.pread(again, MIB, 0) == random_bytes(MIB, seed=0)
                assert (free / "other").read_bytes() == random_bytes(MIB, seed=0)
                assert os.statvfs(mount.path).f_namemax == 255
                # Also whoever is started meanwhile, and closes its copies of all files.
                assert len(ask(mount, "status")["files"]) == 4
                assert not any(future.done() for future in waiting)
                assert not writing.done()
                assert not listing.done()
            assert [future.result(TIMEOUT_S) for future in waiting] == [data[MIB // 2 :]] * 2
            assert writing.result(TIMEOUT_S) == 11
            data[4096:4107] = b"while stuck"
            assert set(listing.result(TIMEOUT_S)) == {"image", "other"}
            os.fsync(writer)
            assert os.pread(writer, MIB, 0) == os.pread(reader, MIB, 0) == data
            assert os.pread(left, MIB, 0) == random_bytes(MIB, seed=1)
            # By the data path, not by Python.
            assert ask(mount, "status")["requests"]["reads"] >= 3
        ours[8192:8197] = b"after"
        assert mount.alive
        pools.rbd("snap", "create", "--no-progress", "stuck/image@s")
        assert (stuck / "image@s").read_bytes() == (stuck / "image").read_bytes() == data
    assert export_image(pools, "stuck/image") == data
    assert export_image(pools, "free/image") == ours


def test_an_open_that_was_sent_again_is_given_up_in_a_stuck_pool(
    pools: Ceph, tmp_path: Path
) -> None:
    """What the server that is gone had opened for it is closed: the kernel knows of no file."""
    control = tmp_path / "step"
    control.write_text("hold rbdfs.fuse.mounted:Mounted.let_grow")
    program = [sys.executable, crashes.__file__, str(control)]
    mounting = Mounting(pools, tmp_path)
    data = export_image(pools, "stuck/image")
    with mounting(None, program=program) as mount:
        file = mount.path / "stuck/image"
        opening = f"import os; os.open({str(file)!r}, os.O_RDWR)"
        caller = subprocess.Popen([sys.executable, "-c", opening])
        try:
            eventually(lambda: ask(mount, "status")["open_files"] == 1, what="the file is open")
            assert len(pools.lock_owners("stuck/image")) == 1
            with standing_still(pools, 1):
                killed_server(mount)
                control.unlink()
                eventually(
                    lambda: ask(mount, "status")["requests"]["unreplied"] == 1,
                    what="the open was sent again",
                )
                caller.kill()
                caller.wait(TIMEOUT_S)
        finally:
            caller.kill()
        eventually(lambda: ask(mount, "status")["open_files"] == 0, what="the file is closed")
        eventually(lambda: pools.lock_owners("stuck/image") == [], what="no lock is kept")
        assert file.read_bytes() == data


def test_server_killed_while_an_image_is_moved_out_of_a_stuck_pool(
    pools: Ceph, tmp_path: Path
) -> None:
    """Its own files wait until the pool answers, and no others."""
    data = random_bytes(16 * MIB, seed=2)
    # Of objects so small that the copy takes seconds.
    import_image(pools, "stuck/moving", data, "--object-size=4K")
    pools.rbd("snap", "create", "--no-progress", "stuck/moving@before")
    mounting = Mounting(pools, tmp_path)
    with (
        mounting(None, "-o", "manage", program=changed.program(notice=1)) as mount,
        ThreadPoolExecutor(4) as threads,
        opened(mount.path / "stuck/moving", os.O_RDWR | os.O_DIRECT) as moving,
        opened(mount.path / "free/image", os.O_RDWR | os.O_DIRECT) as file,
    ):
        os.rename(mount.path / "stuck/moving", mount.path / "free/moved")
        wait_for_progress(mount)
        with standing_still(pools, 1):
            killed_server(mount)
            waiting = threads.submit(os.pread, moving, MIB, 0)
            at_once("pread", lambda: os.pread(file, MIB, 0))
            at_once("pwrite", lambda: os.pwrite(file, bytes(4096), 0))
            at_once("listdir", lambda: os.listdir(mount.path / "free"))
            assert not waiting.done()
        assert waiting.result(TIMEOUT_S) == data[:MIB]
        wait_until_done(mount, "moved")
        assert os.pread(moving, 16 * MIB, 0) == data
        assert os.pwrite(moving, bytes(4096), 0) == 4096
    assert export_image(pools, "free/moved") == bytes(4096) + data[4096:]
    assert export_image(pools, "free/moved@before") == data


CROWD = """
import os, sys, threading
threading.stack_size(1 << 16)
directory, count = sys.argv[1], int(sys.argv[2])
others = [
    lambda: os.stat(f"{directory}/no-such-image"),
    lambda: os.listdir(directory),
    lambda: os.getxattr(f"{directory}/other", "user.rbd.meta.owner"),
    lambda: os.getxattr(f"{directory}/other", "user.rbd.watchers"),
    lambda: os.open(f"{directory}/image", os.O_RDWR),
]
calls = [lambda: os.open(f"{directory}/other", os.O_RDONLY)] * count + others * 40
for call in calls:
    threading.Thread(target=call).start()
"""
# More than would be carried out at once, with a limit of pyfuse3's in the thousands.
CROWD_SIZE = 4200


def test_killed_callers_leave_nothing_behind(pools: Ceph, tmp_path: Path) -> None:
    """Nobody waits for their requests any more: not the server either."""
    mounting = Mounting(pools, tmp_path)
    with (
        mounting(None, "-o", "manage", lifetime_s=150) as mount,
        # Another one that opens it for writing looks whether it may grow.
        opened(mount.path / "stuck/image", os.O_RDWR),
    ):
        stuck, free = mount.path / "stuck", mount.path / "free"
        os.listdir(stuck)
        names = sorted(os.listdir(free))

        def waiting() -> int:
            count: int = ask(mount, "status")["requests"]["unreplied"]
            return count

        def list_free() -> None:
            # By another process: this one could not be ended while it waits.
            listed = subprocess.run(["ls", free], capture_output=True, timeout=TIMEOUT_S)
            assert sorted(listed.stdout.decode().split()) == names

        with standing_still(pools, 1):
            command = [sys.executable, "-c", CROWD, str(stuck), str(CROWD_SIZE)]
            crowd = subprocess.Popen(command)
            try:
                eventually(lambda: waiting() >= CROWD_SIZE, 60.0, "all to wait")
                list_free()
            finally:
                crowd.kill()
                crowd.wait(TIMEOUT_S)
            list_free()
            # But for those within librbd, for which there are so many threads a pool.
            eventually(lambda: waiting() < 60, what="the rest to be given up")
        eventually(lambda: waiting() == 0, 60.0, "the end of all requests")
        assert ask(mount, "status")["open_files"] == 1
        assert (stuck / "other").read_bytes() == random_bytes(MIB, seed=1)
