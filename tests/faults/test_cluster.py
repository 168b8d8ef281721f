"""Faults of the cluster, made for real: who has to wait waits, and nobody is told a lie."""

from __future__ import annotations

import contextlib
import mmap
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.ceph import run
from tests.support.conditions import eventually, in_read
from tests.support.images import MIB, export_image, import_image, random_bytes
from tests.support.mounts import TIMEOUT_S, mounted, opened
from tests.support.quota import pool_with_a_quota
from tests.support.refusals import refusal
from tests.support.servers import ask, standing_still

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from tests.support.ceph import Ceph
    from tests.support.mounts import Mounting

BLOCK = 4096


@pytest.fixture
def other(ceph: Ceph, pool: str, image: str) -> str:
    import_image(ceph, f"{pool}/{image}-other", random_bytes(MIB, seed=1))
    return f"{image}-other"


class Direct:
    """A file with O_DIRECT, whose requests all reach the server."""

    def __init__(self, file: int) -> None:
        self.file = file
        self.buffer = mmap.mmap(-1, BLOCK)

    def read(self, off: int = 0) -> bytes:
        return self.buffer[: os.preadv(self.file, [self.buffer], off)]

    def write(self, byte: bytes, off: int = 0) -> int:
        self.buffer[:] = byte * BLOCK
        return os.pwritev(self.file, [self.buffer], off)

    def sync(self) -> None:
        os.fsync(self.file)

    def sync_write(self) -> None:
        self.write(b"a")
        self.sync()


def test_osd_stops_for_eight_seconds(
    ceph: Ceph, pool: str, image: str, other: str, mounting: Mounting
) -> None:
    data = bytearray(random_bytes(MIB))
    with mounting(pool) as mount, ThreadPoolExecutor(40) as threads:
        with (
            opened(mount.file(image), os.O_RDWR | os.O_DIRECT) as file,
            opened(mount.file(other), os.O_RDONLY | os.O_DIRECT) as reader,
        ):
            begun = time.monotonic()
            with standing_still(ceph, 0):
                offsets = range(0, 32 * BLOCK, BLOCK)
                writes: list[Future[Any]] = [
                    threads.submit(Direct(file).write, b"w", off) for off in offsets
                ]
                read: Future[Any] = threads.submit(Direct(reader).read)
                sync = threads.submit(os.fsync, file)
                # What needs no OSD answers meanwhile.
                answered = time.monotonic()
                os.statvfs(mount.path)
                assert time.monotonic() - answered < 1
                eventually(lambda: time.monotonic() - begun > 8, timeout=12)
                assert not any(future.done() for future in [*writes, read])
            assert [future.result(TIMEOUT_S) for future in writes] == [BLOCK] * 32
            assert read.result(TIMEOUT_S) == random_bytes(MIB, seed=1)[:BLOCK]
            sync.result(TIMEOUT_S)
            data[: 32 * BLOCK] = b"w" * 32 * BLOCK
        assert mount.file(image).read_bytes() == data
        assert mount.alive
    assert export_image(ceph, f"{pool}/{image}") == data


# It has the file open when the OSD stops: an open would wait as well.
READER = """
import os, sys
file = os.open(sys.argv[1], os.O_RDONLY)
print("open", flush=True)
input()
os.read(file, 1 << 16)
"""


@contextlib.contextmanager
def waiting_reader(
    ceph: Ceph, file: Path, groups: Sequence[int] | None = None
) -> Iterator[subprocess.Popen[str]]:
    """Have a process wait in read(2) for an OSD that stands still for the time of the context."""
    with subprocess.Popen(
        [sys.executable, "-c", READER, str(file)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        extra_groups=groups,
    ) as reader:
        assert reader.stdin is not None
        assert reader.stdout is not None
        assert reader.stdout.readline() == "open\n"
        with standing_still(ceph, 0):
            print("go", file=reader.stdin, flush=True)
            eventually(lambda: in_read(reader.pid), what="the read")
            yield reader


# A member of that many is further down in its /proc/PID/status than others.
@pytest.mark.parametrize("groups", [None, range(1 << 20, (1 << 20) + 2000)], ids=["few", "many"])
def test_reader_killed_while_it_waits(
    ceph: Ceph, pool: str, image: str, other: str, mounting: Mounting, groups: Sequence[int] | None
) -> None:
    with mounting(pool) as mount:
        with waiting_reader(ceph, mount.file(image), groups) as reader:
            reader.send_signal(signal.SIGKILL)
            assert os.statvfs(mount.path).f_namemax == 255
        assert reader.wait(TIMEOUT_S) == -signal.SIGKILL
        assert mount.file(other).read_bytes() == random_bytes(MIB, seed=1)
        assert mount.file(image).read_bytes() == random_bytes(MIB)
        assert mount.alive


@contextlib.contextmanager
def connections(path: Path) -> Iterator[Path]:
    """What is usually mounted at /sys/fs/fuse/connections."""
    path.mkdir()
    run("mount", "-t", "fusectl", "none", str(path))
    try:
        yield path
    finally:
        run("umount", str(path))


def test_connection_aborted_while_a_reader_waits(
    ceph: Ceph, pool: str, image: str, mounting: Mounting, tmp_path: Path
) -> None:
    """The way out of last resort ends the waiting at once, and the mount."""
    with mounting(pool, exit_code=None) as mount, connections(tmp_path / "fusectl") as control:
        mount.allow_log("(?s)(WARNING|ERROR) .*")
        number = os.minor(os.stat(mount.path).st_dev)
        file = os.open(mount.file(image), os.O_RDONLY)
        with waiting_reader(ceph, mount.file(image)) as reader:
            (control / f"{number}" / "abort").write_text("1")
            _, stderr = reader.communicate(timeout=TIMEOUT_S)
            assert "not connected" in stderr or "abort" in stderr
        with pytest.raises(OSError, match="not connected"):
            os.close(file)
        mount.wait()
        assert not mounted(mount.path)
        with mounting(pool, mountpoint=mount.path) as again:
            assert again.file(image).read_bytes() == random_bytes(MIB)


def test_mon_stops(ceph: Ceph, pool: str, image: str, other: str, mounting: Mounting) -> None:
    data = bytearray(random_bytes(MIB))
    with mounting(pool) as mount:
        with opened(mount.file(image), os.O_RDWR | os.O_DIRECT) as file:
            with ceph.stalled("mon.a"):
                direct = Direct(file)
                assert direct.write(b"m") == BLOCK
                direct.sync()
                assert direct.read() == b"m" * BLOCK
                assert set(os.listdir(mount.path)) >= {image, other}
                # A new one needs the OSDs only.
                assert mount.file(other).read_bytes() == random_bytes(MIB, seed=1)
            data[:BLOCK] = b"m" * BLOCK
            assert direct.read(BLOCK) == data[BLOCK : 2 * BLOCK]
        assert mount.alive
    assert export_image(ceph, f"{pool}/{image}") == data


@pytest.mark.parametrize("data_path", ["native", "python"])
def test_timeout(
    ceph: Ceph, pool: str, image: str, other: str, mounting: Mounting, data_path: str
) -> None:
    """What has timed out may land later: the file fails until it is opened anew."""
    options = ("-d", "-o", f"timeout=2,datapath={data_path}")
    data = bytearray(random_bytes(MIB))
    with mounting(pool, *options) as mount, ThreadPoolExecutor(1) as threads:
        mount.allow_log("(?s)(WARNING|ERROR) .*(timed out|ETIMEDOUT|110)")
        mount.expect_log(rf"WARNING .*open files of {pool}/{image} are lost: .*timed out")
        file = os.open(mount.file(image), os.O_RDWR | os.O_DIRECT)
        untouched = os.open(mount.file(other), os.O_RDWR | os.O_DIRECT)
        direct = Direct(file)
        assert direct.write(b"b") == BLOCK
        with standing_still(ceph, 0):
            late = threads.submit(Direct(file).write, b"l", BLOCK)
            assert refusal(lambda: late.result(TIMEOUT_S)) == "ETIMEDOUT"
            # Looks at the other one time out, too.
            text = f"cannot tell yet whether {pool}/{other} has changed"
            eventually(lambda: text in mount.log_text, what="a look")
        for call in (lambda: direct.write(b"x", BLOCK), direct.sync, direct.read):
            assert refusal(call) == "ETIMEDOUT"
        # No request of its own has timed out.
        assert Direct(untouched).read() == random_bytes(MIB, seed=1)[:BLOCK]
        assert Direct(untouched).write(b"u") == BLOCK
        os.fsync(untouched)
        eventually(lambda: "are lost" in mount.log_text, what="the log")
        with contextlib.suppress(OSError):
            os.close(untouched)
        # Opened anew it is a file like any other, also while somebody still has the old one.
        with opened(mount.file(image), os.O_RDWR | os.O_DIRECT) as anew:
            found = Direct(anew).read(BLOCK)
            assert found in (b"l" * BLOCK, data[BLOCK : 2 * BLOCK])
            assert Direct(anew).write(b"a", 2 * BLOCK) == BLOCK
            os.fsync(anew)
            assert refusal(direct.read) == "ETIMEDOUT"
        with contextlib.suppress(OSError):
            os.close(file)
        assert mount.alive
    data[: 3 * BLOCK] = b"b" * BLOCK + found + b"a" * BLOCK
    assert export_image(ceph, f"{pool}/{image}") == data


FENCES: dict[str, Callable[[Ceph, str, str], object]] = {
    "blocklisted": lambda ceph, _, address: ceph.blocklist_add(address),
    "lock broken": lambda ceph, spec, _: break_lock(ceph, spec),
}


def break_lock(ceph: Ceph, spec: str) -> None:
    ((cookie, client),) = [
        (lock["id"], lock["locker"]) for lock in ceph._rbd_json("lock", "ls", spec)
    ]
    ceph.rbd("lock", "rm", spec, cookie, client)


@pytest.mark.usefixtures("native")
@pytest.mark.parametrize("fence", FENCES.values(), ids=FENCES)
def test_fenced(
    ceph: Ceph,
    pool: str,
    image: str,
    other: str,
    mounting: Mounting,
    fence: Callable[[Ceph, str, str], object],
) -> None:
    """A file that somebody may have taken over fails for good, and says so; it is not reopened."""
    spec = f"{pool}/{image}"
    with mounting(pool) as mount:
        mount.expect_log(rf"WARNING .*open files of {spec} are lost: .*shutdown")
        mount.expect_log("(?s)(WARNING|ERROR) .*")
        file = os.open(mount.file(image), os.O_RDWR | os.O_DIRECT)
        direct = Direct(file)
        assert direct.write(b"a") == BLOCK
        (address,) = ceph.lock_owners(spec)
        fence(ceph, spec, address)
        # The OSDs learn of it from the next map.
        eventually(lambda: fails(direct.sync_write), what="the fence")
        assert refusal(lambda: direct.write(b"b")) == "ESHUTDOWN"
        assert refusal(direct.sync) == "ESHUTDOWN"
        assert refusal(direct.read) == "ESHUTDOWN"
        eventually(lambda: f"open files of {spec} are lost" in mount.log_text, what="the log")
        # Names and sizes come by another client of ours.
        assert set(os.listdir(mount.path)) >= {image, other}
        assert ask(mount, "status")["files"][0]["error"] is not None
        ceph.blocklist_rm(address)
        assert refusal(direct.sync) == "ESHUTDOWN"
        assert refusal(lambda: direct.write(b"c")) == "ESHUTDOWN"
        # Another server has other clients: what is opened from then on works.
        ask(mount, "restart")
        assert refusal(direct.sync) == "ESHUTDOWN"
        assert mount.file(other).read_bytes() == random_bytes(MIB, seed=1)
        with contextlib.suppress(OSError):
            os.close(file)
        with opened(mount.file(image), os.O_RDWR | os.O_DIRECT) as file:
            assert Direct(file).read() == b"a" * BLOCK
            assert Direct(file).write(b"d") == BLOCK
            os.fsync(file)
        assert mount.alive
        assert mount.log_text.count(f"open files of {spec} are lost") == 1
    assert export_image(ceph, spec) == b"d" * BLOCK + random_bytes(MIB)[BLOCK:]


def fails(call: Callable[[], object]) -> bool:
    try:
        call()
    except OSError:
        return True
    return False


def test_quota_reached(ceph: Ceph, image_name: str, mounting: Mounting) -> None:
    """Writes wait for space, as on any block device of Ceph; reads go on."""
    pool = f"quota-{image_name}"
    with pool_with_a_quota(ceph, pool) as set_quota:
        import_image(ceph, f"{pool}/{image_name}", random_bytes(MIB))
        with mounting(pool) as mount, ThreadPoolExecutor(4) as threads:
            with opened(mount.file(image_name), os.O_RDWR | os.O_DIRECT) as file:
                set_quota(1)
                write = threads.submit(Direct(file).write, b"q")
                assert Direct(file).read(BLOCK) == random_bytes(MIB)[BLOCK : 2 * BLOCK]
                assert mount.alive
                with pytest.raises(TimeoutError):
                    write.result(1.0)
                set_quota(0)
                assert write.result(TIMEOUT_S) == BLOCK
                os.fsync(file)
            assert mount.alive
        assert export_image(ceph, f"{pool}/{image_name}")[:BLOCK] == b"q" * BLOCK


@pytest.mark.slow
@pytest.mark.usefixtures("native")
def test_signal_while_writes_wait_for_ever(ceph: Ceph, image_name: str, mounting: Mounting) -> None:
    """The end of the mount is bounded, and says what was not written."""
    pool = f"quota-{image_name}"
    with pool_with_a_quota(ceph, pool) as set_quota:
        import_image(ceph, f"{pool}/{image_name}", random_bytes(MIB))
        with mounting(pool, exit_code=1) as mount, ThreadPoolExecutor(1) as threads:
            mount.expect_log(rf"ERROR .*not flushed: {pool}/{image_name}$")
            file = os.open(mount.file(image_name), os.O_RDWR | os.O_DIRECT)
            set_quota(1)

            def waiting_write() -> Future[int] | None:
                # The client hears of the quota after the monitors.
                write = threads.submit(Direct(file).write, b"q")
                return None if wait([write], timeout=0.5).done else write

            write = eventually(waiting_write, what="a write that waits")
            assert write is not None
            mount.signal(signal.SIGTERM)
            assert mount.wait(40) == 1
            assert not mounted(mount.path)
            with pytest.raises(OSError, match="(not connected|aborted|abort)"):
                write.result(TIMEOUT_S)
            with pytest.raises(OSError, match="not connected"):
                os.close(file)


@pytest.mark.usefixtures("native")
def test_status_tells_which_file_waits(
    ceph: Ceph, pool: str, image: str, mounting: Mounting
) -> None:
    began = time.monotonic()
    with mounting(pool) as mount, opened(mount.file(image), os.O_RDWR) as file:
        assert os.pread(file, 4096, 0) == random_bytes(4096)
        assert [each["waits_s"] for each in ask(mount, "status")["files"]] == [0.0]
        with standing_still(ceph, 0):

            def waits_s() -> float:
                (seconds,) = [each["waits_s"] for each in ask(mount, "status")["files"]]
                return float(seconds)

            assert eventually(waits_s, 10.0, "a file that waits") <= time.monotonic() - began
        eventually(lambda: waits_s() == 0.0, what="one that goes on")
