"""`mv` of an image between pools, whose migration somebody else ends, or that cannot be ended."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import pytest

from tests.support import changed
from tests.support.conditions import eventually
from tests.support.images import MIB, export_image
from tests.support.mounts import opened, opened_and_lost
from tests.support.moves import (
    BLOCK,
    assert_nothing_left,
    make,
    migration_state,
    move,
    wait_for_log,
    wait_until_done,
    whole_cluster,
)

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.ceph import Ceph
    from tests.support.mounts import Mounting

SIZE = 4 * MIB
# A look between the abort and the next try.
LOOK = r"WARNING .*cannot tell whether .* has changed"
FAILS = r"ERROR .*fails, and is tried again: .*of the test"


def test_aborted(ceph: Ceph, pools: tuple[str, str], mounting: Mounting, image_name: str) -> None:
    """As rbdfs-files(7) tells one to whose copy fails again and again: the files follow."""
    hdd, ssd = pools
    data = make(ceph, f"{hdd}/{image_name}", snapshot=True, size=SIZE)
    before = export_image(ceph, f"{hdd}/{image_name}@before")
    program = changed.program(retry=0.5, failing=errno.ENOSPC)
    with whole_cluster(mounting, program=program) as mount:
        mount.expect_log(FAILS, r"WARNING .*aborted by another client; its files follow")
        mount.allow_log(LOOK)
        source, target = (mount.file(f"{pool}/{image_name}") for pool in pools)
        with (
            opened(source, os.O_RDONLY | os.O_DIRECT) as file,
            opened(mount.file(f"{hdd}/{image_name}@before"), os.O_RDONLY | os.O_DIRECT) as old,
        ):
            move(source, target)
            wait_for_log(mount, "is tried again")
            ceph.rbd("migration", "abort", "--no-progress", f"{ssd}/{image_name}")
            assert os.pread(file, SIZE, 0) == data
            assert os.pread(old, SIZE, 0) == before
            inode = os.fstat(file).st_ino
            eventually(source.exists, what="the image where it was")
            assert source.stat().st_ino == inode
        # The kernel knows the name for a second, as with all that others do.
        eventually(lambda: not target.exists(), what="the end of the name where it had gone")
        with opened(source, os.O_RDWR | os.O_DIRECT) as writer:
            assert os.pread(writer, SIZE, 0) == data
        assert source.read_bytes() == data
        # And it can be moved again.
        move(source, target)
        wait_for_log(mount, "is there, its data follows")
        assert mount.alive
        mount.allow_log(r"is not complete")
    ceph.rbd("migration", "abort", "--no-progress", f"{ssd}/{image_name}")
    assert export_image(ceph, f"{hdd}/{image_name}") == data


def test_aborted_while_requests_go_on(
    ceph: Ceph, pools: tuple[str, str], mounting: Mounting, image_name: str
) -> None:
    hdd, ssd = pools
    data = make(ceph, f"{hdd}/{image_name}", snapshot=False, size=SIZE)
    program = changed.program(retry=0.5, failing=errno.ENOSPC)
    with whole_cluster(mounting, program=program) as mount:
        mount.expect_log(FAILS, r"WARNING .*aborted by another client; its files follow")
        mount.allow_log(LOOK)
        # The look of a second may be quicker.
        mount.allow_log(r"WARNING .*open files of .* are lost")
        source, target = (mount.file(f"{pool}/{image_name}") for pool in pools)
        with opened(source, os.O_RDONLY) as file:
            move(source, target)
            wait_for_log(mount, "is tried again")
            ceph.rbd("migration", "abort", "--no-progress", f"{ssd}/{image_name}")
            wait_for_log(mount, "its files follow")
            eventually(source.exists, what="the image where it was")
            assert _content(file) in (data, errno.ESTALE)
        assert source.read_bytes() == data
        with opened(source, os.O_RDWR | os.O_DIRECT) as writer:
            assert os.pread(writer, BLOCK, 0) == data[:BLOCK]
        assert mount.alive


def test_committed(ceph: Ceph, pools: tuple[str, str], mounting: Mounting, image_name: str) -> None:
    """Before this mount comes to it: it is done, and can be moved back."""
    hdd, ssd = pools
    data = make(ceph, f"{hdd}/{image_name}", snapshot=True, size=SIZE)
    program = changed.program(notice=4, retry=0.5)
    with whole_cluster(mounting, program=program) as mount:
        mount.expect_log(r"ERROR .*is tried again", r"WARNING .*committed by another client")
        source, target = (mount.file(f"{pool}/{image_name}") for pool in pools)
        with opened(source, os.O_RDWR | os.O_DIRECT) as file:
            move(source, target)
            eventually(lambda: migration_state(ceph, f"{ssd}/{image_name}") == "executed")
            ceph.rbd("migration", "commit", "--no-progress", f"{ssd}/{image_name}")
            wait_until_done(mount, image_name)
            assert os.pread(file, SIZE, 0) == data
        assert_nothing_left(ceph, hdd, image_name)
        move(target, source)
        wait_for_log(mount, f"to {hdd}/{image_name}: done")
        assert source.read_bytes() == data
        assert mount.alive
    assert_nothing_left(ceph, ssd, image_name)


@pytest.mark.parametrize("snapshot", [True, False])
def test_what_nobody_expects_shows_no_older_bytes(
    ceph: Ceph, pools: tuple[str, str], mounting: Mounting, image_name: str, snapshot: bool
) -> None:
    """The files of an image with snapshots are failed, and not read in the midst of a copy."""
    hdd, ssd = pools
    data = make(ceph, f"{hdd}/{image_name}", snapshot=snapshot, size=SIZE)
    with whole_cluster(mounting, program=changed.program(failing=0)) as mount:
        mount.expect_log(r"ERROR .*migration of .* failed\n", r"WARNING .*is not complete")
        if snapshot:
            mount.expect_log(r"ERROR .*open files of .* are lost", r"WARNING .*: read: ")
            mount.allow_log(r"WARNING .*: flush: ")
        source, target = (mount.file(f"{pool}/{image_name}") for pool in pools)
        with opened_and_lost(source, os.O_RDONLY | os.O_DIRECT) as file:
            move(source, target)
            if snapshot:
                with pytest.raises(OSError, match="error") as caught:
                    os.pread(file, SIZE, 0)
                assert caught.value.errno == errno.EIO
                with pytest.raises(OSError, match=image_name) as caught:
                    os.open(target, os.O_RDONLY)
                assert caught.value.errno == errno.EBUSY
            else:
                assert os.pread(file, SIZE, 0) == data
        wait_for_log(mount, "is not complete")
        ceph.rbd("migration", "execute", "--no-progress", f"{ssd}/{image_name}")
        ceph.rbd("migration", "commit", "--no-progress", f"{ssd}/{image_name}")
        eventually(lambda: _opened(target), what="the image, opened anew")
        assert target.read_bytes() == data
        assert mount.alive
    assert_nothing_left(ceph, hdd, image_name)


def _content(file: int) -> bytes | int | None:
    """What a file holds, or the errno of reading it."""
    try:
        return os.pread(file, SIZE, 0)
    except OSError as exc:
        return exc.errno


def _opened(path: Path) -> bool:
    # How far the migration is may have been read a second ago.
    try:
        with opened(path, os.O_RDONLY):
            return True
    except OSError as exc:
        if exc.errno != errno.EBUSY:
            raise
        return False
