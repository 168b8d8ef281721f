"""A signal in the middle of the work: whatever was acknowledged is in the image."""

from __future__ import annotations

import errno
import mmap
import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from tests.support.images import MIB, export_image
from tests.support.mounts import TIMEOUT_S, mounted

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.ceph import Ceph
    from tests.support.mounts import Mounting

BLOCK = 16 * 1024
SIZE = 8 * MIB
BLOCKS = SIZE // BLOCK
# Acknowledged blocks of each writer before the signal comes.
ENOUGH = 20


@dataclass
class Writer:
    """Writes numbered blocks round and round a file until that fails.

    Attributes:
        direct: with O_DIRECT, where a write is acknowledged when write(2) returns; otherwise
            by the fsync(2) after it.
        acknowledged: how many blocks were.
        error: the errno that ended it.
        enough: set when `ENOUGH` were acknowledged.
    """

    path: Path
    direct: bool
    acknowledged: int = 0
    error: int = 0
    enough: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        file = os.open(self.path, os.O_WRONLY | (os.O_DIRECT if self.direct else 0))
        with mmap.mmap(-1, BLOCK) as buffer:
            try:
                while True:
                    buffer[:] = block(self.acknowledged + 1)
                    os.pwritev(file, [buffer], self.acknowledged % BLOCKS * BLOCK)
                    if not self.direct:
                        os.fsync(file)
                    self.acknowledged += 1
                    if self.acknowledged == ENOUGH:
                        self.enough.set()
            except OSError as exc:
                self.error = exc.errno or 0

    def check(self, data: bytes) -> None:
        """The image has every acknowledged block, or the one that was being written over it."""
        unfinished = self.acknowledged + 1
        for number in range(max(1, unfinished - BLOCKS), unfinished):
            off = (number - 1) % BLOCKS * BLOCK
            expected = {block(number)}
            if number + BLOCKS == unfinished:
                expected.add(block(unfinished))
            assert data[off : off + BLOCK] in expected, f"{self.path.name}: block {number}"


def block(number: int) -> bytes:
    return number.to_bytes(8, "little") * (BLOCK // 8)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_what_was_acknowledged_is_in_the_image(
    ceph: Ceph, pool: str, image_name: str, mounting: Mounting, signum: signal.Signals
) -> None:
    names = [f"{image_name}-{number}" for number in range(4)]
    for name in names:
        ceph.rbd("create", f"--size={SIZE}B", f"{pool}/{name}")
    with mounting(pool) as mount, ThreadPoolExecutor(len(names)) as threads:
        writers = [Writer(mount.file(name), number % 2 == 0) for number, name in enumerate(names)]
        running = [threads.submit(writer.run) for writer in writers]
        assert all(writer.enough.wait(TIMEOUT_S) for writer in writers)
        mount.signal(signum)
        assert mount.wait() == 0, mount.log_text
        for future in running:
            future.result(TIMEOUT_S)
        assert not mounted(mount.path)
        assert os.listdir(mount.path) == []
    for writer in writers:
        assert writer.error in (errno.ENOTCONN, errno.ECONNABORTED, errno.ESHUTDOWN)
        assert ceph.watchers(f"{pool}/{writer.path.name}") == []
        assert ceph.lock_owners(f"{pool}/{writer.path.name}") == []
        writer.check(export_image(ceph, f"{pool}/{writer.path.name}"))
