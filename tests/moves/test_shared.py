"""`mv` of images between pools that others use: other clients, and other mounts of the cluster."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import threading
import time
from typing import TYPE_CHECKING

import pytest

from rbdfs.moves.executor import Executor
from tests.support import changed
from tests.support.conditions import eventually
from tests.support.images import MIB, export_image, import_image, open_image, random_bytes
from tests.support.mounts import opened, opened_and_lost
from tests.support.moves import (
    BLOCK,
    DONE_S,
    assert_nothing_left,
    make,
    migration_state,
    move,
    refused,
    trash,
    wait_for_log,
    wait_for_progress,
    wait_until_done,
    whole_cluster,
)
from tests.support.servers import signal_server

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.ceph import Ceph
    from tests.support.mounts import Mount, Mounting

SIZE = 16 * MIB
# Of objects so small that the copy takes seconds.
SMALL = 12
LOST = r"WARNING .*open files of .* are lost: .*moved elsewhere"


@pytest.fixture
def mount(mounting: Mounting) -> Iterator[Mount]:
    with whole_cluster(mounting) as mount:
        yield mount


@pytest.fixture
def elsewhere(mounting: Mounting) -> Iterator[Mount]:
    """Another mount of the same cluster."""
    with whole_cluster(mounting, manage=False) as mount:
        yield mount


class Reader:
    """Reads a file again and again, and remembers whether it ever held anything else."""

    def __init__(self, path: Path, data: bytes) -> None:
        self.path = path
        self.data = data
        self.count = 0
        self.wrong: list[int] = []
        self.error: int | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Reader:
        self._thread.start()
        eventually(lambda: self.count or self.error, what="a read")
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        assert self.wrong == []

    def _run(self) -> None:
        length = 64 * BLOCK
        with opened_and_lost(self.path, os.O_RDONLY) as file:
            while not self._over.is_set() and self.error is None:
                off = self.count * length % len(self.data)
                try:
                    if os.pread(file, length, off) != self.data[off : off + length]:
                        self.wrong.append(off)
                except OSError as exc:
                    self.error = exc.errno
                # The pages of a snapshot would hide what the server answers.
                os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
                self.count += 1


def test_refused(
    ceph: Ceph, pools: tuple[str, str], mount: Mount, elsewhere: Mount, image_name: str
) -> None:
    """Nothing is changed by what cannot be done."""
    hdd, ssd = pools
    spec = f"{hdd}/{image_name}"
    data = make(ceph, spec, snapshot=True, size=SIZE)
    ceph.rbd("snap", "protect", f"{spec}@before")
    ceph.rbd("clone", "--rbd-default-clone-format=2", f"{spec}@before", f"{ssd}/{image_name}-clone")
    import_image(ceph, f"{ssd}/{image_name}-other", random_bytes(MIB, seed=2))
    source, target = (mount.file(f"{pool}/{image_name}") for pool in pools)
    directory = mount.file(f"{ssd}/{image_name}-space")
    directory.mkdir()

    refused(errno.EEXIST, source, mount.file(f"{ssd}/{image_name}-other"))
    refused(errno.EPERM, source, mount.file(f"{ssd}/{image_name}@before"))
    refused(errno.EPERM, source, mount.path / image_name)
    snapshot = mount.file(f"{hdd}/{image_name}@before")
    refused(errno.EXDEV, snapshot, mount.file(f"{ssd}/{image_name}@before"))
    refused(errno.EPERM, directory, mount.file(f"{hdd}/{image_name}-space"))
    with opened(elsewhere.file(f"{hdd}/{image_name}"), os.O_RDWR | os.O_DIRECT) as writer:
        refused(errno.EBUSY, source, target)
        assert os.pread(writer, SIZE, 0) == data
    with open_image(ceph, ssd, f"{image_name}-clone") as clone:
        refused(errno.EBUSY, source, target)
        assert clone.read(BLOCK, BLOCK) == data[BLOCK : 2 * BLOCK]
    new = mount.file(f"{hdd}/{image_name}-new")
    with opened(new, os.O_CREAT | os.O_WRONLY) as growing:
        os.write(growing, b"new")
        refused(errno.EBUSY, new, mount.file(f"{ssd}/{image_name}-new"))
        os.write(growing, b"er")
    assert new.read_bytes() == b"newer"
    refused(errno.EPERM, elsewhere.file(f"{hdd}/{image_name}"), elsewhere.file(f"{ssd}/new"))

    assert source.read_bytes() == data
    assert export_image(ceph, spec) == data
    assert not target.exists()
    assert image_name not in trash(ceph, hdd)
    assert mount.file(f"{ssd}/{image_name}-other").read_bytes() == random_bytes(MIB, seed=2)
    assert mount.alive
    assert elsewhere.alive


@pytest.mark.parametrize("snapshot", [False, True])
def test_another_mount_reads_it(
    ceph: Ceph,
    pools: tuple[str, str],
    mount: Mount,
    elsewhere: Mount,
    image_name: str,
    snapshot: bool,
) -> None:
    """Who reads the source is told that it is gone; who reads the target gets what is in it."""
    hdd, ssd = pools
    data = make(ceph, f"{hdd}/{image_name}", snapshot=snapshot, size=SIZE, order=SMALL)
    import_image(ceph, f"{hdd}/{image_name}-other", random_bytes(MIB, seed=2))
    elsewhere.expect_log(LOST, r"WARNING .*read: .*moved elsewhere")
    elsewhere.allow_log(r"WARNING .*flush: .*moved elsewhere")
    there = elsewhere.file(f"{ssd}/{image_name}")
    with (
        opened(elsewhere.file(f"{hdd}/{image_name}-other"), os.O_RDONLY | os.O_DIRECT) as beside,
        Reader(elsewhere.file(f"{hdd}/{image_name}"), data) as reader,
    ):
        move(*(mount.file(f"{pool}/{image_name}") for pool in pools))
        wait_for_progress(mount)
        eventually(there.exists, what="the target for the other mount")
        if snapshot:
            # What it would read meanwhile may be what the snapshot has.
            for name in (image_name, f"{image_name}@before"):
                with pytest.raises(OSError, match=name) as caught:
                    os.open(elsewhere.file(f"{ssd}/{name}"), os.O_RDONLY)
                assert caught.value.errno == errno.EBUSY
            wait_until_done(mount, image_name)
        else:
            with Reader(there, data) as follower:
                wait_until_done(mount, image_name)
                count = follower.count
                eventually(lambda: follower.count > count + 100, what="reads after the commit")
            assert follower.error is None
        assert reader.error == errno.ESTALE
        assert os.pread(beside, MIB, 0) == random_bytes(MIB, seed=2)
    assert elsewhere.alive
    assert there.read_bytes() == data
    assert_nothing_left(ceph, hdd, image_name)


@pytest.mark.usefixtures("native")
def test_another_mount_stands_still(
    ceph: Ceph, pools: tuple[str, str], mounting: Mounting, elsewhere: Mount, image_name: str
) -> None:
    """For less than the time that a source which was copied stays: it reads no zeros."""
    assert Executor.notice_s >= 30
    hdd, ssd = pools
    data = make(ceph, f"{hdd}/{image_name}", snapshot=False, size=SIZE)
    elsewhere.allow_log(LOST, r"WARNING .*(read|flush): .*moved elsewhere")
    with (
        whole_cluster(mounting, program=changed.program(notice=10)) as mount,
        opened_and_lost(elsewhere.file(f"{hdd}/{image_name}"), os.O_RDONLY | os.O_DIRECT) as file,
    ):
        assert os.pread(file, SIZE, 0) == data
        server = signal_server(elsewhere, signal.SIGSTOP)
        try:
            # No process is started: closing the copy of its descriptor, it would wait.
            os.rename(*(mount.file(f"{pool}/{image_name}") for pool in pools))
            wait_for_log(mount, f"{image_name}: copied")
            until = time.monotonic() + 5
            eventually(lambda: time.monotonic() > until, what="a mount that is slow")
        finally:
            os.kill(server, signal.SIGCONT)
        # Where the look is quicker than one of its requests, it is shorter, or ESTALE.
        with contextlib.suppress(OSError):
            assert data.startswith(os.pread(file, SIZE, 0))
        eventually(elsewhere.file(f"{ssd}/{image_name}").exists, what="the target")
        wait_until_done(mount, image_name)
    assert elsewhere.alive


def test_another_mount_reads_a_clone(
    ceph: Ceph, pools: tuple[str, str], mount: Mount, elsewhere: Mount, image_name: str
) -> None:
    """A clone of a clone, too: its data is somewhere else now, and its readers see no change."""
    hdd, ssd = pools
    parent = f"{hdd}/{image_name}"
    make(ceph, parent, snapshot=True, size=SIZE, order=SMALL)
    data = export_image(ceph, f"{parent}@before")
    for name in ("clone", "clone-clone"):
        ceph.rbd("snap", "protect", f"{parent}@before")
        clone = f"{ssd}/{image_name}-{name}"
        ceph.rbd("clone", "--rbd-default-clone-format=2", f"{parent}@before", clone)
        ceph.rbd("snap", "create", "--no-progress", f"{clone}@before")
        parent = clone
    clones = [elsewhere.file(f"{ssd}/{image_name}-{name}") for name in ("clone", "clone-clone")]
    with Reader(clones[0], data) as first, Reader(clones[1], data) as second:
        move(*(mount.file(f"{pool}/{image_name}") for pool in pools))
        eventually(lambda: migration_state(ceph, f"{ssd}/{image_name}") == "executed", DONE_S)
        wait_until_done(mount, image_name)
        count = first.count, second.count
        eventually(lambda: first.count > count[0] + 100, what="reads after the commit")
        eventually(lambda: second.count > count[1] + 100, what="reads after the commit")
    assert (first.error, second.error) == (None, None)
    assert mount.alive
    assert elsewhere.alive
    assert_nothing_left(ceph, hdd, image_name)
