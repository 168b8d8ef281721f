"""What is open goes on when the server is another one, each kind of file as it should."""

from __future__ import annotations

import contextlib
import mmap
import os
import signal
from typing import TYPE_CHECKING, Any

import pytest
import rbd

from tests.support.ceph import run
from tests.support.conditions import eventually
from tests.support.images import MIB, export_image, import_image, random_bytes
from tests.support.mounts import opened
from tests.support.refusals import refusal
from tests.support.servers import ask, kill_server, killed_server, signal_server, wait_for_server

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.ceph import Ceph
    from tests.support.mounts import Mount, Mounting

pytestmark = pytest.mark.usefixtures("native")


def restart(mount: Mount) -> None:
    assert ask(mount, "restart")["generation"] == 2


CHANGES = {"killed": killed_server, "restarted": restart}
every_change = pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)


@pytest.fixture
def image(ceph: Ceph, pool: str, image_name: str) -> str:
    """An image of a mebibyte with a snapshot `s`."""
    import_image(ceph, f"{pool}/{image_name}", random_bytes(MIB))
    ceph.rbd("snap", "create", "--no-progress", f"{pool}/{image_name}@s")
    return image_name


@every_change
def test_readers_writer_and_directory(
    ceph: Ceph, pool: str, image: str, mounting: Mounting, change: Callable[[Mount], None]
) -> None:
    data = bytearray(random_bytes(MIB))
    with mounting(pool) as mount:
        path = mount.file(image)
        with (
            opened(path, os.O_RDONLY | os.O_DIRECT) as reader,
            opened(mount.file(f"{image}@s"), os.O_RDONLY | os.O_DIRECT) as snapshot,
            opened(path, os.O_RDWR) as writer,
            os.scandir(mount.path) as entries,
        ):
            os.pwrite(writer, b"before", 0)
            os.fsync(writer)
            first = next(entries).name
            os.pwrite(writer, b"dirty in the page cache", 70_000)
            size = os.fstat(writer).st_size
            change(mount)
            os.pwrite(writer, b"after", 300_000)
            os.fsync(writer)
            data[0:6], data[70_000:70_023], data[300_000:300_005] = (
                b"before",
                b"dirty in the page cache",
                b"after",
            )
            buffer = mmap.mmap(-1, MIB)
            assert os.preadv(reader, [buffer], 0) == MIB
            assert buffer[:] == data
            assert os.preadv(snapshot, [buffer], 0) == MIB
            assert buffer[:] == random_bytes(MIB)
            assert {first, *(entry.name for entry in entries)} >= {image, f"{image}@s"}
            assert os.fstat(writer).st_size == size == MIB
            # Held by the new server, and by it alone.
            assert len(ceph.lock_owners(f"{pool}/{image}")) == 1
            assert os.lseek(writer, 0, os.SEEK_DATA) == 0
            assert refusal(lambda: os.pwrite(reader, b"x", 0)) == "EBADF"
            assert refusal(lambda: os.pwrite(writer, b"x", MIB)) == "ENOSPC"
        eventually(lambda: not ceph.watchers(f"{pool}/{image}"), what="the end of the watch")
        assert os.path.samestat(path.stat(), path.stat())
        assert mount.alive
    assert export_image(ceph, f"{pool}/{image}") == data


@every_change
def test_what_mmap_has_made_dirty_is_data(
    ceph: Ceph, pool: str, image_name: str, mounting: Mounting, change: Callable[[Mount], None]
) -> None:
    """Of a file that the server before had opened, too: SEEK_DATA would tell of a hole."""
    ceph.rbd("create", "--size=16M", f"{pool}/{image_name}")
    with (
        mounting(pool) as mount,
        opened(mount.file(image_name), os.O_RDWR) as writer,
        # Before: an open writes back what is dirty.
        opened(mount.file(image_name), os.O_RDONLY) as reader,
        mmap.mmap(writer, 0) as pages,
    ):
        change(mount)
        pages[8 * MIB : 8 * MIB + 5] = b"dirty"
        assert os.lseek(reader, 0, os.SEEK_DATA) == 8 * MIB


@every_change
def test_growing_file(
    ceph: Ceph, pool: str, image_name: str, mounting: Mounting, change: Callable[[Mount], None]
) -> None:
    data = random_bytes(5 * MIB + 123, seed=1)
    with mounting(pool, "-o", "manage") as mount:
        with opened(mount.file(image_name), os.O_CREAT | os.O_WRONLY) as file:
            half = 3 * MIB + 17
            os.pwrite(file, data[:half], 0)
            os.fsync(file)
            change(mount)
            assert os.fstat(file).st_size == half
            os.pwrite(file, data[half:], half)
            assert os.fstat(file).st_size == len(data)
        # Closing trims the image to what was written.
        eventually(lambda: not ceph.watchers(f"{pool}/{image_name}"), what="the end of the watch")
        assert mount.file(image_name).stat().st_size == len(data)
    assert export_image(ceph, f"{pool}/{image_name}") == data


@every_change
def test_a_file_that_another_writer_has_made_longer(
    ceph: Ceph, pool: str, image_name: str, mounting: Mounting, change: Callable[[Mount], None]
) -> None:
    """One that has left: what it has written is there for the writer that stays."""
    data = random_bytes(2 * MIB)
    page = mmap.mmap(-1, MIB)
    page[:] = data[MIB:]
    with mounting(pool, "-o", "manage") as mount:
        path = mount.file(image_name)
        with opened(path, os.O_CREAT | os.O_WRONLY) as stays:
            os.pwrite(stays, data[:MIB], 0)
            # Direct: the kernel writes pages back by whatever file is open.
            with opened(path, os.O_WRONLY | os.O_DIRECT) as leaves:
                assert os.pwritev(leaves, [page], MIB) == MIB
            # Its RELEASE, which nobody waits for.
            eventually(lambda: ask(mount, "status")["open_files"] == 1, what="its end")
            change(mount)
            assert os.fstat(stays).st_size == len(data)
        eventually(lambda: not ceph.watchers(f"{pool}/{image_name}"), what="the end of the watch")
    assert export_image(ceph, f"{pool}/{image_name}") == data


@every_change
def test_a_file_that_grows_no_more(
    ceph: Ceph, pool: str, image_name: str, mounting: Mounting, change: Callable[[Mount], None]
) -> None:
    """What was known of its length while it grew is no length for the next writer's server."""
    data, end = random_bytes(3 * MIB + 17), random_bytes(MIB, seed=3)
    with mounting(pool, "-o", "manage") as mount:
        path = mount.file(image_name)
        growing = os.open(path, os.O_CREAT | os.O_WRONLY)
        with opened(path, os.O_RDONLY) as reader:
            os.pwrite(growing, data, 0)
            os.close(growing)
            eventually(lambda: not ceph.watchers(f"{pool}/{image_name}"), what="its end")
            with opened(path, os.O_RDWR) as writer:
                os.ftruncate(writer, len(data) + len(end))
                os.pwrite(writer, end, len(data))
                os.fsync(writer)
                change(mount)
                assert os.fstat(writer).st_size == len(data) + len(end)
                assert os.pread(reader, len(end), len(data)) == end
        eventually(lambda: not ceph.watchers(f"{pool}/{image_name}"), what="the end of the watch")
    assert export_image(ceph, f"{pool}/{image_name}") == data + end


@every_change
def test_partition(
    ceph: Ceph,
    pool: str,
    image_name: str,
    mounting: Mounting,
    tmp_path: Path,
    change: Callable[[Mount], None],
) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(random_bytes(8 * MIB, seed=2))
    run(
        "sfdisk",
        "-q",
        str(disk),
        stdin=b"label: gpt\nstart=2048, size=2048\nstart=4096, size=2048\n",
    )
    data = bytearray(disk.read_bytes())
    import_image(ceph, f"{pool}/{image_name}", bytes(data))
    with mounting(pool, "-o", "partitions") as mount:
        with (
            opened(mount.file(f"{image_name}-part1"), os.O_RDWR | os.O_SYNC) as first,
            opened(mount.file(f"{image_name}-part2"), os.O_RDONLY) as second,
        ):
            os.pwrite(first, b"before", 0)
            change(mount)
            os.pwrite(first, b"after", 4096)
            data[MIB : MIB + 6], data[MIB + 4096 : MIB + 4101] = b"before", b"after"
            assert os.pread(first, 2 * MIB, 0) == data[MIB : 2 * MIB]
            assert os.pread(second, 2 * MIB, 0) == data[2 * MIB : 3 * MIB]
            assert refusal(lambda: os.open(mount.file(image_name), os.O_RDWR)) == "EBUSY"
        assert mount.alive
    assert export_image(ceph, f"{pool}/{image_name}") == data


def test_image_and_snapshot_removed_while_no_server_is_there(
    ceph: Ceph, pool: str, image: str, mounting: Mounting, ioctx: Any
) -> None:
    import_image(ceph, f"{pool}/{image}-other", random_bytes(MIB, seed=3))
    with mounting(pool) as mount:
        reader = os.open(mount.file(image), os.O_RDONLY | os.O_DIRECT)
        snapshot = os.open(mount.file(f"{image}@s"), os.O_RDONLY | os.O_DIRECT)
        other = os.open(mount.file(f"{image}-other"), os.O_RDWR)
        # The successor has not looked at anything yet. No process is started from here on: its
        # copies of the files would be closed by the server.
        successor = signal_server(mount, signal.SIGSTOP, after=kill_server(mount))
        with rbd.Image(ioctx, image) as opened_elsewhere:
            opened_elsewhere.remove_snap("s")
        rbd.RBD().remove(ioctx, image)
        os.kill(successor, signal.SIGCONT)
        wait_for_server(mount, 2)
        mount.expect_log(r"ERROR .*server 1 was killed \(signal 9\)")
        mount.expect_log(rf"WARNING .*{image}")
        buffer = mmap.mmap(-1, 4096)
        for file in (reader, snapshot):
            assert refusal(lambda file=file: os.preadv(file, [buffer], 0)) == "ESTALE"  # type: ignore[misc]
            assert refusal(lambda file=file: os.close(file)) == "ESTALE"  # type: ignore[misc]
        os.pwrite(other, b"goes on", 0)
        os.fsync(other)
        os.close(other)
        assert mount.alive
        assert not {image, f"{image}@s"} & set(os.listdir(mount.path))
    assert export_image(ceph, f"{pool}/{image}-other")[:7] == b"goes on"


@pytest.mark.parametrize("cache", ["none", "writethrough", "writeback", "unsafe"])
def test_writes_that_librbd_may_have_held_back(
    ceph: Ceph, pool: str, image: str, mounting: Mounting, cache: str
) -> None:
    """What librbd's cache took with it is told to everybody who relied on it, once and for all."""
    import_image(ceph, f"{pool}/{image}-other", random_bytes(MIB, seed=3))
    lost = cache in ("writeback", "unsafe")
    with mounting(pool, "-o", f"cache={cache}") as mount:
        path = mount.file(image)
        other = os.open(mount.file(f"{image}-other"), os.O_RDONLY)
        file = os.open(path, os.O_RDWR | os.O_DIRECT)
        buffer = mmap.mmap(-1, 4096)
        buffer[:] = b"w" * 4096
        os.pwritev(file, [buffer], 0)
        os.fsync(file)
        os.pwritev(file, [buffer], 8192)
        killed_server(mount)
        calls: dict[str, Callable[[], object]] = {
            "read": lambda: os.preadv(file, [buffer], 0),
            "write": lambda: os.pwritev(file, [buffer], 0),
            "fsync": lambda: os.fsync(file),
        }
        if lost:
            mount.expect_log("WARNING .*acknowledged writes may have been lost")
            mount.expect_log("WARNING .*(read|write|fsync|flush):")
            for name in (*calls, *calls):
                assert refusal(calls[name]) == "EIO", name
            with contextlib.suppress(OSError):
                os.close(file)
        else:
            for call in calls.values():
                call()
            os.close(file)
        assert os.pread(other, MIB, 0) == random_bytes(MIB, seed=3)
        os.close(other)
        # Opened anew it is a file like any other.
        with opened(path, os.O_RDWR) as file:
            os.pwrite(file, b"again", 100_000)
            os.fsync(file)
        assert mount.alive
    data = bytearray(random_bytes(MIB))
    data[:4096] = b"w" * 4096
    if not lost:
        data[8192:12288] = b"w" * 4096
    data[100_000:100_005] = b"again"
    exported = bytearray(export_image(ceph, f"{pool}/{image}"))
    if lost:
        exported[8192:12288] = data[8192:12288]
    if cache != "unsafe":
        assert exported == data


def test_writeback_cache_survives_a_restart(
    ceph: Ceph, pool: str, image: str, mounting: Mounting
) -> None:
    """Nothing is lost when a server may flush before it goes."""
    with mounting(pool, "-o", "cache=writeback") as mount:
        with opened(mount.file(image), os.O_RDWR) as file:
            os.pwrite(file, b"first", 0)
            os.fsync(file)
            os.pwrite(file, b"second", 8192)
            restart(mount)
            os.pwrite(file, b"third", 16384)
            os.fsync(file)
        assert mount.alive
    exported = export_image(ceph, f"{pool}/{image}")
    assert (exported[:5], exported[8192:8198], exported[16384:16389]) == (
        b"first",
        b"second",
        b"third",
    )


def test_inodes_of_which_no_file_is_open(
    ceph: Ceph, pool: str, image: str, mounting: Mounting, ioctx: Any
) -> None:
    """The kernel goes on using the numbers that it was told, whoever told it."""
    spec = f"{pool}/{image}"
    ceph.rbd("namespace", "create", f"{spec}-space")
    import_image(ceph, f"{spec}-space/inside", random_bytes(MIB, seed=4))
    import_image(ceph, f"{spec}-gone", random_bytes(MIB, seed=5))
    names = (image, f"{image}@s", f"{image}-space", f"{image}-space/inside", f"{image}-gone")
    with mounting(pool) as mount, contextlib.ExitStack() as stack:
        # They keep the inode, and the server hears nothing of them.
        held = {name: stack.enter_context(opened(mount.file(name), os.O_PATH)) for name in names}
        inodes = {name: os.stat(held[name]).st_ino for name in names}
        killed_server(mount)
        rbd.RBD().remove(ioctx, f"{image}-gone")
        asked = "looking for what the kernel was told"
        # It asks when what it was told of them before is too old.
        eventually(lambda: os.stat(held[image]) and asked in mount.log_text, what="the question")
        found = {name: os.stat(held[name]) for name in names[:-1]}
        assert {name: status.st_ino for name, status in found.items()} == dict(
            list(inodes.items())[:-1]
        )
        assert [found[name].st_size for name in (image, f"{image}@s")] == [MIB, MIB]
        eventually(
            lambda: refusal(lambda: os.stat(held[f"{image}-gone"])) == "ESTALE", what="ESTALE"
        )
        assert os.listdir(f"/proc/self/fd/{held[f'{image}-space']}") == ["inside"]
        path = f"/proc/self/fd/{held[f'{image}-space/inside']}"
        with opened(path, os.O_RDWR) as file:
            assert os.pread(file, MIB, 0) == random_bytes(MIB, seed=4)
        mount.allow_log("WARNING .*(getattr|lookup):")
        assert mount.alive


@pytest.mark.parametrize("whose", ["image", "pool"])
def test_cache_that_the_image_or_pool_switches_on(
    ceph: Ceph, pool: str, image: str, mounting: Mounting, whose: str
) -> None:
    """librbd puts their configuration above ours: what is promised is what is in force."""
    spec = f"{pool}/{image}" if whose == "image" else pool
    settings = {
        "rbd_cache": "true",
        "rbd_cache_policy": "writeback",
        "rbd_cache_writethrough_until_flush": "false",
    }
    for key, value in settings.items():
        ceph.rbd("config", whose, "set", spec, key, value)
    with mounting(pool) as mount:
        file = os.open(mount.file(image), os.O_RDWR)
        for block in range(3):
            assert os.pwrite(file, b"w" * 4096, block * 4096) == 4096
        # A thread of its own writes the log, and is killed with the server.
        eventually(lambda: "a crash of rbdfs may lose" in mount.log_text, what="the warning")
        killed_server(mount)
        assert refusal(lambda: os.fsync(file)) == "EIO"
        assert refusal(lambda: os.close(file)) == "EIO"
        mount.expect_log("WARNING .*a crash of rbdfs may lose acknowledged writes")
        mount.expect_log("WARNING .*acknowledged writes may have been lost")
        mount.expect_log("WARNING .*(fsync|flush):")
        for key in settings:
            ceph.rbd("config", whose, "rm", spec, key)
        # From now on it is as ever.
        with opened(mount.file(image), os.O_RDWR) as file:
            assert os.pwrite(file, b"again", 0) == 5
