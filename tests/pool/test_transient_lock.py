"""`-o lock=transient`: who wants to write waits until the last close, where librbd knows of it."""

from __future__ import annotations

import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
import rbd

from tests.mount.test_command_line import assert_refused
from tests.pool.test_locks import code_of_open, free, opens
from tests.support.conditions import eventually
from tests.support.images import MIB, export_image, import_image, open_image
from tests.support.mounts import mounted, opened
from tests.support.servers import killed_server

if TYPE_CHECKING:
    from io import FileIO
    from pathlib import Path

    from tests.support.ceph import Ceph
    from tests.support.mounts import Mounting

KNOWN = hasattr(rbd, "RBD_LOCK_MODE_EXCLUSIVE_TRANSIENT")
known = pytest.mark.skipif(not KNOWN, reason="this librbd has no transient lock")
ENDS_S = 30.0
TRANSIENT = ("-o", "lock=transient")
BOTH_PATHS = pytest.mark.parametrize("path", ["native", "python"])


@pytest.fixture
def image(ceph: Ceph, pool: str, image_name: str) -> str:
    import_image(ceph, f"{pool}/{image_name}", bytes(MIB))
    return image_name


def to_be_closed(path: Path) -> FileIO:
    """A file that is open for writing, and may be closed before the end of its block."""
    return path.open("r+b", buffering=0)


def write_often(file: FileIO) -> None:
    """Some round trips to the cluster."""
    for turn in range(20):
        assert os.pwrite(file.fileno(), b"%05d" % turn, 0) == 5
        os.fsync(file.fileno())


@pytest.mark.skipif(KNOWN, reason="this librbd has it")
@BOTH_PATHS
def test_refused_at_the_start_where_librbd_does_not_know_it(
    pool: str, mounting: Mounting, path: str
) -> None:
    mountpoint = mounting.mountpoint()
    command = mounting.command(pool, mountpoint, *TRANSIENT, "-o", f"datapath={path}")
    assert_refused(command, 2, "lock=transient takes the librbd of Ceph 20.2.1 or later")
    assert not mounted(mountpoint)


@known
@BOTH_PATHS
def test_others_wait_for_the_last_close(
    ceph: Ceph, pool: str, image: str, mounting: Mounting, path: str
) -> None:
    with mounting(pool, *TRANSIENT, "-o", f"datapath={path}") as mount:
        with open_image(ceph, pool, image):
            # Whoever was there before is not disturbed.
            assert code_of_open(mount.file(image), os.O_RDWR) == "EBUSY"
        eventually(lambda: opens(mount.file(image)), what="the way to be free")
        with (
            to_be_closed(mount.file(image)) as file,
            to_be_closed(mount.file(image)) as last,
            open_image(ceph, pool, image) as other,
            ThreadPoolExecutor(1) as executor,
        ):
            write_often(last)
            writing = executor.submit(other.write, b"other", 0)
            write_often(file)
            file.close()
            write_often(last)
            # Where the lock is exclusive it would have been refused: test_locks.
            assert not writing.done()
            assert os.pread(last.fileno(), 5, 0) == b"00019"
            last.close()
            assert writing.result(ENDS_S) == 5
            assert other.is_exclusive_lock_owner()
    assert free(ceph, f"{pool}/{image}")
    assert export_image(ceph, f"{pool}/{image}")[:5] == b"other"


@known
def test_other_mounts(ceph: Ceph, pool: str, image: str, mounting: Mounting) -> None:
    """One with lock=auto can open the image, and writes when it is closed."""
    with (
        mounting(pool, *TRANSIENT) as first,
        mounting(pool, *TRANSIENT) as second,
        mounting(pool, "-o", "lock=auto") as third,
        to_be_closed(first.file(image)) as holder,
        ThreadPoolExecutor(1) as executor,
    ):
        write_often(holder)
        assert code_of_open(second.file(image), os.O_RDWR) == "EBUSY"
        with opened(third.file(image), os.O_RDWR) as file:
            writing = executor.submit(os.pwrite, file, b"third", 0)
            write_often(holder)
            assert not writing.done()
            holder.close()
            assert writing.result(ENDS_S) == 5
    assert export_image(ceph, f"{pool}/{image}")[:5] == b"third"


@known
def test_a_group_snapshot_waits(ceph: Ceph, pool: str, image: str, mounting: Mounting) -> None:
    group = f"{pool}/group"
    ceph.rbd("group", "create", group)
    ceph.rbd("group", "image", "add", group, f"{pool}/{image}")
    command = ["rbd", "-c", str(ceph.conf), "group", "snap", "create", f"{group}@s"]
    with mounting(pool, *TRANSIENT) as mount, to_be_closed(mount.file(image)) as file:
        write_often(file)
        with subprocess.Popen(command) as taking:
            eventually(lambda: len(ceph.watchers(f"{pool}/{image}")) == 2, what="it to open")
            write_often(file)
            assert taking.poll() is None
            file.close()
            assert taking.wait(ENDS_S) == 0
    ceph.rbd("group", "rm", group)


@known
def test_a_server_that_dies_has_it_again(
    ceph: Ceph, pool: str, image: str, mounting: Mounting
) -> None:
    """The one after it takes the lock in the same mode."""
    with mounting(pool, *TRANSIENT) as mount, to_be_closed(mount.file(image)) as file:
        write_often(file)
        killed_server(mount)
        write_often(file)
        with open_image(ceph, pool, image) as other, ThreadPoolExecutor(1) as executor:
            writing = executor.submit(other.write, b"other", 0)
            write_often(file)
            assert not writing.done()
            file.close()
            assert writing.result(ENDS_S) == 5
