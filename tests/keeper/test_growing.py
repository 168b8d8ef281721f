"""The server is killed in each step of growing a file; who writes it notices nothing."""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from tests.support import crashes
from tests.support.conditions import eventually
from tests.support.images import MIB, export_image, random_bytes
from tests.support.mounts import opened, opened_and_lost
from tests.support.servers import kill_keeper_and_server, signal_server, wait_for_server

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.ceph import Ceph
    from tests.support.mounts import Mounting

pytestmark = pytest.mark.usefixtures("native")

GROWTH = "rbdfs.files.growth:Growth"
IMAGE = "rbdfs.ceph.image:Image"
STEPS = [
    "after rbdfs.files.table:HandleTable.open",
    f"before {IMAGE}.resize",
    f"after {IMAGE}.resize",
    f"before {IMAGE}.write",
    f"after {IMAGE}.write",
    "before rbdfs.fuse.resizing:set_length",
    f"before {GROWTH}.truncate",
    f"after {GROWTH}.truncate",
    f"before {GROWTH}.trim",
    f"after {GROWTH}.trim",
    f"before {GROWTH}.finish",
    f"after {GROWTH}.finish",
]


@pytest.mark.parametrize("step", STEPS)
def test_killed_while_a_file_grows(
    ceph: Ceph, pool: str, image_name: str, mounting: Mounting, tmp_path: Path, step: str
) -> None:
    control = tmp_path / "crash"
    control.write_text(step)
    program = [sys.executable, crashes.__file__, str(control)]
    data = random_bytes(3 * MIB + 17)
    with mounting(pool, "-o", "manage", program=program) as mount:
        path = mount.file(image_name)
        with opened(path, os.O_CREAT | os.O_EXCL | os.O_RDWR) as file:
            assert os.pwrite(file, data, 0) == len(data)
            os.ftruncate(file, MIB)
            assert os.fstat(file).st_size == MIB
            assert os.pwrite(file, data[MIB : MIB + 5], MIB) == 5
            # A FLUSH, with one writer: the image is trimmed, and then grows again.
            os.close(os.dup(file))
            assert os.pwrite(file, data[MIB + 5 : 2 * MIB], MIB + 5) == MIB - 5
            assert os.pread(file, 2 * MIB, 0) == data[: 2 * MIB]
        eventually(lambda: not control.exists(), what="the crash")
        assert path.stat().st_size == 2 * MIB
        eventually(lambda: not ceph.watchers(f"{pool}/{image_name}"), what="the end of the watch")
        mount.expect_log(r"ERROR .*server 1 was killed \(signal 9\)")
    assert export_image(ceph, f"{pool}/{image_name}") == data[: 2 * MIB]


def test_the_host_crashes_while_a_file_grows(
    ceph: Ceph, pool: str, image_name: str, mounting: Mounting
) -> None:
    """Nobody knows the length any more, but that the image has room to give back."""
    data = random_bytes(5 * MIB + 17)
    spec = f"{pool}/{image_name}"
    with mounting(pool, "-o", "manage", exit_code=None) as mount:
        # The server is killed a moment later.
        mount.allow_log(r"CRITICAL .*the keeper is gone")
        with (
            contextlib.suppress(OSError),
            opened(mount.file(image_name), os.O_CREAT | os.O_WRONLY | os.O_DIRECT) as file,
        ):
            page = mmap.mmap(-1, len(data) - len(data) % 512)
            page[:] = data[: len(page)]
            assert os.pwritev(file, [page], 0) == len(page)
            kill_keeper_and_server(mount)
        assert json.loads(ceph.rbd("info", "--format=json", spec))["size"] >= 64 * MIB
        mark = ceph.rbd("image-meta", "get", spec, "rbdfs.growing").split()
        assert mark[:3] == ["0", "0", str(64 * MIB)]
        with mounting(pool, "-o", "manage", mountpoint=mount.path) as again:
            again.expect_log(r"WARNING .*a mount died here as a whole")
            path = again.file(image_name)
            eventually(lambda: path.stat().st_size == len(page), what="the length")
    assert export_image(ceph, spec) == data[: len(page)]
    assert "rbdfs.growing" not in ceph.rbd("image-meta", "ls", spec)


def test_what_has_another_size_since_the_crash_is_not_cut(
    ceph: Ceph, pool: str, image_name: str, mounting: Mounting
) -> None:
    """Nor what was copied with its mark, nor what ftruncate(2) had made longer."""
    cut, resized, truncated, copied = names = [f"{image_name}-{n}" for n in range(4)]
    with mounting(pool, "-o", "manage", exit_code=None) as mount:
        # The server is killed a moment later.
        mount.allow_log(r"CRITICAL .*the keeper is gone")
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            for name in names[:3]:
                flags = os.O_CREAT | os.O_WRONLY
                file = stack.enter_context(opened_and_lost(mount.file(name), flags))
                assert os.pwrite(file, b"grows", 0) == 5
            os.ftruncate(file, 80 * MIB)
            kill_keeper_and_server(mount)
        # Nobody waits for the one that is dead.
        for address in ceph.watchers(f"{pool}/{cut}"):
            ceph.ceph("osd", "blocklist", "add", address)
        ceph.rbd("cp", "--no-progress", f"{pool}/{resized}", f"{pool}/{copied}")
        ceph.rbd("resize", "--no-progress", "--size=1G", f"{pool}/{resized}")
        with mounting(pool, "-o", "manage", mountpoint=mount.path) as again:
            again.expect_log(r"WARNING .*a mount died here as a whole")
            eventually(lambda: again.file(cut).stat().st_size == 5, what="the length")
    sizes = [json.loads(ceph.rbd("info", "--format=json", f"{pool}/{n}"))["size"] for n in names]
    assert sizes == [5, 1024 * MIB, 80 * MIB, 64 * MIB]


def test_a_snapshot_that_is_asked_for_while_there_is_no_server(
    pool: str, image_name: str, mounting: Mounting
) -> None:
    """It has the length of the file: it waits until the image is open again, and is trimmed."""
    with mounting(pool, "-o", "manage") as mount:
        path, snapshot = mount.file(image_name), mount.file(f"{image_name}@s")
        with opened(path, os.O_CREAT | os.O_RDWR) as file, ThreadPoolExecutor(1) as thread:
            assert os.pwrite(file, b"grows", 0) == 5
            server = signal_server(mount, signal.SIGSTOP)
            link = thread.submit(os.link, path, snapshot)
            os.kill(server, signal.SIGKILL)
            wait_for_server(mount, 2)
            link.result()
            assert os.pwrite(file, b"on", 5) == 2
        mount.expect_log(r"ERROR .*server 1 was killed \(signal 9\)")
        assert snapshot.read_bytes() == b"grows"
        assert path.read_bytes() == b"growson"
