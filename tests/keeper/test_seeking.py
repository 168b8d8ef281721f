"""`rbdfs restart` while the kernel writes back what mmap(2) has made dirty."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.support.images import MIB, export_image, import_image, random_bytes
from tests.support.mounts import TIMEOUT_S
from tests.support.servers import ask

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.ceph import Ceph
    from tests.support.mounts import Mounting

pytestmark = pytest.mark.usefixtures("native")

SIZE = 4 * MIB
# Each in a process of its own, because who waits for a page waits with Python's lock. They end with
# their standard input, and print what went wrong.
COMMON = """
import mmap, os, select, sys
file = os.open(sys.argv[1], os.O_RDWR)
print("open", flush=True)
def goes_on():
    return not select.select([0], [], [], 0)[0]
"""
DIRTYING = """
with mmap.mmap(file, 0) as memory:
    number = 0
    while goes_on():
        number += 1
        for page in range(0, len(memory), mmap.PAGESIZE):
            memory[page : page + 8] = number.to_bytes(8, "big")
    memory.flush()
print(number, flush=True)
"""
SEEKING = """
number = 0
while goes_on():
    number += 1
    # It is all data, and has been from the beginning.
    assert os.lseek(file, 0, os.SEEK_DATA) == 0
    assert os.lseek(file, 0, os.SEEK_HOLE) == os.fstat(file).st_size
print(number, flush=True)
"""
# What mmap(2) has made dirty is copied, whoever copies it.
COPYING = """
out = os.open(sys.argv[1] + "-copy", os.O_RDWR)
with mmap.mmap(file, 0) as memory:
    number = 0
    while goes_on():
        number += 1
        memory[:8] = number.to_bytes(8, "big")
        assert os.copy_file_range(file, out, mmap.PAGESIZE, 0, 0) == mmap.PAGESIZE
        assert os.pread(out, 8, 0) == number.to_bytes(8, "big")
print(number, flush=True)
"""


@contextlib.contextmanager
def running(script: str, path: Path) -> Iterator[subprocess.Popen[str]]:
    """Run a script on a file for the time of the block; it has to come round, and to end well."""
    with subprocess.Popen(
        [sys.executable, "-c", COMMON + script, path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        yield process
        process.stdin.close()
        assert int(process.stdout.readline()) > 0
        assert process.wait(TIMEOUT_S) == 0


def test_restarts_while_dirty_pages_are_written_back(
    ceph: Ceph, pool: str, image_name: str, mounting: Mounting
) -> None:
    """None of them has to wait for what the kernel is told to drop, and that for the server."""
    import_image(ceph, f"{pool}/{image_name}", random_bytes(SIZE))
    with mounting(pool, lifetime_s=240) as mount:
        path = mount.file(image_name)
        with running(DIRTYING, path), running(SEEKING, path), running(SEEKING, path):
            for generation in range(2, 12):
                assert ask(mount, "restart")["generation"] == generation
            assert "not drained" not in mount.log_text
        assert path.stat().st_size == SIZE
        data = path.read_bytes()
    assert export_image(ceph, f"{pool}/{image_name}") == data


def test_restarts_while_dirty_pages_are_copied(
    ceph: Ceph, pool: str, image_name: str, mounting: Mounting
) -> None:
    """The kernel copies by itself where the server does not have it write back any more."""
    for name in (image_name, f"{image_name}-copy"):
        import_image(ceph, f"{pool}/{name}", random_bytes(MIB))
    with mounting(pool, lifetime_s=240) as mount, running(COPYING, mount.file(image_name)):
        for generation in range(2, 8):
            assert ask(mount, "restart")["generation"] == generation
        assert "not drained" not in mount.log_text
