"""What others see of a mount: watchers and lock owners come and go with its writers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.support.ceph import run
from tests.support.conditions import eventually
from tests.support.images import MIB, import_image, open_image, random_bytes
from tests.support.mounts import opened

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.ceph import Ceph
    from tests.support.mounts import Mount, Mounting


def open_images(sockets: Path) -> int:
    """How many images and snapshots are open: librbd keeps counters for each."""
    counters = [
        json.loads(run("ceph", "--admin-daemon", str(path), "perf", "dump"))
        for path in sockets.glob("*.asok")
    ]
    assert counters
    return sum(name.startswith("librbd-") for counter in counters for name in counter)


@pytest.fixture
def spec(ceph: Ceph, pool: str, image_name: str) -> str:
    """The spec of an image of a mebibyte, with a snapshot `s`."""
    import_image(ceph, f"{pool}/{image_name}", random_bytes(MIB))
    ceph.rbd("snap", "create", "--no-progress", f"{pool}/{image_name}@s")
    return f"{pool}/{image_name}"


@pytest.fixture
def path(spec: str, image_name: str, mount: Mount) -> Path:
    return mount.file(image_name)


def assert_unused(ceph: Ceph, spec: str) -> None:
    """As soon as the kernel has sent its RELEASE, for which close(2) does not wait."""
    eventually(lambda: not ceph.watchers(spec), what="the end of the watch")
    assert ceph.lock_owners(spec) == []


def test_looking_leaves_no_trace(ceph: Ceph, spec: str, path: Path, mount: Mount) -> None:
    with os.scandir(mount.path) as entries:
        assert {path.name, f"{path.name}@s"} <= {entry.name for entry in entries}
        assert path.stat().st_size == MIB
        run("ls", "-lR", str(mount.path))
        run("find", str(mount.path), "-size", "+1")
        run("test", "-w", str(path))
        assert ceph.watchers(spec) == []
        assert ceph.lock_owners(spec) == []


def test_readers_leave_no_trace(ceph: Ceph, spec: str, path: Path) -> None:
    for name in (path, f"{path}@s"):
        with opened(name, os.O_RDONLY) as file:
            assert os.pread(file, MIB, 0) == random_bytes(MIB)
            assert ceph.watchers(spec) == []
            assert ceph.lock_owners(spec) == []


def test_readers_share_one_open_image(
    ceph: Ceph, pool: str, spec: str, image_name: str, mounting: Mounting, tmp_path: Path
) -> None:
    sockets = tmp_path / "sockets"
    sockets.mkdir()
    with mounting(pool, "-o", f"admin_socket={sockets}/$cctid.asok") as mount:
        path = mount.file(image_name)
        with opened(path, os.O_RDONLY) as one, opened(path, os.O_RDONLY) as two:
            assert os.pread(one, 10, 0) == os.pread(two, 10, 0) == random_bytes(MIB)[:10]
            assert open_images(sockets) == 1
            with opened(f"{path}@s", os.O_RDONLY):
                assert open_images(sockets) == 2
        eventually(lambda: open_images(sockets) == 0, what="the close of the images")


def test_writers_are_one_watcher(ceph: Ceph, spec: str, path: Path) -> None:
    with opened(path, os.O_RDWR) as one:
        with opened(path, os.O_WRONLY) as two, opened(path, os.O_RDONLY):
            os.pwrite(one, b"one", 0)
            os.pwrite(two, b"two", 3)
            assert len(ceph.watchers(spec)) == 1
            assert len(ceph.lock_owners(spec)) == 1
        assert len(ceph.watchers(spec)) == 1
    assert_unused(ceph, spec)


def test_resizing_a_closed_file_leaves_no_trace(ceph: Ceph, spec: str, path: Path) -> None:
    os.truncate(path, 2 * MIB)
    assert_unused(ceph, spec)


def test_writer_comes_to_readers_and_goes(ceph: Ceph, spec: str, path: Path) -> None:
    with opened(path, os.O_RDONLY | os.O_DIRECT) as reader:
        with opened(path, os.O_RDWR) as writer:
            os.pwrite(writer, b"changed", 4096)
            os.fsync(writer)
            assert len(ceph.watchers(spec)) == 1
        assert_unused(ceph, spec)
        assert run("dd", f"if={path}", "bs=7", "count=1", "skip=4096", "iflag=skip_bytes") == (
            "changed"
        )
        assert len(os.pread(reader, 4096, 0)) == 4096


def test_user_that_dies_leaves_no_trace(ceph: Ceph, spec: str, path: Path) -> None:
    script = "import os, sys; f = os.open(sys.argv[1], os.O_RDWR); os.write(f, b'x'); input()"
    with subprocess.Popen(
        [sys.executable, "-c", script, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        eventually(lambda: ceph.watchers(spec), what="the watcher")
        process.kill()
    assert_unused(ceph, spec)


def test_other_client_s_write_is_read_by_the_next_open(
    ceph: Ceph, pool: str, image_name: str, spec: str, path: Path
) -> None:
    assert path.read_bytes() == random_bytes(MIB)
    with open_image(ceph, pool, image_name) as image:
        image.write(b"elsewhere", 0)
    assert path.read_bytes()[:9] == b"elsewhere"


def test_snapshot_taken_while_a_file_is_written(
    ceph: Ceph, spec: str, path: Path, mount: Mount
) -> None:
    with opened(path, os.O_RDWR | os.O_SYNC) as file:
        os.pwrite(file, b"before", 0)
        ceph.rbd("snap", "create", "--no-progress", f"{spec}@now")
        os.pwrite(file, b"after ", 0)
    snap = mount.file(f"{path.name}@now")
    eventually(snap.exists, what="the snapshot")
    assert snap.read_bytes()[:6] == b"before"
    assert path.read_bytes()[:6] == b"after "
