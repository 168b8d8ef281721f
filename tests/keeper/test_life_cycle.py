"""The keeper and its server: asked, signalled, killed, given up; and the mount meanwhile."""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from rbdfs.kernel import connection
from tests.support.ceph import run
from tests.support.conditions import eventually
from tests.support.images import MIB, export_image, import_image, open_image, random_bytes
from tests.support.mounts import TIMEOUT_S, mounted, opened, wait_for_end
from tests.support.refusals import refusal
from tests.support.servers import (
    ask,
    kill_server,
    killed_server,
    server_of,
    signal_server,
    standing_still,
    wait_for_server,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.ceph import Ceph
    from tests.support.mounts import Mount, Mounting

pytestmark = pytest.mark.usefixtures("native")

SIGNALS = [signal.SIGTERM, signal.SIGINT]


def test_server_allocates_with_tcmalloc(mount: Mount) -> None:
    """The keeper, which does next to nothing, does not."""
    servers, keepers = (
        Path(f"/proc/{pid}/maps").read_text() for pid in (server_of(mount), mount.pid)
    )
    assert "/libtcmalloc_minimal.so.4" in servers
    assert "tcmalloc" not in keepers


def assert_unused(ceph: Ceph, spec: str) -> None:
    assert ceph.watchers(spec) == []
    assert ceph.lock_owners(spec) == []


def test_ps_tells_which_mount_a_server_is_of(pool: str, mount: Mount) -> None:
    """As the keeper's own command line does."""
    words = Path(f"/proc/{server_of(mount)}/cmdline").read_bytes().split(b"\0")
    assert words[-2] == os.fsencode(f"{pool} on {mount.path}")


def test_status(ceph: Ceph, pool: str, image: str, mounting: Mounting) -> None:
    with mounting(pool) as mount:
        status = ask(mount, "status")
        server = server_of(mount)
        assert (status["mountpoint"], status["source"]) == (str(mount.path), pool)
        assert (status["keeper"], status["server"]) == (mount.pid, server)
        assert (status["generation"], status["state"]) == (1, "serving")
        assert (status["last_fault"], status["files"]) == ("none", [])
        with opened(mount.file(image), os.O_RDWR), opened(mount.file(image), os.O_RDONLY):
            files = ask(mount, "status")["files"]
            assert [file["spec"] for file in files] == [f"{pool}/{image}"] * 2
            assert [(file["writable"], file["locked"]) for file in files] == [
                (True, True),
                (False, True),
            ]
            killed_server(mount)
            status = ask(mount, "status")
            assert len(status["files"]) == 2
            assert status["generation"] == 2
            assert status["last_fault"] == "server 1 was killed (signal 9)"
            assert status["server"] not in (server, None)


def test_status_of_many_open_files(
    ceph: Ceph, pool: str, image_name: str, mounting: Mounting
) -> None:
    """More than a message holds."""
    image = f"{image_name}-{'x' * 200}"
    import_image(ceph, f"{pool}/{image}", random_bytes(MIB))
    with mounting(pool) as mount:
        files = [os.open(mount.file(image), os.O_RDONLY) for _ in range(900)]
        try:
            status = ask(mount, "status")
            assert status["open_files"] == 900
            killed_server(mount)
            assert [os.pread(file, 1, 0) for file in files] == [random_bytes(MIB)[:1]] * 900
        finally:
            for file in files:
                with contextlib.suppress(OSError):
                    os.close(file)
        assert mount.alive


@pytest.mark.slow
def test_server_that_dies_at_once_is_given_up(
    ceph: Ceph, pool: str, image: str, mounting: Mounting
) -> None:
    with mounting(pool, exit_code=1, lifetime_s=90) as mount:
        path = mount.file(image)
        file = os.open(path, os.O_RDWR | os.O_DIRECT)
        mount.expect_log(r"ERROR .*server 8 was killed \(signal 9\)", "CRITICAL .*giving up")
        mount.expect_log(r"ERROR .*server \d was killed \(signal 9\)")
        while "giving up" not in mount.log_text:
            pid = server_of(mount)
            if pid is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                wait_for_end(pid)
        calls: dict[str, Callable[[], object]] = {
            "read": lambda: path.read_bytes(),
            "fsync": lambda: os.fsync(file),
            "ls": lambda: os.listdir(mount.path),
            "statfs": lambda: os.statvfs(mount.path),
            "lookup": lambda: mount.file("nothing").stat(),
        }
        assert {name: refusal(call) for name, call in calls.items()} == dict.fromkeys(calls, "EIO")
        # An empty directory in its place would be mirrored as a deletion of everything.
        assert mounted(mount.path)
        status = ask(mount, "status")
        assert (status["state"], status["server"]) == ("given up", None)
        # An operator may try once more.
        assert ask(mount, "restart")["state"] == "serving"
        assert path.read_bytes() == random_bytes(MIB)
        os.close(file)
        mount.exit_code = 0
        mount.signal(signal.SIGTERM)
        assert mount.wait() == 0
        assert not mounted(mount.path)
        assert_unused(ceph, f"{pool}/{image}")


def test_signal_while_no_server_is_there(
    ceph: Ceph, pool: str, image: str, mounting: Mounting
) -> None:
    with mounting(pool, exit_code=1) as mount:
        mount.expect_log(r"ERROR .*server 1 was killed \(signal 9\)")
        file = os.open(mount.file(image), os.O_RDWR)
        pid = signal_server(mount, signal.SIGSTOP, after=kill_server(mount))
        mount.signal(signal.SIGTERM)
        assert mount.wait(5.0) == 1
        wait_for_end(pid)
        assert not mounted(mount.path)
        assert refusal(lambda: os.pread(file, 1, MIB // 2)) in ("ENOTCONN", "ECONNABORTED")
        with pytest.raises(OSError, match="not connected"):
            os.close(file)


def test_keeper_killed(ceph: Ceph, pool: str, image: str, mounting: Mounting) -> None:
    with mounting(pool, exit_code=-signal.SIGKILL) as mount:
        server = server_of(mount)
        assert server is not None
        file = os.open(mount.file(image), os.O_RDWR)
        os.pwrite(file, b"synced", 0)
        os.fsync(file)
        # One that stands still has to go too.
        os.kill(server, signal.SIGSTOP)
        mount.expect_log("CRITICAL .*the keeper is gone: closing what is open")
        mount.signal(signal.SIGKILL)
        mount.wait()
        wait_for_end(server)
        # Whoever comes next need not wait for a client that is dead.
        assert_unused(ceph, f"{pool}/{image}")
        for use in (
            lambda: os.pread(file, 1, MIB // 2),
            lambda: os.listdir(mount.path),
            lambda: os.statvfs(mount.path),
            lambda: os.close(file),
        ):
            assert refusal(use) in ("ENOTCONN", "ECONNABORTED")
        assert mounted(mount.path)
        with mounting(pool, mountpoint=mount.path) as again:
            again.allow_log("WARNING .*a mount died here as a whole")
            assert again.file(image).read_bytes()[:6] == b"synced"


@pytest.mark.parametrize("signum", SIGNALS)
@pytest.mark.parametrize("whom", ["server", "both"])
def test_signal_ends_the_mount(
    ceph: Ceph, pool: str, image: str, mounting: Mounting, whom: str, signum: signal.Signals
) -> None:
    """A service manager signals every process: that is one request to end, not two."""
    with mounting(pool) as mount:
        file = os.open(mount.file(image), os.O_RDWR)
        os.pwrite(file, b"written", 0)
        server = signal_server(mount, signum)
        if whom == "both":
            mount.signal(signum)
        assert mount.wait() == 0
        wait_for_end(server)
        assert not mounted(mount.path)
        assert_unused(ceph, f"{pool}/{image}")
        with pytest.raises(OSError, match="not connected"):
            os.close(file)
    assert export_image(ceph, f"{pool}/{image}")[:7] == b"written"


def test_terminal_that_is_closed(pool: str, image: str, mounting: Mounting) -> None:
    with mounting(pool) as mount:
        mount.signal(signal.SIGHUP)
        signal_server(mount, signal.SIGHUP)
        assert mount.file(image).read_bytes() == random_bytes(MIB)
        assert mount.alive
        assert ask(mount, "status")["generation"] == 1


# It has the file open when the OSD stops, and is a process of its own: whoever starts one while it
# holds a file waits in the FLUSH of its copy.
WRITER = """
import os, sys
file = os.open(sys.argv[1], os.O_RDWR | os.O_DSYNC)
print("open", flush=True)
input()
os.pwrite(file, bytes(4096), 0)
"""


def test_signal_with_the_cluster_away(
    ceph: Ceph, pool: str, image: str, mounting: Mounting
) -> None:
    """It ends within its deadline, though not well; a second signal ends it at once."""
    with mounting(pool, exit_code=1) as mount:
        mount.expect_log("ERROR .*second signal: leaving at once")
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, str(mount.file(image))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as writer:
            assert writer.stdin is not None
            assert writer.stdout is not None
            assert writer.stdout.readline() == "open\n"
            with standing_still(ceph, 0):
                writer.stdin.write("go\n")
                writer.stdin.flush()
                eventually(lambda: ask(mount, "status")["requests"]["active"], what="the write")
                mount.signal(signal.SIGTERM)
                eventually(lambda: "SIGTERM" in mount.log_text, what="the first signal")
                mount.signal(signal.SIGTERM)
                assert mount.wait() == 1
                assert not mounted(mount.path)
                _, stderr = writer.communicate(timeout=TIMEOUT_S)
            assert "Transport endpoint is not connected" in stderr or "abort" in stderr


def test_cluster_away_during_a_restart(
    ceph: Ceph, pool: str, image: str, mounting: Mounting
) -> None:
    """Whoever has a file open waits, as on any block device, and goes on."""
    with mounting(pool, "--connect-timeout", "2") as mount:
        mount.expect_log(r"ERROR .*server 1 was killed \(signal 9\)")
        mount.expect_log("ERROR .*server 2 failed: .*did not answer")
        # In a process of its own: a fork of this one could not close its copy of the file.
        with subprocess.Popen(
            ["dd", f"of={mount.file(image)}", "bs=4", "conv=notrunc,fsync"],
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as writer:
            eventually(lambda: ceph.watchers(f"{pool}/{image}"), what="the open")
            with ceph.stalled("mon.a"):
                kill_server(mount)
                eventually(lambda: "server 2 failed" in mount.log_text, what="the first try")
                assert ask(mount, "status")["state"] == "no server"
                assert writer.stdin is not None
                writer.stdin.write(b"late")
                writer.stdin.close()
                with pytest.raises(subprocess.TimeoutExpired):
                    writer.wait(0.5)
            assert writer.wait(TIMEOUT_S) == 0
        assert mount.alive
    assert export_image(ceph, f"{pool}/{image}")[:4] == b"late"


ENDINGS = {
    "umount -c": lambda mount: run("umount", "-c", str(mount.path)),
    "umount -l": lambda mount: run("umount", "-l", str(mount.path)),
    "fusermount3": lambda mount: run("fusermount3", "-u", str(mount.path)),
    "SIGTERM": lambda mount: mount.signal(signal.SIGTERM),
}


@pytest.mark.parametrize("end", ENDINGS.values(), ids=ENDINGS)
def test_ended_while_no_server_can_start(
    ceph: Ceph, pool: str, image: str, mounting: Mounting, end: Callable[[Mount], object]
) -> None:
    with mounting(pool, "--connect-timeout", "1", exit_code=1) as mount:
        mount.expect_log("ERROR .*server 1 was killed", "ERROR .*did not answer")
        mount.allow_log("ERROR .*taken away")
        with ceph.stalled("mon.a"):
            kill_server(mount)
            eventually(lambda: "server 2 failed" in mount.log_text, what="the first try")
            with subprocess.Popen(["umount", mount.path], stderr=subprocess.PIPE) as waiting:
                # By itself it looks at the mount point first, keeps it busy with that, and can
                # be killed: nobody has read what it asks.
                eventually(lambda: in_stat(waiting.pid), what="a look at the mount point")
                waiting.kill()
            end(mount)
            assert mount.wait() == 1
            assert not mounted(mount.path)


def in_stat(pid: int) -> bool:
    """Whether a process waits in newfstatat(2), or, since util-linux 2.41, in fstatfs(2)."""
    with open(f"/proc/{pid}/syscall", encoding="ascii") as syscall:
        return syscall.read().startswith(("262 ", "138 "))


def test_lazy_umount_while_no_server_can_start(
    ceph: Ceph, pool: str, image: str, mounting: Mounting
) -> None:
    """A file that is open goes on when the cluster is back; the mount ends with its last one."""
    with mounting(pool, "--connect-timeout", "1") as mount:
        mount.expect_log("ERROR .*server 1 was killed", "ERROR .*did not answer")
        file = os.open(mount.file(image), os.O_RDWR | os.O_DIRECT)
        with ceph.stalled("mon.a"):
            kill_server(mount)
            eventually(lambda: "server 2 failed" in mount.log_text, what="the first try")
            connection.unmount(str(mount.path), lazy=True)
            assert not mounted(mount.path)
        buffer = mmap.mmap(-1, 4096)
        buffer[:] = b"l" * 4096
        assert os.pwritev(file, [buffer], 0) == 4096
        os.fsync(file)
        assert mount.process.poll() is None
        os.close(file)
        assert mount.wait() == 0
    assert export_image(ceph, f"{pool}/{image}") == b"l" * 4096 + random_bytes(MIB)[4096:]


def test_fenced_by_somebody_else_while_no_server_was_there(
    ceph: Ceph, pool: str, image: str, mounting: Mounting
) -> None:
    """Others may have written: whoever goes on with an open file would write over that."""
    import_image(ceph, f"{pool}/{image}-other", random_bytes(MIB, seed=3))
    with mounting(pool) as mount:
        path = mount.file(image)
        file = os.open(path, os.O_RDWR | os.O_DIRECT)
        buffered = os.open(path, os.O_RDWR)
        assert os.pread(buffered, 4096, 512 << 10)  # into the page cache
        reader = os.open(mount.file(f"{image}-other"), os.O_RDONLY)
        (owner,) = ceph.lock_owners(f"{pool}/{image}")
        server = signal_server(mount, signal.SIGSTOP)
        # What `rbd lock rm` does, and any client that takes a lock from a dead owner. No process
        # is started from here on: its copy of the file would be closed by the server.
        with ceph.connect() as cluster:
            cluster.blocklist_add(owner, 3600)
        with open_image(ceph, pool, image) as other:
            other.write(b"theirs", 0)
        os.kill(server, signal.SIGKILL)
        wait_for_end(server)
        wait_for_server(mount, 2)
        mount.expect_log("ERROR .*server 1 was killed", "ERROR .*fenced by somebody else")
        mount.expect_log(
            "WARNING .*open files of .* are lost", "WARNING .*(read|write|fsync|flush):"
        )
        buffer = mmap.mmap(-1, 4096)
        for call in (
            lambda: os.preadv(file, [buffer], 0),
            lambda: os.pwritev(file, [buffer], 0),
            lambda: os.fsync(file),
        ):
            assert refusal(call) == "ESHUTDOWN"
        # What others have written since, its pages do not have.
        eventually(
            lambda: refusal(lambda: os.pread(buffered, 4096, 512 << 10)) == "ESHUTDOWN",
            what="the pages to be dropped",
        )
        with contextlib.suppress(OSError):
            os.close(buffered)
        # Neither for the next server.
        assert ask(mount, "restart")["generation"] == 3
        assert refusal(lambda: os.fsync(file)) == "ESHUTDOWN"
        assert os.pread(reader, MIB, 0) == random_bytes(MIB, seed=3)
        os.close(reader)
        with contextlib.suppress(OSError):
            os.close(file)
        with opened(path, os.O_RDWR) as file:
            assert os.pread(file, 6, 0) == b"theirs"
            os.pwrite(file, b"ours", 6)
            os.fsync(file)
        assert mount.alive
        assert json.loads(ceph.rbd("info", "--format=json", f"{pool}/{image}"))["size"] == MIB
    assert export_image(ceph, f"{pool}/{image}")[:10] == b"theirsours"


STAYING = """
import errno, sys
from rbdfs.kernel.mount import Mount
from rbdfs.cli import main

def detach(self, *_descriptor):
    raise OSError(errno.EPERM, "not permitted")

Mount.detach = detach
sys.exit(main(sys.argv[1:]))
"""


def test_mount_that_cannot_be_taken_away(pool: str, mounting: Mounting) -> None:
    """What is left is dead, and whoever started it hears of it."""
    with mounting(pool, exit_code=1, program=[sys.executable, "-c", STAYING]) as mount:
        mount.expect_log("ERROR .* stays mounted, and dead: .*not permitted")
        mount.signal(signal.SIGTERM)
        assert mount.wait() == 1
