"""Others that take the lock, write and close between the end of one server and the next one's open.

No process is started while the server stands still: closing the copies of its descriptors, it would
wait for it, and this process for both.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
import rbd

from rbdfs.keeper import command_client
from tests.support import crashes
from tests.support.conditions import eventually, is_stopped
from tests.support.images import MIB, export_image, import_image, open_image, random_bytes
from tests.support.mounts import opened, opened_and_lost
from tests.support.refusals import refusal
from tests.support.servers import (
    ask,
    kill_server,
    server_of,
    signal_server,
    wait_for_server,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.support.ceph import Ceph
    from tests.support.mounts import Mount, Mounting

# Only a mount with the native data path has a server after the one that was killed.
pytestmark = pytest.mark.usefixtures("native")

DATA = random_bytes(MIB)
OTHERS = b"x" * 4096
KILLED = r"ERROR .*server \d+ was killed \(signal 9\)"
LOST = r"WARNING .*open files of \S+ are lost: .*its lock was taken"
REFUSED = r"WARNING .*: (write|read|flush): \[Errno 108\]"
FENCED = "stop rbdfs.server.takeover:fence"


class Steps:
    """What happens to the next server of a mount."""

    def __init__(self, directory: Path) -> None:
        self._control = directory / "step"
        self.program = [sys.executable, crashes.__file__, str(self._control)]

    def next(self, step: str) -> None:
        self._control.write_text(step)

    def go_on(self) -> None:
        self._control.unlink()

    def stopped(self, mount: Mount) -> int:
        """The server that has been stopped."""
        eventually(lambda: not self._control.exists(), what="the step")
        pid = server_of(mount)
        assert pid is not None
        eventually(lambda: is_stopped(pid), what="the stop")
        return pid


@pytest.fixture
def steps(tmp_path: Path) -> Steps:
    return Steps(tmp_path)


@pytest.fixture
def images(ceph: Ceph, pool: str, image_name: str) -> tuple[str, str]:
    names = (image_name, f"{image_name}-kept")
    for name in names:
        import_image(ceph, f"{pool}/{name}", DATA)
    return names


def write_elsewhere(ceph: Ceph, pool: str, name: str) -> None:
    with open_image(ceph, pool, name) as other:
        other.write(OTHERS, 0)


def assert_goes_on(file: int) -> None:
    assert os.pread(file, 4096, 0) == DATA[:4096]
    assert os.pwrite(file, DATA[:4096], 0) == 4096
    os.fsync(file)


@contextlib.contextmanager
def a_gap(
    ceph: Ceph, pool: str, images: tuple[str, str], mounting: Mounting, steps: Steps
) -> Iterator[tuple[Mount, int, int, int]]:
    """A mount whose second server stands still after it has fenced the first one.

    Of its two open files somebody else has written to the first since. Yields the mount, the files
    and the process.
    """
    with mounting(pool, program=steps.program) as mount:
        written, kept = (mount.file(name) for name in images)
        mount.expect_log(KILLED, LOST)
        mount.allow_log(REFUSED)
        with opened_and_lost(written, os.O_RDWR) as lost, opened(kept, os.O_RDWR) as file:
            for each in (lost, file):
                assert_goes_on(each)
            steps.next(FENCED)
            kill_server(mount)
            server = steps.stopped(mount)
            write_elsewhere(ceph, pool, images[0])
            yield mount, lost, file, server


def test_after_a_crash(
    ceph: Ceph, pool: str, images: tuple[str, str], mounting: Mounting, steps: Steps
) -> None:
    with a_gap(ceph, pool, images, mounting, steps) as (mount, lost, file, server):
        os.kill(server, signal.SIGCONT)
        wait_for_server(mount, 2)
        assert refusal(lambda: os.pwrite(lost, b"late", 8192)) == "ESHUTDOWN"
        # The kernel's pages of it are dropped a moment later.
        eventually(lambda: refusal(lambda: os.pread(lost, 4096, 0)) == "ESHUTDOWN")
        assert_goes_on(file)
        with opened(mount.file(images[0]), os.O_RDWR) as anew:
            assert os.pread(anew, 8192, 0) == OTHERS + DATA[4096:8192]
    assert mount.log_text.count(" are lost: ") == 1
    assert export_image(ceph, f"{pool}/{images[0]}") == OTHERS + DATA[4096:]


def restart(mount: Mount) -> None:
    ask(mount, "restart")


@pytest.mark.parametrize(
    ("begin", "step", "victim"),
    [
        # The second server dies when it has opened one of two: the locks are of two servers.
        (kill_server, "after rbdfs.files.claim:Claims._claim", 2),
        # The first one dies while it makes way: locks that were given up are no sign of others.
        (restart, "after rbdfs.files.table:HandleTable.close", 1),
        (restart, "after rbdfs.files.claim:Claims.close", 1),
    ],
)
def test_a_crash_on_the_way_to_the_next_server(
    pool: str,
    images: tuple[str, str],
    mounting: Mounting,
    steps: Steps,
    begin: Callable[[Mount], object],
    step: str,
    victim: int,
) -> None:
    """It is of server *victim*. Nobody else had the locks meanwhile, and the files go on."""
    if victim == 1:
        steps.next(step)
    with mounting(pool, program=steps.program) as mount, contextlib.ExitStack() as stack:
        mount.expect_log(KILLED)
        files = [stack.enter_context(opened(mount.file(name), os.O_RDWR)) for name in images]
        for file in files:
            assert_goes_on(file)
        if victim == 2:
            steps.next(step)
        begin(mount)
        wait_for_server(mount, victim + 1)
        for file in files:
            assert_goes_on(file)
        # From then on it has locks again that count.
        kill_server(mount)
        wait_for_server(mount, victim + 2)
        for file in files:
            assert_goes_on(file)


def test_between_two_crashes(
    ceph: Ceph, pool: str, images: tuple[str, str], mounting: Mounting, steps: Steps
) -> None:
    """The second server dies before it has opened anything again."""
    with a_gap(ceph, pool, images, mounting, steps) as (mount, lost, file, server):
        os.kill(server, signal.SIGKILL)
        wait_for_server(mount, 3)
        assert refusal(lambda: os.pwrite(lost, b"late", 8192)) == "ESHUTDOWN"
        assert_goes_on(file)
        # What is lost stays so.
        signal_server(mount, signal.SIGKILL)
        wait_for_server(mount, 4)
        assert refusal(lambda: os.pwrite(lost, b"late", 8192)) == "ESHUTDOWN"
        assert_goes_on(file)


def test_who_had_no_lock_loses_nothing(
    ceph: Ceph, pool: str, images: tuple[str, str], mounting: Mounting, steps: Steps
) -> None:
    """A reader, and a writer of an image that has no locks."""
    unlocked = f"{images[0]}-unlocked"
    with ceph.connect() as cluster, cluster.open_ioctx(pool) as ioctx:
        rbd.RBD().create(ioctx, unlocked, MIB, features=rbd.RBD_FEATURE_LAYERING)
    with mounting(pool, program=steps.program) as mount:
        mount.expect_log(KILLED)
        with (
            opened(mount.file(images[0]), os.O_RDONLY) as reader,
            opened(mount.file(unlocked), os.O_RDWR) as writer,
        ):
            assert os.pread(reader, 4096, 0) == DATA[:4096]
            assert os.pwrite(writer, DATA[:4096], 0) == 4096
            steps.next(FENCED)
            kill_server(mount)
            server = steps.stopped(mount)
            for name in (images[0], unlocked):
                write_elsewhere(ceph, pool, name)
            os.kill(server, signal.SIGCONT)
            wait_for_server(mount, 2)
            assert os.pwrite(writer, DATA[:4096], 4096) == 4096
            eventually(lambda: os.pread(reader, 4096, 0) == OTHERS)


def remove(snapshot: Path) -> None:
    snapshot.unlink()
    assert not snapshot.exists()


def clone(snapshot: Path) -> None:
    """Of format 1, with which the cluster is content: the snapshot is protected for it."""
    made = snapshot.with_name(f"{snapshot.name.removesuffix('@old')}-vm")
    os.link(snapshot, made)
    assert made.read_bytes() == snapshot.read_bytes()


@pytest.mark.parametrize("change", [remove, clone])
def test_what_this_mount_changes_meanwhile(
    ceph: Ceph,
    pool: str,
    images: tuple[str, str],
    mounting: Mounting,
    steps: Steps,
    change: Callable[[Path], None],
) -> None:
    """A snapshot is changed by another client of the mount, which takes the lock for that.

    With journaling it does so to protect one, too.
    """
    ceph.rbd("feature", "enable", f"{pool}/{images[0]}", "journaling")
    snapshot = f"{images[0]}@old"
    ceph.rbd("snap", "create", "--no-progress", f"{pool}/{snapshot}")
    with mounting(pool, "-o", "manage=snapshots", program=steps.program) as mount:
        mount.expect_log(KILLED)
        with opened(mount.file(images[0]), os.O_RDWR) as file:
            assert_goes_on(file)
            steps.next("hold rbdfs.files.claim:Claims.open")
            kill_server(mount)
            wait_for_server(mount, 2)
            with ThreadPoolExecutor(1) as executor:
                changed = executor.submit(change, mount.file(snapshot))
                # It is over before these are, if it does not wait.
                for _ in range(5):
                    write_elsewhere(ceph, pool, images[1])
                steps.go_on()
                changed.result()
            assert_goes_on(file)


def test_pages_of_before_a_restart(
    ceph: Ceph, pool: str, images: tuple[str, str], mounting: Mounting, steps: Steps
) -> None:
    """A server that makes way gives up its locks: who takes one before the next server may."""
    with (
        mounting(pool, program=steps.program) as mount,
        opened(mount.file(images[0]), os.O_RDWR) as file,
    ):
        assert_goes_on(file)
        first = server_of(mount)
        steps.next(FENCED)
        # Not `rbdfs restart`, which would be a process.
        with ThreadPoolExecutor(1) as pool_of_one:
            restart = pool_of_one.submit(command_client.ask, str(mount.path), "restart")
            eventually(lambda: server_of(mount) not in (None, first), what="the next server")
            server = steps.stopped(mount)
            write_elsewhere(ceph, pool, images[0])
            os.kill(server, signal.SIGCONT)
            restart.result()
        eventually(lambda: os.pread(file, 4096, 0) == OTHERS, what="what others wrote")
        assert os.pwrite(file, DATA[:4096], 0) == 4096


def test_a_crash_between_a_lock_and_its_close(
    pool: str, images: tuple[str, str], mounting: Mounting, steps: Steps
) -> None:
    """The writer is closed, and its lock given up, when the server dies: the reader goes on."""
    steps.next("after rbdfs.files.claim:Claims.close")
    with mounting(pool, program=steps.program) as mount:
        mount.expect_log(KILLED)
        with opened(mount.file(images[0]), os.O_RDONLY) as reader:
            with opened(mount.file(images[0]), os.O_RDWR) as writer:
                assert_goes_on(writer)
            wait_for_server(mount, 2)
            assert os.pread(reader, 4096, 0) == DATA[:4096]
            with opened(mount.file(images[0]), os.O_RDWR) as writer:
                assert_goes_on(writer)
