"""Requests that the kernel sends again to a new server: each is carried out once, and answered."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
import rbd

from tests.support import crashes
from tests.support.conditions import eventually
from tests.support.images import MIB, export_image, import_image, open_image, random_bytes
from tests.support.mounts import opened, wait_for_end
from tests.support.quota import pool_with_a_quota
from tests.support.refusals import refusal
from tests.support.servers import ask, kill_server, server_of, wait_for_server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.support.ceph import Ceph
    from tests.support.mounts import Mount, Mounting

pytestmark = pytest.mark.usefixtures("native")

ENDED = r"ERROR .*server \d+ was killed \(signal 9\)"


def make(path: Path) -> None:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        assert os.pwrite(descriptor, b"made", 4092) == 4
    finally:
        os.close(descriptor)
    assert path.read_bytes() == bytes(4092) + b"made"


def make_odd(path: Path) -> None:
    """A name that is not UTF-8."""
    make(path.with_name("new%FF"))


def link(path: Path) -> None:
    os.link(path.with_name("vm1"), path.with_name("vm1@made"))
    assert path.with_name("vm1@made").stat().st_size == MIB


def unlink(path: Path) -> None:
    path.with_name("vm1").unlink()
    assert not path.with_name("vm1").exists()


def rename(path: Path) -> None:
    path.with_name("vm1").rename(path)
    assert path.read_bytes() == random_bytes(MIB)
    assert not path.with_name("vm1").exists()
    # The old name is free.
    path.with_name("vm1").touch(exist_ok=False)


def rename_over(path: Path) -> None:
    path.write_bytes(b"old")
    rename(path)


def mkdir(path: Path) -> None:
    path.mkdir()
    assert path.is_dir()


def rmdir(path: Path) -> None:
    path.with_name("empty").rmdir()
    assert not path.with_name("empty").exists()


def open_for_writing(path: Path) -> None:
    with opened(path.with_name("vm1"), os.O_RDWR | os.O_DIRECT):
        pass


def empty(path: Path) -> None:
    with opened(path.with_name("vm1"), os.O_WRONLY) as file:
        os.ftruncate(file, 0)
        assert os.pwrite(file, b"new", 0) == 3
    assert path.with_name("vm1").read_bytes() == b"new"


def write_over(path: Path) -> None:
    path.with_name("vm1").write_bytes(b"new")
    assert path.with_name("vm1").read_bytes() == b"new"


def open_directory(path: Path) -> None:
    assert "vm1" in os.listdir(path.parent)


OPERATIONS = "rbdfs.fuse.operations:Operations"
MANAGEMENT = "rbdfs.names.manage:Management"
STEPS: list[tuple[Callable[[Path], None], str]] = [
    (make, "barely create"),
    (make_odd, "barely create"),
    (make, "half create"),
    (make, f"before {MANAGEMENT}.create"),
    (make, f"after {MANAGEMENT}.create"),
    (make, "after rbdfs.files.table:HandleTable.open"),
    (make, f"after {OPERATIONS}.create"),
    (link, f"after {MANAGEMENT}.snapshot"),
    (link, f"after {OPERATIONS}.link"),
    (unlink, "half trash"),
    (unlink, f"after {MANAGEMENT}.unlink"),
    (unlink, f"after {OPERATIONS}.unlink"),
    (rename, "half rename"),
    (rename, "nearly rename"),
    (rename, f"after {MANAGEMENT}.rename"),
    (rename, f"after {OPERATIONS}.rename"),
    (rename_over, "before rbdfs.names.trash:Trash.move"),
    (rename_over, "half trash"),
    (rename_over, "after rbdfs.names.trash:Trash.move"),
    (rename_over, f"after {MANAGEMENT}.rename"),
    (rename_over, f"after {OPERATIONS}.rename"),
    (mkdir, f"after {MANAGEMENT}.make_namespace"),
    (mkdir, f"after {OPERATIONS}.mkdir"),
    (rmdir, f"after {MANAGEMENT}.remove_namespace"),
    (rmdir, f"after {OPERATIONS}.rmdir"),
    (open_for_writing, "after rbdfs.files.table:HandleTable.open"),
    (open_for_writing, f"after {OPERATIONS}.open"),
    (empty, "after rbdfs.files.shared_image:SharedImage.resize"),
    (empty, f"after {OPERATIONS}.setattr"),
    (write_over, "after rbdfs.files.shared_image:SharedImage.resize"),
    (write_over, f"after {OPERATIONS}.open"),
    (open_directory, f"after {OPERATIONS}.opendir"),
]


def describe(value: object) -> str:
    name = getattr(value, "__name__", None)
    return str(name or value).replace(" ", "-")


@pytest.fixture
def place(ceph: Ceph) -> Iterator[str]:
    """A pool with image `vm1` and namespace `empty`."""
    with ceph.temporary_pool() as pool:
        import_image(ceph, f"{pool}/vm1", random_bytes(MIB))
        ceph.rbd("namespace", "create", f"{pool}/empty")
        yield pool


def assert_nothing_is_open(mount: Mount) -> None:
    """No file of a request that was carried out twice is left open."""
    eventually(lambda: ask(mount, "status")["open_files"] == 0, what="no file is open")
    assert ask(mount, "status")["requests"]["unwanted"] == 0


@pytest.mark.parametrize(("operation", "step"), STEPS, ids=describe)
def test_server_killed_at_a_step(
    place: str, mounting: Mounting, operation: Callable[[Path], None], step: str
) -> None:
    """The caller sees a pause, and the result of one operation."""
    control = mounting.directory / "step"
    control.write_text(step)
    program = [sys.executable, crashes.__file__, str(control)]
    with mounting(place, "-o", "manage=snapshots", program=program) as mount:
        mount.expect_log(ENDED)
        operation(mount.file("new"))
        assert not control.exists(), "the server was not killed"
        wait_for_server(mount, 2)
        # The next one is told of what stands in its way.
        assert_nothing_is_open(mount)
        with opened(mount.file("next"), os.O_RDWR | os.O_CREAT | os.O_EXCL):
            pass
        with pytest.raises(FileExistsError):
            os.close(os.open(mount.file("next"), os.O_RDWR | os.O_CREAT | os.O_EXCL))


@contextlib.contextmanager
def stopped_server_after(mount: Mount, killed: int) -> Iterator[None]:
    """The successor of a server that was killed stands still for the time of the block."""

    def successor() -> int | None:
        pid = server_of(mount)
        return None if pid == killed else pid

    pid = eventually(successor, what="a new server")
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def test_what_was_replaced_comes_back_where_the_renaming_fails(
    ceph: Ceph, place: str, mounting: Mounting
) -> None:
    """One server moves it to the trash, and the next one cannot rename the other to its name."""
    control = mounting.directory / "step"
    program = [sys.executable, crashes.__file__, str(control)]
    control.write_text("after rbdfs.names.trash:Trash.move")
    with mounting(place, "-o", "manage", program=program) as mount, ThreadPoolExecutor(1) as thread:
        mount.expect_log(ENDED)
        old, new = mount.file("vm1"), mount.file("new")
        new.write_bytes(b"replaced")
        killed = server_of(mount)
        assert killed is not None
        with open_image(ceph, place, "vm1") as other:
            renaming = thread.submit(os.rename, old, new)
            with stopped_server_after(mount, killed):
                other.lock_exclusive("mine")
            wait_for_server(mount, 2)
            assert refusal(renaming.result) == "EBUSY"
        assert f"{place}/new is out of the trash again" in mount.log_text
        assert (new.read_bytes(), old.read_bytes()) == (b"replaced", random_bytes(MIB))
        assert ceph.rbd("trash", "ls", place) == ""


def open_new(path: Path) -> None:
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL))


def link_clone(path: Path) -> None:
    os.link(path.with_name("vm1@s"), path)


@pytest.mark.parametrize(("step", "begin"), [("no create", open_new), ("no clone", link_clone)])
def test_what_somebody_else_has_made_meanwhile_is_not_ours(
    ceph: Ceph, place: str, mounting: Mounting, step: str, begin: Callable[[Path], None]
) -> None:
    """One server dies when it begins to make an image, and another client makes it."""
    control = mounting.directory / "step"
    program = [sys.executable, crashes.__file__, str(control)]
    control.write_text(step)
    with open_image(ceph, place, "vm1") as image:
        image.create_snap("s")
        image.protect_snap("s")
    with mounting(place, "-o", "manage", program=program) as mount, ThreadPoolExecutor(1) as thread:
        mount.expect_log(ENDED)
        killed = server_of(mount)
        assert killed is not None
        with ceph.connect() as client, client.open_ioctx(place) as ioctx:
            making = thread.submit(begin, mount.file("new"))
            with stopped_server_after(mount, killed):
                rbd.RBD().clone(ioctx, "vm1", "s", ioctx, "new")
        assert refusal(making.result) == "EEXIST"
        assert mount.file("new").stat().st_size == MIB


def waits(name: str) -> bool:
    """Whether a thread of this process is in this system call (by number, x86-64)."""
    number = {"openat": "257", "pwrite64": "18"}[name]
    for task in os.listdir("/proc/self/task"):
        with contextlib.suppress(OSError), open(f"/proc/self/task/{task}/syscall") as file:
            if file.read().split(" ", 1)[0] == number:
                return True
    return False


def test_requests_of_an_outage_run_once(ceph: Ceph, place: str, mounting: Mounting) -> None:
    """What waited in the kernel while there was no server is carried out once."""
    with mounting(place) as mount, ThreadPoolExecutor(40) as threads:
        path = mount.file("vm1")
        with opened(path, os.O_RDWR) as file:
            killed = kill_server(mount)
            wait_for_end(killed)
            with stopped_server_after(mount, killed):
                opens = [threads.submit(os.open, path, os.O_RDWR | os.O_DIRECT) for _ in range(4)]
                writes = [
                    threads.submit(os.pwrite, file, b"%04d" % number, 4096 * number)
                    for number in range(32)
                ]
                eventually(lambda: waits("openat") and waits("pwrite64"), what="requests wait")
            for write in writes:
                assert write.result() == 4
            for descriptor in opens:
                os.close(descriptor.result())
        mount.expect_log(ENDED)
        wait_for_server(mount, 2)
        assert_nothing_is_open(mount)
    data = export_image(ceph, f"{place}/vm1")
    assert [data[4096 * n : 4096 * n + 4] for n in range(32)] == [b"%04d" % n for n in range(32)]


@pytest.mark.parametrize(
    ("step", "generation", "code"),
    [("abort", 4, -6), ("always", 7, -9)],
    ids=["by a signal of its own", "killed"],
)
def test_a_request_that_kills_each_server_fails_alone(
    ceph: Ceph, place: str, mounting: Mounting, step: str, generation: int, code: int
) -> None:
    """It is given up after three servers, and what waits beside it is served.

    Where they are killed, which others may have done, it is after six.
    """
    control = mounting.directory / "step"
    control.write_text(f"{step} {OPERATIONS}.getxattr")
    program = [sys.executable, crashes.__file__, str(control)]
    with (
        mounting(place, program=program, lifetime_s=180) as mount,
        ThreadPoolExecutor(1) as threads,
    ):
        path = mount.file("vm1")
        with opened(path, os.O_RDONLY) as file:
            poison = threads.submit(os.getxattr, path, "user.rbd.id")
            wait_for_server(mount, generation, timeout=120)
            assert refusal(poison.result) == "EIO"
            assert os.pread(file, MIB, 0) == random_bytes(MIB)
        status = ask(mount, "status")
        assert status["generation"] == generation
        assert status["requests"]["refused"] == 1
        mount.expect_log(
            rf"ERROR .*server \d+ was killed \(signal {-code}\)",
            r"opcode 22 on inode \d+\), sent again each time: it fails with EIO",
        )


def test_what_a_refused_request_has_opened_is_closed(
    ceph: Ceph, place: str, mounting: Mounting
) -> None:
    """The caller has no descriptor, and so the kernel never tells of a close."""
    control = mounting.directory / "step"
    control.write_text(f"abort {OPERATIONS}.open")
    program = [sys.executable, crashes.__file__, str(control)]
    with (
        mounting(place, program=program, lifetime_s=180) as mount,
        ThreadPoolExecutor(1) as threads,
    ):
        poison = threads.submit(os.open, mount.file("vm1"), os.O_RDWR)
        wait_for_server(mount, 4, timeout=120)
        assert refusal(poison.result) == "EIO"
        assert_nothing_is_open(mount)
        assert ceph.lock_owners(f"{place}/vm1") == []
        mount.expect_log(
            r"ERROR .*server \d+ was killed \(signal 6\)",
            r"sent again each time: it fails with EIO",
        )


def test_what_an_interrupted_open_has_opened_the_next_server_closes(
    ceph: Ceph, place: str, mounting: Mounting
) -> None:
    """The kernel sends neither the open again nor a close: it knows of no file."""
    control = mounting.directory / "step"
    control.write_text("hold rbdfs.fuse.mounted:Mounted.let_grow")
    program = [sys.executable, crashes.__file__, str(control)]
    with mounting(place, program=program) as mount:
        opening = f"import os; os.open({str(mount.file('vm1'))!r}, os.O_RDWR)"
        caller = subprocess.Popen([sys.executable, "-c", opening])
        try:
            eventually(lambda: ask(mount, "status")["open_files"] == 1, what="the file is open")
        finally:
            caller.kill()
        caller.wait(30)
        kill_server(mount)
        control.unlink()
        mount.expect_log(ENDED)
        wait_for_server(mount, 2)
        assert_nothing_is_open(mount)
        eventually(lambda: ceph.lock_owners(f"{place}/vm1") == [], what="no lock is kept")
        with opened(mount.file("vm1"), os.O_RDWR) as file:
            assert os.pread(file, MIB, 0) == random_bytes(MIB)


def test_a_request_that_waits_outlives_servers_that_are_killed(
    ceph: Ceph, image_name: str, mounting: Mounting
) -> None:
    """None of them died of it."""
    full = f"full-{image_name}"
    data = random_bytes(MIB)
    over = threading.Event()

    def write(file: int) -> int:
        count = 0
        while not over.is_set():
            assert os.pwrite(file, b"w" * 4096, 0) == 4096
            count += 1
        return count

    with pool_with_a_quota(ceph, full) as set_quota:
        import_image(ceph, f"{full}/vm1", data)
        with (
            mounting(full, lifetime_s=180) as mount,
            opened(mount.file("vm1"), os.O_RDWR) as file,
            ThreadPoolExecutor(1) as threads,
        ):
            set_quota(1)
            writing = threads.submit(write, file)
            # The first may have written once more before it heard that the pool is full.
            for generation in range(2, 7):
                kill_server(mount)
                wait_for_server(mount, generation, timeout=60)
            set_quota(0)
            over.set()
            assert writing.result() > 0
            assert ask(mount, "status")["requests"]["refused"] == 0
            mount.expect_log(ENDED)
        assert export_image(ceph, f"{full}/vm1") == b"w" * 4096 + data[4096:]
