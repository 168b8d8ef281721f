"""Random operations on an image and on a bytearray: at every read both are the same."""

from __future__ import annotations

import contextlib
import os
import random
from typing import TYPE_CHECKING

import pytest

from tests.support.images import export_image
from tests.support.space import KEEP_SIZE, PUNCH, ZERO_RANGE, data_extents, fallocate

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.ceph import Ceph
    from tests.support.mounts import Mounting

OBJECT = 64 * 1024
SIZE = 24 * OBJECT + 1000
LARGEST = 33 * OBJECT
STEPS = 600
SNAPSHOTS = 6


class Model:
    """One file of a mount, what should be in it, and what its snapshots should have.

    All operations that begin with `do_` are drawn from.
    """

    def __init__(self, path: Path, flags: int, random: random.Random, *, native: bool) -> None:
        self.path = path
        self.flags = flags
        self.random = random
        self.content = bytearray(SIZE)
        self.snapshots: dict[str, bytes] = {}
        self.done: list[str] = []
        self.file = os.open(path, os.O_RDWR | flags)
        weights = {self.do_write: 8, self.do_read: 8, self.do_read_all: 2, self.do_reopen: 1}
        weights |= {self.do_truncate: 1, self.do_snapshot: 1, self.do_read_snapshot: 2}
        if native:
            weights |= {self.do_zero: 5, self.do_seek: 3, self.do_copy: 3}
            weights |= {self.do_copy_snapshot: 1}
        self.operations, self.weights = list(weights), list(weights.values())

    def close(self) -> None:
        os.close(self.file)

    def step(self) -> None:
        self.random.choices(self.operations, self.weights)[0]()

    def note(self, operation: str, *numbers: int | str) -> None:
        self.done.append(f"{operation} {' '.join(map(str, numbers))}")

    def range(self) -> tuple[int, int]:
        """An offset and a length inside the file: of any kind, or along objects and pages."""
        size = len(self.content)
        unit = self.random.choice([1, 1, 512, 4096, OBJECT])
        off = self.random.randrange(size) // unit * unit
        length = self.random.choice([self.random.randrange(1, 5000), 4096, OBJECT, 5 * OBJECT])
        return off, max(1, min(length, size - off))

    def do_write(self) -> None:
        off, length = self.range()
        self.note("write", off, length)
        data = self.random.randbytes(length)
        assert os.pwrite(self.file, data, off) == length
        self.content[off : off + length] = data

    def do_read(self) -> None:
        off, length = self.range()
        self.note("read", off, length)
        assert os.pread(self.file, length, off) == self.content[off : off + length]

    def do_read_all(self) -> None:
        """By another descriptor, and past the end."""
        self.note("read all")
        with open(self.path, "rb", buffering=0) as other:
            assert other.read(LARGEST * 2) == self.content
        assert os.fstat(self.file).st_size == len(self.content)

    def do_zero(self) -> None:
        off, length = self.range()
        mode = self.random.choice([PUNCH, ZERO_RANGE, ZERO_RANGE | KEEP_SIZE])
        self.note("zero", hex(mode), off, length)
        fallocate(self.file, mode, off, length)
        self.content[off : off + length] = bytes(length)

    def do_seek(self) -> None:
        """What lies between the extents of data is zero."""
        self.note("seek")
        found, end = data_extents(self.file), 0
        for start, stop in [*found, (len(self.content), 0)]:
            assert not any(self.content[end:start]), (end, start)
            end = stop

    def do_truncate(self) -> None:
        size = self.random.randrange(OBJECT, LARGEST)
        self.note("truncate", size)
        os.ftruncate(self.file, size)
        del self.content[size:]
        self.content.extend(bytes(size - len(self.content)))

    def do_snapshot(self) -> None:
        if len(self.snapshots) < SNAPSHOTS:
            name = f"{self.path.name}@{len(self.snapshots)}"
            self.note("snapshot", name)
            os.link(self.path, self.path.with_name(name))
            self.snapshots[name] = bytes(self.content)

    def do_read_snapshot(self) -> None:
        if self.snapshots:
            name = self.random.choice(list(self.snapshots))
            self.note("read snapshot", name)
            assert self.path.with_name(name).read_bytes() == self.snapshots[name]

    def do_copy(self) -> None:
        off, length = self.range()
        to = self.random.randrange(len(self.content))
        length = min(length, len(self.content) - to)
        if abs(off - to) >= length:
            self.note("copy", off, to, length)
            self._copy(self.file, bytes(self.content), off, to, length)

    def do_copy_snapshot(self) -> None:
        if self.snapshots:
            name = self.random.choice(list(self.snapshots))
            off, length = self.range()
            length = min(length, len(self.snapshots[name]) - off)
            if length > 0:
                self.note("copy snapshot", name, off, length)
                source = os.open(self.path.with_name(name), os.O_RDONLY)
                with contextlib.closing(os.fdopen(source, "rb")):
                    self._copy(source, self.snapshots[name], off, off, length)

    def _copy(self, source: int, content: bytes, off: int, to: int, length: int) -> None:
        assert os.copy_file_range(source, self.file, length, off, to) == length
        self.content[to : to + length] = content[off : off + length]

    def do_reopen(self) -> None:
        self.note("reopen")
        os.close(self.file)
        self.file = os.open(self.path, os.O_RDWR | self.flags)


@pytest.mark.parametrize("flags", [0, os.O_DIRECT], ids=["buffered", "direct"])
@pytest.mark.parametrize("data_path", ["native", "python"])
def test_an_image_is_as_the_model(
    ceph: Ceph, pool: str, image_name: str, mounting: Mounting, data_path: str, flags: int
) -> None:
    """RBDFS_TEST_SEED=NUMBER repeats a run."""
    seed = int(os.environ.get("RBDFS_TEST_SEED", random.randrange(1 << 32)))
    spec = f"{pool}/{image_name}"
    ceph.rbd("create", f"--size={SIZE}B", "--object-size=64K", spec)
    with mounting(pool, "-o", f"manage,datapath={data_path}") as mount:
        path = mount.file(image_name)
        model = Model(path, flags, random.Random(seed), native=data_path == "native")
        with contextlib.closing(model):
            try:
                for _ in range(STEPS):
                    model.step()
            except BaseException as exc:
                exc.add_note(f"RBDFS_TEST_SEED={seed}, after: {'; '.join(model.done[-30:])}")
                raise
        assert path.read_bytes() == model.content
    assert export_image(ceph, spec) == model.content
    for name, content in model.snapshots.items():
        assert export_image(ceph, f"{pool}/{name}") == content
