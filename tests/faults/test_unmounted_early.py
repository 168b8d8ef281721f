"""A mount that ends before librbd has: what is under way is waited for, then images are closed."""

from __future__ import annotations

import errno
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.faults.test_cluster import waiting_reader
from tests.support import changed
from tests.support.conditions import eventually
from tests.support.images import MIB, export_image, import_image, random_bytes
from tests.support.mounts import TIMEOUT_S, force_unmount
from tests.support.quota import pool_with_a_quota
from tests.support.servers import ask

if TYPE_CHECKING:
    from tests.support.ceph import Ceph
    from tests.support.mounts import Mount, Mounting

pytestmark = pytest.mark.usefixtures("native")

BLOCK = 4096
WAITS = r"WARNING .*[0-9]+ requests in librbd"
# In a process of its own: closing the copy of its descriptor, another one would wait as well.
WRITER = f"""
import os, sys
file = os.open(sys.argv[1], os.O_RDWR)
os.pwrite(file, b"w" * {BLOCK}, {BLOCK})
print("open", flush=True)
input()
try:
    while True:
        os.pwrite(file, b"s" * {BLOCK}, 0)
        os.fsync(file)
except OSError as exc:
    print(exc.errno, flush=True)
"""


def wait_until_it_waits(mount: Mount) -> None:
    """Return when the data path has lost its patience once."""
    eventually(lambda: "requests in librbd" in mount.log_text, what="a request that is waited for")


def unmount(mount: Mount, *options: str) -> bool:
    done = subprocess.run(["umount", *options, mount.path], stderr=subprocess.PIPE)
    return done.returncode == 0


def test_a_reader_that_waits_is_killed(
    ceph: Ceph, pool: str, image_name: str, mounting: Mounting
) -> None:
    """Its file is closed then, and nothing is busy; but librbd has its buffer."""
    import_image(ceph, f"{pool}/{image_name}", random_bytes(MIB))
    with mounting(pool, program=changed.program(stop=1), lifetime_s=120) as mount:
        mount.expect_log(WAITS)
        mount.allow_log("flush: .* the cluster does not say whether it is there")
        with waiting_reader(ceph, mount.file(image_name)) as reader:
            # What the server has not read yet, the kernel would take back.
            eventually(lambda: ask(mount, "status")["requests"]["active"], what="a read in librbd")
            reader.kill()
            reader.wait(TIMEOUT_S)
            eventually(lambda: unmount(mount), what="umount")
            wait_until_it_waits(mount)
        assert mount.wait() == 0
    assert ceph.watchers(f"{pool}/{image_name}") == []


def one_waits(mount: Mount) -> bool:
    """Whether one request stays the only one for a while."""
    seen = [ask(mount, "status")["requests"] for _ in range(3)]
    return seen[0]["active"] == 1 and all(each == seen[0] for each in seen)


@pytest.mark.parametrize("cache", ["none", "writeback"])
def test_forced_while_a_write_waits(
    ceph: Ceph, image_name: str, mounting: Mounting, cache: str
) -> None:
    """Nobody hears of an answer, nor does the server of a close: all is written all the same."""
    full, data = f"full-{image_name}", random_bytes(MIB)
    program = changed.program(stop=1)
    with pool_with_a_quota(ceph, full) as set_quota:
        import_image(ceph, f"{full}/vm1", data)
        with (
            mounting(full, "-o", f"cache={cache}", program=program, lifetime_s=120) as mount,
            subprocess.Popen(
                [sys.executable, "-c", WRITER, mount.file("vm1")],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            ) as writer,
        ):
            mount.expect_log(WAITS)
            assert writer.stdin is not None
            assert writer.stdout is not None
            assert writer.stdout.readline() == "open\n"
            set_quota(1)
            print("go", file=writer.stdin, flush=True)
            # The client has to hear of it first.
            eventually(lambda: one_waits(mount), what="a write that waits")
            # It is busy, and nothing of it answers any more.
            assert not unmount(mount, "-f")
            assert int(writer.stdout.readline()) in (errno.ECONNABORTED, errno.ENOTCONN)
            writer.wait(TIMEOUT_S)
            force_unmount(mount.path)
            wait_until_it_waits(mount)
            set_quota(0)
            assert mount.wait() == 0
        assert ceph.watchers(f"{full}/vm1") == []
        assert ceph.lock_owners(f"{full}/vm1") == []
        written = export_image(ceph, f"{full}/vm1")
        assert written == b"s" * BLOCK + b"w" * BLOCK + data[2 * BLOCK :]
