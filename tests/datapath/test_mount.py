"""The data path behind real mounts: real files, fio, faults, shutdown."""

from __future__ import annotations

import errno
import fcntl
import json
import mmap
import os
import select
import shutil
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from rbdfs.datapath.native import FOPEN_PARALLEL_DIRECT_WRITES
from rbdfs.kernel import connection
from tests.datapath.conftest import SIZE
from tests.support.conditions import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.ceph import Ceph

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 and shutil.which("fusermount3") is None, reason="no right to mount"
)
TIMEOUT_S = 30.0
PARALLEL = FOPEN_PARALLEL_DIRECT_WRITES
FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE = 1, 2


class Server:
    """The test's file system, in a process of its own."""

    def __init__(self, mountpoint: Path, config: dict[str, Any]) -> None:
        self.dir = mountpoint
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.datapath.server", str(mountpoint), json.dumps(config)],
            cwd=Path(__file__).resolve().parents[2],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def _line(self) -> Any:
        assert self.process.stdout
        readable, _, _ = select.select([self.process.stdout], [], [], TIMEOUT_S)
        line = self.process.stdout.readline() if readable else ""
        if not line:
            self.process.kill()
            raise AssertionError(self.process.communicate()[1])
        return json.loads(line)

    def wait_ready(self) -> None:
        assert self._line() == "ready"

    def ask(self, *command: object) -> Any:
        assert self.process.stdin
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()
        return self._line()

    def end(self) -> None:
        """It has nothing to complain about, and ends by itself after umount."""
        _, stderr = self.process.communicate(timeout=TIMEOUT_S)
        assert (self.process.returncode, stderr) == (0, "")


@contextmanager
def mounted(mountpoint: Path, config: dict[str, Any]) -> Iterator[Server]:
    server = Server(mountpoint, config)
    try:
        server.wait_ready()
        yield server
        if os.path.ismount(mountpoint):
            connection.unmount(str(mountpoint))
        server.end()
    finally:
        if server.process.poll() is None:
            server.process.kill()
            server.process.communicate()
            connection.unmount(str(mountpoint), lazy=True)


@pytest.fixture(scope="module")
def config(ceph: Ceph, pool: str) -> dict[str, Any]:
    """`a` in the page cache, its snapshot, `b` and a part of it without."""
    for name in ("a", "b"):
        ceph.rbd("create", f"--size={SIZE}B", f"{pool}/{name}")
    ceph.rbd("snap", "create", "--no-progress", f"{pool}/a@s")
    files = [
        {"name": "a", "image": "a"},
        {"name": "b", "image": "b", "flags": PARALLEL, "direct_io": True},
        {"name": "a@s", "image": "a", "snapshot": "s"},
        {"name": "part", "image": "b", "offset": 1 << 20, "length": 1 << 20, "direct_io": True},
    ]
    return {"conf": str(ceph.conf), "pool": pool, "files": files}


@pytest.fixture
def server(tmp_path: Path, config: dict[str, Any]) -> Iterator[Server]:
    with mounted(tmp_path, config) as server:
        yield server


def direct_pattern(byte: bytes, size: int) -> mmap.mmap:
    """A page-aligned buffer for O_DIRECT."""
    memory = mmap.mmap(-1, size)
    memory.write(byte * size)
    return memory


def test_buffered_and_direct_data(server: Server) -> None:
    data = os.urandom(SIZE)
    path = server.dir / "a"
    with path.open("r+b") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    assert path.read_bytes() == data
    fd = os.open(path, os.O_RDWR | os.O_DIRECT | os.O_DSYNC)
    try:
        assert os.pwrite(fd, direct_pattern(b"x", 1 << 20), 1 << 20) == 1 << 20
        memory = mmap.mmap(-1, 2 << 20)
        assert os.preadv(fd, [memory], (1 << 20) - 4096) == 2 << 20
    finally:
        os.close(fd)
    expected = data[: 1 << 20] + b"x" * (1 << 20) + data[2 << 20 :]
    assert memory[:] == expected[(1 << 20) - 4096 :][: 2 << 20]
    assert (server.dir / "a@s").read_bytes() == bytes(SIZE)
    stats = server.ask("stats")
    assert stats["reads"]
    assert stats["writes"]
    assert stats["reply_errors"] == stats["malformed"] == stats["undelivered"] == 0


def test_shared_mapping(server: Server) -> None:
    with (server.dir / "a").open("r+b") as file, mmap.mmap(file.fileno(), SIZE) as memory:
        memory[4095:4105] = b"0123456789"
        memory.flush()
        fd = os.open(server.dir / "a", os.O_RDONLY | os.O_DIRECT)
        try:
            read = mmap.mmap(-1, 8192)
            assert os.preadv(fd, [read], 0) == 8192
        finally:
            os.close(fd)
    assert read[4095:4105] == b"0123456789"


def test_requests_have_a_megabyte(server: Server) -> None:
    before = server.ask("stats")
    fd = os.open(server.dir / "b", os.O_RDWR | os.O_DIRECT)
    try:
        os.pwrite(fd, direct_pattern(b"y", 4 << 20), 0)
        os.preadv(fd, [mmap.mmap(-1, 4 << 20)], 0)
    finally:
        os.close(fd)
    after = server.ask("stats")
    assert after["writes"] - before["writes"] == 4
    assert after["reads"] - before["reads"] == 4


@pytest.mark.parametrize("engine", ["libaio", "io_uring"])
@pytest.mark.parametrize(("name", "direct"), [("a", 1), ("a", 0), ("b", 1)])
def test_fio_verifies(server: Server, engine: str, name: str, direct: int) -> None:
    if shutil.which("fio") is None:
        pytest.skip("fio is not installed")
    job = [
        "fio",
        "--name=verify",
        f"--filename={server.dir / name}",
        f"--ioengine={engine}",
        f"--direct={direct}",
        "--rw=randrw",
        "--bsrange=512-256k" if direct else "--bsrange=100-100k",
        f"--bs_unaligned={1 - direct}",
        "--iodepth=32",
        f"--size={SIZE}",
        "--io_size=64M",
        "--verify=crc32c",
        "--verify_fatal=1",
        "--do_verify=1",
        "--allow_file_create=0",
        "--fallocate=none",
        "--fsync=64",
    ]
    done = subprocess.run(job, capture_output=True, text=True, timeout=60, cwd="/")
    assert done.returncode == 0, done.stdout + done.stderr
    stats = server.ask("stats")
    assert stats["errors"] == stats["reply_errors"] == 0


def test_end_of_the_file(server: Server) -> None:
    fd = os.open(server.dir / "part", os.O_RDWR | os.O_DIRECT)
    try:
        assert os.pwrite(fd, direct_pattern(b"z", 1 << 20), 4096) == (1 << 20) - 4096
        with pytest.raises(OSError, match="No space") as caught:
            os.pwrite(fd, direct_pattern(b"z", 4096), 1 << 20)
        assert caught.value.errno == errno.ENOSPC
        assert os.preadv(fd, [mmap.mmap(-1, 8192)], (1 << 20) - 4096) == 4096
        assert os.preadv(fd, [mmap.mmap(-1, 8192)], 1 << 20) == 0
    finally:
        os.close(fd)
    with pytest.raises(OSError, match="Read-only") as caught:
        os.open(server.dir / "a@s", os.O_RDWR)
    assert caught.value.errno == errno.EROFS


def test_requests_of_python(server: Server) -> None:
    path = server.dir / "b"
    with path.open("r+b") as file:
        file.write(b"x" * 8192)
        file.flush()
        os.fsync(file.fileno())
        subprocess.run(["fallocate", "-p", "-o", "1024", "-l", "2048", path], check=True)
        assert os.lseek(file.fileno(), 100, os.SEEK_HOLE) == SIZE
        assert os.lseek(file.fileno(), 100, os.SEEK_DATA) == 100
        with pytest.raises(OSError, match="No such device or address") as caught:
            os.lseek(file.fileno(), SIZE, os.SEEK_DATA)
        assert caught.value.errno == errno.ENXIO
    assert path.read_bytes()[:8192] == b"x" * 1024 + bytes(2048) + b"x" * 5120


def test_mount_of_a_file(tmp_path: Path, config: dict[str, Any]) -> None:
    mountpoint = tmp_path / "file"
    mountpoint.touch()
    root = {key: value for key, value in config.items() if key != "files"}
    root["root"] = {"name": "a", "image": "a"}
    with mounted(mountpoint, root) as server:
        data = os.urandom(65536)
        with mountpoint.open("r+b") as file:
            file.write(data)
        assert mountpoint.read_bytes()[:65536] == data
        assert server.ask("stats")["writes"]


def test_length_follows(server: Server) -> None:
    with (server.dir / "a").open("rb", buffering=0) as file:
        server.ask("length", "a", 4096)
        fd = os.open(server.dir / "a", os.O_RDONLY | os.O_DIRECT)
        try:
            assert os.preadv(fd, [mmap.mmap(-1, 8192)], 0) == 4096
        finally:
            os.close(fd)
            server.ask("length", "a", SIZE)
        assert file.fileno()


def in_thread(results: list[object], call: Any, *arguments: Any) -> threading.Thread:
    """The result of a call that blocks, or its OSError, at the end of the list."""

    def run() -> None:
        try:
            results.append(call(*arguments))
        except OSError as exc:
            results.append(exc)

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def test_stuck_cluster_stops_only_its_images(
    tmp_path: Path, config: dict[str, Any], ceph: Ceph
) -> None:
    """And what has waited for too long is answered, and so is all that follows on its image."""
    settings = {"rados_osd_op_timeout": "3"}
    with mounted(tmp_path, config | {"settings": settings}) as server:
        fds = [os.open(server.dir / name, os.O_RDWR | os.O_DIRECT) for name in ("b", "a")]
        results: list[object] = []
        try:
            with ceph.stalled("osd.0"):
                threads = [
                    in_thread(results, os.pwrite, fds[0], direct_pattern(b"x", 4096), i * 4096)
                    for i in range(40)
                ]
                eventually(lambda: server.ask("stats")["active"] == 40, what="40 writes under way")
                assert len(os.listdir(server.dir)) == 4
                assert os.stat(server.dir / "a").st_size == SIZE
                for thread in threads:
                    thread.join(TIMEOUT_S)
                assert [getattr(exc, "errno", 0) for exc in results] == [errno.ETIMEDOUT] * 40
            assert os.pwrite(fds[1], direct_pattern(b"y", 4096), 0) == 4096
            with pytest.raises(TimeoutError):
                os.pread(fds[0], 1, 0)
        finally:
            # close() flushes, and a failed image says so.
            for fd in fds:
                in_thread([], os.close, fd).join(TIMEOUT_S)


def test_killed_caller(server: Server, ceph: Ceph) -> None:
    """Its request is interrupted, and answered all the same."""
    command = ["dd", f"if={server.dir / 'b'}", "of=/dev/null", "bs=4096", "count=1", "iflag=direct"]
    with ceph.stalled("osd.0"):
        reader = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        eventually(lambda: server.ask("stats")["active"], what="the read waits for the OSD")
        reader.kill()
        assert os.listdir(server.dir)
        assert server.ask("stats")["active"]
    reader.wait(TIMEOUT_S)
    assert (server.dir / "b").read_bytes()
    # A request is over after its answer.
    eventually(lambda: server.ask("stats")["active"] == 0, what="the end of all requests")


def test_release_comes_after_each_open(server: Server) -> None:
    for _ in range(10):
        (server.dir / "a").open("rb").close()
    eventually(lambda: len(server.ask("released")) == 10, what="ten releases")
    eventually(lambda: server.ask("stats")["registered"] == 0, what="the end of all handles")


def read_start(path: Path, times: int) -> None:
    for _ in range(times):
        fd = os.open(path, os.O_RDONLY)
        os.read(fd, 4096)
        os.close(fd)


def test_nothing_leaks(server: Server) -> None:
    path = server.dir / "a"
    read_start(path, 2000)
    eventually(lambda: server.ask("stats")["registered"] == 0, what="all are released")
    fds, memory = server.ask("stats")["fds"], server.ask("rss")
    read_start(path, 10_000)
    eventually(lambda: server.ask("stats")["registered"] == 0, what="all are released")
    assert server.ask("stats")["fds"] == fds
    # The test's file system remembers each release: 8 bytes and a number.
    assert server.ask("rss") - memory < 4 << 20


def test_umount_under_load(tmp_path: Path, config: dict[str, Any], ceph: Ceph) -> None:
    """Busy is refused; a lazy one lets who has files open go on; an abort ends it for all."""
    with mounted(tmp_path, config) as server:
        fd = os.open(server.dir / "a", os.O_RDWR)
        device = os.stat(tmp_path).st_dev
        with pytest.raises(OSError, match="busy") as caught:
            connection.unmount(str(tmp_path))
        assert caught.value.errno == errno.EBUSY
        connection.unmount(str(tmp_path), lazy=True)
        assert os.pwrite(fd, b"after", 0) == 5
        os.fsync(fd)
        results: list[object] = []
        with ceph.stalled("osd.0"):
            thread = in_thread(results, os.pwrite, fd, b"again", 0)
            eventually(lambda: server.ask("stats")["active"], what="a request is under way")
        thread.join(TIMEOUT_S)
        assert results == [5]
        abort = Path(f"/sys/fs/fuse/connections/{os.minor(device)}/abort")
        if os.geteuid() == 0 and abort.exists():
            abort.write_text("1")
        # It has nothing to flush, or says that the connection is gone; the descriptor is closed.
        in_thread([], os.close, fd).join(TIMEOUT_S)


def test_locks_are_local(server: Server) -> None:
    with (server.dir / "a").open("r+b") as first, (server.dir / "a").open("r+b") as second:
        fcntl.flock(first, fcntl.LOCK_EX)
        with pytest.raises(BlockingIOError):
            fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
