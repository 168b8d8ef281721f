"""`mv` of images between pools, while nobody and while everybody uses them."""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import random
import subprocess
import threading
import uuid
from typing import TYPE_CHECKING

import pytest

from tests.conditions import eventually
from tests.images import export_image, import_image, open_image, random_bytes
from tests.mounts import Mount, opened

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.ceph import Ceph
    from tests.mounts import Mounting

MIB = 1 << 20
SIZE = 64 * MIB
BLOCK = 4096
KILLED = r"ERROR rbdfs\.keeper: server \d+ ended with exit code -9"


@pytest.fixture(scope="module")
def pools(ceph: Ceph) -> Iterator[tuple[str, str]]:
    """The names of two empty pools."""
    unique = uuid.uuid4().hex[:8]
    names = (f"hdd-{unique}", f"ssd-{unique}")
    try:
        for name in names:
            ceph.ceph("osd", "pool", "create", name)
            ceph.rbd("pool", "init", name)
        yield names
    finally:
        for name in names:
            ceph.ceph("osd", "pool", "rm", name, name, "--yes-i-really-really-mean-it")


@pytest.fixture
def mount(mounting: Mounting) -> Iterator[Mount]:
    with whole_cluster(mounting) as mount:
        yield mount


def whole_cluster(mounting: Mounting, *arguments: str) -> Mount:
    path = mounting.mountpoint(f"mnt-{uuid.uuid4().hex[:8]}")
    command = mounting.command("", path, "-f", "--all-pools", "-o", "manage,move", *arguments)
    command.remove("")
    return Mount(command, path, mounting.directory / f"log-{path.name}")


def make(ceph: Ceph, spec: str, *, snapshot: bool) -> bytes:
    """An image, with what has changed since its snapshot; its content."""
    data = bytearray(random_bytes(SIZE // 2, seed=1) + bytes(SIZE // 2))
    import_image(ceph, spec, bytes(data))
    if snapshot:
        ceph.rbd("snap", "create", "--no-progress", f"{spec}@before")
        pool, name = spec.split("/")
        with open_image(ceph, pool, name) as image:
            for off in range(0, SIZE, MIB):
                data[off : off + BLOCK] = random_bytes(BLOCK, seed=off)
                image.write(bytes(data[off : off + BLOCK]), off)
    return bytes(data)


def move(source: Path, target: Path) -> None:
    done = subprocess.run(["mv", "-nT", source, target], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


def refused(code: int, source: Path, target: Path) -> None:
    with pytest.raises(OSError, match=str(source)) as caught:
        os.rename(source, target)
    assert caught.value.errno == code


def wait_until_done(mount: Mount, name: str, timeout: float = 40.0) -> None:
    text = f"/{name}: done"
    eventually(lambda: text in mount.log_text, timeout, what=text)


def assert_nothing_left(ceph: Ceph, pool: str, name: str) -> None:
    assert name not in json.loads(ceph.rbd("ls", "--format=json", pool))
    assert name not in ceph.rbd("trash", "ls", "--all", "--format=json", pool)


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
            yield self
        finally:
            self._over.set()
            for thread in threads:
                thread.join()
        if errors:
            raise errors[0]
        assert self.wrong == []

    def _run(self, number: int) -> None:
        chance = random.Random(number)
        with mmap.mmap(-1, BLOCK) as buffer, opened(self._path, os.O_RDWR | os.O_DIRECT) as file:
            while not self._over.is_set():
                off = (chance.randrange(SIZE // BLOCK // 8) * 8 + number) * BLOCK
                if chance.random() < 0.3:
                    buffer[:] = chance.randbytes(16) * (BLOCK // 16)
                    assert os.pwrite(file, buffer, off) == BLOCK
                    self.data[off : off + BLOCK] = buffer[:]
                else:
                    assert os.preadv(file, [buffer], off) == BLOCK
                    if buffer[:] != self.data[off : off + BLOCK]:
                        self.wrong.append(off)
                self.count += 1


def test_nobody_uses_it(ceph: Ceph, pools: tuple[str, str], mount: Mount, image_name: str) -> None:
    """Into a namespace too, under another name; a clone stays one."""
    hdd, ssd = pools
    data = make(ceph, f"{hdd}/{image_name}", snapshot=True)
    ceph.rbd("snap", "protect", f"{hdd}/{image_name}@before")
    clone_of = ["clone", "--rbd-default-clone-format=2", f"{hdd}/{image_name}@before"]
    ceph.rbd(*clone_of, f"{ssd}/{image_name}-clone")
    before = export_image(ceph, f"{hdd}/{image_name}@before")
    mount.file(f"{ssd}/tenant").mkdir()
    new = f"{image_name}-new"
    with opened(mount.file(f"{ssd}/{image_name}-clone"), os.O_RDONLY) as clone:
        move(mount.file(f"{hdd}/{image_name}"), mount.file(f"{ssd}/tenant/{new}"))
        assert sorted(os.listdir(mount.file(f"{ssd}/tenant"))) == [new, f"{new}@before"]
        assert image_name not in os.listdir(mount.file(hdd))
        # Opened before all is copied: the answers come when they are right.
        assert mount.file(f"{ssd}/tenant/{new}").read_bytes() == data
        assert mount.file(f"{ssd}/tenant/{new}@before").read_bytes() == before
        wait_until_done(mount, new)
        assert os.pread(clone, SIZE, 0) == before
    assert export_image(ceph, f"{ssd}/tenant/{new}") == data
    assert export_image(ceph, f"{ssd}/tenant/{new}@before") == before
    assert export_image(ceph, f"{ssd}/{image_name}-clone") == before
    assert_nothing_left(ceph, hdd, image_name)


@pytest.mark.parametrize(
    ("mount_options", "snapshot"),
    [("native", False), ("native", True), ("python", True)],
    indirect=["mount_options"],
)
def test_open_files_follow(
    ceph: Ceph, pools: tuple[str, str], mount: Mount, image_name: str, snapshot: bool
) -> None:
    hdd, ssd = pools
    data = make(ceph, f"{hdd}/{image_name}", snapshot=snapshot)
    source, target = (mount.file(f"{pool}/{image_name}") for pool in pools)
    watched = f"{image_name}@before" if snapshot else image_name
    with (
        opened(mount.file(f"{hdd}/{watched}"), os.O_RDONLY) as reader,
        opened(source, os.O_RDONLY) as other,
    ):
        before = os.pread(reader, SIZE, 0) if snapshot else b""
        with ModelWriter(source, data).running() as writer:
            eventually(lambda: writer.count > 100)
            inode = os.fstat(other).st_ino
            move(source, target)
            assert not source.exists()
            # Under another number the kernel would keep pages of its own.
            assert os.stat(target).st_ino == os.fstat(other).st_ino == inode
            if snapshot:
                assert os.pread(reader, SIZE, 0) == before
            count = writer.count
            wait_until_done(mount, image_name)
            eventually(lambda: writer.count > count + 100)
        assert os.pread(other, SIZE, 0) == writer.data
        assert not snapshot or os.pread(reader, SIZE, 0) == before
    assert target.read_bytes() == writer.data
    assert ceph.watchers(f"{ssd}/{image_name}") == []
    assert export_image(ceph, f"{ssd}/{image_name}") == writer.data
    if snapshot:
        assert export_image(ceph, f"{ssd}/{image_name}@before") == before
    assert_nothing_left(ceph, hdd, image_name)
