"""Moves of images between pools, as the tests of them make and check them."""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import random
import re
import subprocess
import threading
from typing import TYPE_CHECKING

import pytest

from tests.support import changed
from tests.support.conditions import eventually
from tests.support.images import import_image, open_image, random_bytes
from tests.support.mounts import LIFETIME_S, Mount, opened

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from tests.support.ceph import Ceph
    from tests.support.mounts import Mounting

MIB = 1 << 20
SIZE = 64 * MIB
BLOCK = 4096
DONE_S = 40.0
# Long enough for a mount that looks every second; users get more.
NOTICE_S = 3.0
COPIED = re.compile(r"INFO .* %, \d+ of \d+ objects")
PENDING = (
    r"WARNING .*"
    r".*(is gone|is not complete|is copied|last trace)"
)


def whole_cluster(
    mounting: Mounting,
    *arguments: str,
    program: Sequence[str] = (),
    manage: bool = True,
    exit_code: int = 0,
    lifetime_s: float = LIFETIME_S,
) -> Mount:
    """A mount of all pools; `program` starts rbdfs in another way than its script."""
    options = ["-o", "manage"] if manage else []
    program = program or changed.program(notice=NOTICE_S)
    mount = mounting(
        None, *options, *arguments, program=program, exit_code=exit_code, lifetime_s=lifetime_s
    )
    # What another test, which failed, has left.
    mount.allow_log(PENDING)
    return mount


def make(ceph: Ceph, spec: str, *, snapshot: bool, order: int = 22, size: int = SIZE) -> bytes:
    """An image of objects of 2^`order` bytes, with what has changed since its snapshot.

    Returns its content. The second half of it was never written.
    """
    data = bytearray(random_bytes(size // 2, seed=1) + bytes(size // 2))
    import_image(ceph, spec, bytes(data), f"--object-size={1 << order}B")
    if snapshot:
        ceph.rbd("snap", "create", "--no-progress", f"{spec}@before")
        pool, name = spec.split("/")
        with open_image(ceph, pool, name) as image:
            for off in range(0, size, MIB):
                data[off : off + BLOCK] = random_bytes(BLOCK, seed=off)
                image.write(bytes(data[off : off + BLOCK]), off)
    return bytes(data)


def move(source: Path, target: Path) -> None:
    done = subprocess.run(["mv", "-nT", source, target], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr


def refused(code: int, source: Path, target: Path) -> None:
    with pytest.raises(OSError, match=str(source)) as caught:
        os.rename(source, target)
    assert caught.value.errno == code


def wait_for_log(mount: Mount, text: str, timeout: float = DONE_S) -> None:
    eventually(lambda: text in mount.log_text, timeout, what=text)


def wait_for_progress(mount: Mount) -> None:
    """Wait until some of the objects are copied, of many."""
    eventually(lambda: COPIED.search(mount.log_text), DONE_S, what="progress")


def wait_until_done(mount: Mount, name: str) -> None:
    wait_for_log(mount, f"/{name}: done")


def migration_state(ceph: Ceph, spec: str) -> str | None:
    """What `rbd status` says of the migration of an image, which is the target of one."""
    status = json.loads(ceph.rbd("status", "--format=json", spec))
    state: str | None = status.get("migration", {}).get("state")
    return state


def trash(ceph: Ceph, pool: str) -> list[str]:
    """The names of the images in the trash of a pool, the sources of migrations among them."""
    listing = json.loads(ceph.rbd("trash", "ls", "--all", "--format=json", pool))
    return [image["name"] for image in listing]


def assert_nothing_left(ceph: Ceph, pool: str, name: str) -> None:
    """Assert that no image of this name is in the pool, nor in its trash."""
    assert name not in json.loads(ceph.rbd("ls", "--format=json", pool))
    assert name not in trash(ceph, pool)


class ModelWriter:
    """Writes blocks at random into a file, reads some back, and knows what has to be there."""

    def __init__(self, path: Path, data: bytes) -> None:
        self.data = bytearray(data)
        self.wrong: list[int] = []
        self.count = 0
        self._path = path
        self._over = threading.Event()

    @contextlib.contextmanager
    def running(self) -> Iterator[ModelWriter]:
        """Write for the time of the block, with eight threads and blocks of their own."""
        errors: list[BaseException] = []

        def run(number: int) -> None:
            try:
                self._run(number)
            except BaseException as exc:
                errors.append(exc)

        threads = [threading.Thread(target=run, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        try:
            self.wait_for_more()
            yield self
        finally:
            self._over.set()
            for thread in threads:
                thread.join()
        if errors:
            raise errors[0]
        assert self.wrong == []

    def wait_for_more(self, timeout: float = DONE_S) -> None:
        """Return when another hundred requests were answered."""
        wanted = self.count + 100
        eventually(lambda: self.count > wanted, timeout, what="answers")

    def _run(self, number: int) -> None:
        chance = random.Random(number)
        blocks = len(self.data) // BLOCK // 8
        with mmap.mmap(-1, BLOCK) as buffer, opened(self._path, os.O_RDWR | os.O_DIRECT) as file:
            while not self._over.is_set():
                off = (chance.randrange(blocks) * 8 + number) * BLOCK
                if chance.random() < 0.3:
                    buffer[:] = chance.randbytes(16) * (BLOCK // 16)
                    assert os.pwrite(file, buffer, off) == BLOCK
                    self.data[off : off + BLOCK] = buffer[:]
                else:
                    assert os.preadv(file, [buffer], off) == BLOCK
                    if buffer[:] != self.data[off : off + BLOCK]:
                        self.wrong.append(off)
                self.count += 1
