"""A host that hangs: keeper and server stand still while another client takes an image over."""

from __future__ import annotations

import contextlib
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from tests.faults.test_cluster import BLOCK, Direct, fails
from tests.support.conditions import eventually, is_stopped
from tests.support.images import MIB, export_image, import_image, open_image, random_bytes
from tests.support.mounts import opened
from tests.support.refusals import refusal
from tests.support.servers import ask, signal_server

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.ceph import Ceph
    from tests.support.mounts import Mount, Mounting

# The OSDs take a client for dead after 30 s (osd_client_watch_timeout).
TAKE_OVER_S = 60.0

pytestmark = pytest.mark.usefixtures("native")


@contextlib.contextmanager
def hanging(mount: Mount) -> Iterator[None]:
    """Keeper and server of a mount do nothing for the time of the block."""
    mount.signal(signal.SIGSTOP)
    server = signal_server(mount, signal.SIGSTOP)
    try:
        eventually(lambda: is_stopped(server) and is_stopped(mount.pid), what="the stop")
        yield
    finally:
        os.kill(server, signal.SIGCONT)
        mount.signal(signal.SIGCONT)


def take_over(ceph: Ceph, pool: str, name: str) -> None:
    """Write to an image whose lock somebody else has: waits until that is taken for dead."""
    with open_image(ceph, pool, name) as image:
        image.write(b"t" * BLOCK, 0)
        image.flush()


@pytest.mark.slow
def test_another_client_takes_over(
    ceph: Ceph, pool: str, image_name: str, mounting: Mounting
) -> None:
    """What was written before the hang is not lost, what comes after it is refused."""
    busy, idle, other = (f"{image_name}-{name}" for name in ("busy", "idle", "other"))
    for name in (busy, idle, other):
        import_image(ceph, f"{pool}/{name}", random_bytes(MIB))
    with mounting(pool, lifetime_s=120) as mount, ThreadPoolExecutor(3) as threads:
        file = os.open(mount.file(busy), os.O_RDWR | os.O_DIRECT)
        direct = Direct(file)
        assert direct.write(b"o") == direct.write(b"o", BLOCK) == BLOCK
        # All of it is in the page cache, which is trusted while the lock is ours.
        cached = os.open(mount.file(idle), os.O_RDWR)
        assert os.pread(cached, MIB, 0) == random_bytes(MIB)
        with hanging(mount):
            late = threads.submit(Direct(file).write, b"o")
            # No process is started here: its copies of the files would be closed by the server.
            takers = [threads.submit(take_over, ceph, pool, name) for name in (busy, idle)]
            for taker in takers:
                taker.result(TAKE_OVER_S)
        for name in (busy, idle):
            mount.expect_log(rf"WARNING .*open files of {pool}/{name} are lost: .*shutdown")
            mount.expect_log(rf"WARNING .*open files of {pool}/{name} are lost: ")
        mount.allow_log(r"WARNING .*(write|fsync|read|flush): \[Errno 108\]")
        assert refusal(lambda: late.result(TAKE_OVER_S)) == "ESHUTDOWN"
        # Also where nobody asks: the kernel has it all.
        lost = f"open files of {pool}/{idle} are lost"
        eventually(lambda: lost in mount.log_text, what="the log")
        eventually(lambda: fails(lambda: os.pread(cached, MIB, 0)), what="the end of the pages")
        for call in (lambda: direct.write(b"o"), direct.sync, direct.read):
            assert refusal(call) == "ESHUTDOWN"
        # Names, sizes and space come by another client of ours.
        assert set(os.listdir(mount.path)) >= {busy, idle, other}
        assert mount.file(busy).stat().st_size == MIB
        # The fence is for all that the client has, whatever the image: another server has another.
        mount.expect_log(r"ERROR .*fenced by somebody else")
        assert ask(mount, "restart")["generation"] == 2
        assert refusal(direct.sync) == refusal(lambda: direct.write(b"o")) == "ESHUTDOWN"
        for each in (file, cached):
            with contextlib.suppress(OSError):
                os.close(each)
        assert mount.file(other).read_bytes() == random_bytes(MIB)
        with opened(mount.file(busy), os.O_RDWR | os.O_DIRECT) as file:
            assert Direct(file).read() == b"t" * BLOCK
            assert Direct(file).write(b"a", 2 * BLOCK) == BLOCK
            os.fsync(file)
        assert mount.alive
    data = b"t" * BLOCK + b"o" * BLOCK + b"a" * BLOCK + random_bytes(MIB)[3 * BLOCK :]
    assert export_image(ceph, f"{pool}/{busy}") == data
    assert export_image(ceph, f"{pool}/{idle}") == b"t" * BLOCK + random_bytes(MIB)[BLOCK:]
