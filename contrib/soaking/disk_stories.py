"""What users do with the disks: all read everything, and each writes blocks that are its own."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from soaking.content import BLOCK
from soaking.operations import Operation
from soaking.storytelling import PAUSES
from soaking.system_calls import FALLOC_PUNCH, FALLOC_ZERO_RANGE

if TYPE_CHECKING:
    import random
    from collections.abc import Sequence

    from soaking.disks import Disk

# Blocks side by side that have the same writer.
STRIPE = 16


class DiskStories:
    """Draws what one user does with descriptors that it keeps open.

    *writers* are all who write to the disks; who is not one of them reads only.
    """

    def __init__(
        self, random: random.Random, user: int, disks: Sequence[Disk], writers: Sequence[int],
        *, mapping: bool,
    ) -> None:  # fmt: skip
        self._random, self._user, self._disks = random, user, disks
        self._writers, self._mapping = writers, mapping
        self._writes = user in writers
        self._version = 0
        self._snapshots = 0
        self._done: list[Operation] = []

    def draw(self, count: int) -> list[Operation]:
        while len(self._done) < count:
            disk = self._random.choice(self._disks)
            slot = f"d{len(self._done)}"
            flags = os.O_RDWR if self._writes else os.O_RDONLY
            flags |= self._random.choice([0, 0, os.O_DIRECT])
            self._add("open", slot=slot, path=disk.part or disk.path, flags=flags)
            for _ in range(self._random.randrange(10, 40)):
                self._step(disk, slot)
            self._add("close", slot=slot)
        return self._done

    def _add(self, kind: str, **args: Any) -> None:
        self._done.append(Operation(kind, args, "disk"))

    def _step(self, disk: Disk, slot: str) -> None:
        steps = {self._read: 8, self._whole: 2, self._pause: 2, self._list: 2}
        if self._writes:
            steps |= {self._write: 12, self._zero: 2, self._sync: 2, self._snapshot: 1}
        self._random.choices(list(steps), list(steps.values()))[0](disk, slot)

    def _own(self, disk: Disk) -> tuple[int, int]:
        """Some blocks that nobody else writes, as ``off~size``."""
        mine = self._writers.index(self._user)
        stripes = disk.blocks // STRIPE // len(self._writers)
        first = (self._random.randrange(stripes) * len(self._writers) + mine) * STRIPE
        begin = self._random.randrange(STRIPE)
        length = self._random.choice([1, 1, 1, STRIPE - begin, self._random.randrange(1, STRIPE)])
        length = min(length, STRIPE - begin)
        return (first + begin) * BLOCK, length * BLOCK

    def _write(self, disk: Disk, slot: str) -> None:
        off, size = self._own(disk)
        for _ in range(self._random.choice([1, 1, 3])):
            self._version += 1
            kind = "mmap_write" if self._mapping and self._random.random() < 0.1 else "write"
            mark = {"file": disk.file, "version": self._version}
            self._add(kind, slot=slot, **mark, off=off, size=size)
        if self._random.random() < 0.4:
            self._add("read", slot=slot, off=off, size=size)

    def _zero(self, disk: Disk, slot: str) -> None:
        off, size = self._own(disk)
        mode = self._random.choice([FALLOC_PUNCH, FALLOC_ZERO_RANGE | 1])
        self._add("fallocate", slot=slot, mode=mode, off=off, size=size)

    def _read(self, disk: Disk, slot: str) -> None:
        first = self._random.randrange(disk.blocks)
        length = min(self._random.choice([1, 1, 8, 64]), disk.blocks - first)
        kind = "mmap_read" if self._mapping and self._random.random() < 0.1 else "read"
        self._add(kind, slot=slot, off=first * BLOCK, size=length * BLOCK)

    def _whole(self, disk: Disk, slot: str) -> None:
        if self._random.random() < 0.3:
            self._add("export", path=disk.path)
            return
        path = self._random.choice([disk.path, disk.part or disk.path])
        how = self._random.choice(["read", "direct", "seek"])
        self._add("read_all", path=path, how=how)

    def _sync(self, disk: Disk, slot: str) -> None:
        self._add("fsync", slot=slot)
        self._add("fstat", slot=slot)

    def _pause(self, disk: Disk, slot: str) -> None:
        self._add("pause", seconds=self._random.choice(PAUSES))

    def _list(self, disk: Disk, slot: str) -> None:
        self._add("listing", path=self._random.choice(["a", "b"]))

    def _snapshot(self, disk: Disk, slot: str) -> None:
        self._snapshots += 1
        path = f"{disk.path}@u{self._user}s{self._snapshots}"
        self._add("link", path=disk.path, to=path)
        for _ in range(self._random.randrange(1, 3)):
            self._add("read_all", path=path, how=self._random.choice(["read", "direct", "seek"]))
            self._write(disk, slot)
        self._add("read_all", path=path, how="read")
        if self._random.random() < 0.5:
            self._add("unlink", path=path)
