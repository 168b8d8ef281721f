"""What users do with files of their own: each story is a few operations that belong together.

The flags are those that shells, editors and copiers open files with. A story may meet any state of
its files: what is right then, the checker knows.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from soaking.storytelling import MIB, PAUSES, Storytelling
from soaking.system_calls import FALLOC_PUNCH, FALLOC_ZERO_RANGE

if TYPE_CHECKING:
    import random
    from collections.abc import Sequence

CREATE = os.O_WRONLY | os.O_CREAT
OVERWRITE = CREATE | os.O_TRUNC
NEW = CREATE | os.O_EXCL
LONGEST_WAIT_S = 20.0


class Stories(Storytelling):
    """Draws stories for one user, on names that no other user changes.

    Those named in *without* are left out.
    """

    def __init__(
        self, random: random.Random, user: int, *, mapping: bool, without: Sequence[str] = ()
    ) -> None:
        super().__init__(random, user, mapping=mapping)
        self._weights |= {
            self.shell: 4, self.editor: 4, self.replacing_editor: 2, self.touched: 3,
            self.copied: 4, self.held: 4, self.growing: 3, self.snapshots: 3, self.renamed: 3,
            self.moved: 1, self.removed: 2, self.cut: 3, self.punched: 3,
            self.outside: 1, self.cloned: 1, self.namespaces: 2,
        }  # fmt: skip
        for name in without:
            del self._weights[getattr(self, name)]

    # Files are made and overwritten.

    def shell(self) -> None:
        """`cmd > F`, `: > F`, and the tools that write so."""
        path, slot = self._path(), self._slot()
        flags = OVERWRITE | self._some(0, 0, 0, os.O_DIRECT, os.O_SYNC)
        self._add("open", slot=slot, path=path, flags=flags)
        self._written(slot, self._size())
        if self._chance(0.3):
            self._add("fsync", slot=slot)
        self._add("close", slot=slot)
        if self._chance(0.4):
            # Again within the same second, and shorter.
            again = self._slot()
            self._add("open", slot=again, path=path, flags=OVERWRITE)
            self._written(again, self._some(0, 6, 511, 4096))
            self._add("close", slot=again)
        self._looked_at(path)

    def editor(self) -> None:
        """vim :w, sort -o, ex: opened without O_TRUNC, emptied, written."""
        path, slot = self._path(), self._slot()
        self._add("open", slot=slot, path=path, flags=CREATE)
        self._add("ftruncate", slot=slot, size=0)
        self._written(slot, self._size())
        self._add("fsync", slot=slot)
        self._add("close", slot=slot)
        self._looked_at(path)

    def replacing_editor(self) -> None:
        """vim with backupcopy=no: the old file gets another name and is removed in the end."""
        path, slot = self._path(), self._slot()
        backup = f"{path}~"
        self._add("rename", path=path, to=backup)
        self._add("open", slot=slot, path=path, flags=NEW)
        self._written(slot, self._size())
        self._add("fsync", slot=slot)
        self._add("close", slot=slot)
        self._add("stat", path=path)
        self._add("unlink", path=backup)
        self._looked_at(path)

    def touched(self) -> None:
        """`touch NEW`, then something is written into it."""
        path, slot = self._path(), self._slot()
        self._add("open", slot=slot, path=path, flags=CREATE | os.O_NOCTTY | os.O_NONBLOCK)
        self._add("utime", path=path)
        self._add("close", slot=slot)
        self._add("stat", path=path)
        if self._chance(0.5):
            self._add("copy_in", path=path, **self._mark(), size=self._size(), command=["cp"])
        else:
            slot = self._slot()
            self._add("open", slot=slot, path=path, flags=OVERWRITE)
            self._written(slot, self._size())
            self._add("close", slot=slot)
        self._looked_at(path)

    def copied(self) -> None:
        """cp in, and from one to another."""
        path, to = self._path(), self._path()
        commands = (["cp"], ["cp", "--sparse=always"], ["cp", "--sparse=auto"], ["cp", "-p"])
        self._add(
            "copy_in", path=path, **self._mark(), size=self._size(), command=self._some(*commands)
        )
        self._looked_at(path)
        if path != to and self._chance(0.5):
            self._add("copy", path=path, to=to, command=self._some(*commands))
            self._looked_at(to)

    def growing(self) -> None:
        """Several writers of a new file; close(2) of other descriptors beside them."""
        path = self._path()
        self._add("unlink", path=path)
        writers, closing = self._some(1, 1, 2, 4), self._some("dup", "dup", "fork", "open", "none")
        chunk = self._some(16 << 10, 64 << 10, 256 << 10)
        chunks = min(48, (4 * MIB) // (chunk * writers))
        shape = {"writers": writers, "chunks": chunks, "chunk": chunk, "closing": closing}
        self._add("storm", path=path, **self._mark(), **shape)
        self._add("stat", path=path)
        self._add("read_all", path=path, how=self._some("read", "direct"))

    def held(self) -> None:
        """A file is kept open while it grows, is read, cut, and closed elsewhere."""
        path, slot = self._path(), self._slot()
        flags = self._some(os.O_RDWR | os.O_CREAT | os.O_TRUNC, os.O_RDWR | os.O_CREAT, os.O_RDWR)
        self._add("open", slot=slot, path=path, flags=flags | self._some(0, 0, os.O_DIRECT))
        off = 0
        for _ in range(self._random.randrange(2, 8)):
            size = self._some(6, 4096, 65536, 300_000)
            if self._chance(0.6):
                self._add("write", slot=slot, **self._mark(), off=off, size=size)
                off += size + self._some(0, 0, 0, 4096, 70_000)
            kind = self._some("dup_close", "fork_close", "fsync", "fstat", "read", "pause")
            if kind == "read":
                self._add("read", slot=slot, off=self._random.randrange(off + 1), size=size)
            elif kind == "pause":
                self._add("pause", seconds=self._random.choice(PAUSES))
            else:
                self._add(kind, slot=slot)
        if self._chance(0.3):
            self._add("ftruncate", slot=slot, size=self._random.randrange(off + 10_000))
            self._add("fstat", slot=slot)
        self._add("close", slot=slot)
        self._looked_at(path)

    # Contents are changed.

    def cut(self) -> None:
        """truncate(1) and truncate(2), both ways."""
        path = self._path()
        self._add("truncate", path=path, size=self._size())
        self._looked_at(path)

    def punched(self) -> None:
        """Blocks of an existing file are overwritten, and holes are made."""
        path, slot = self._path(), self._slot()
        flags = os.O_RDWR | self._some(0, 0, os.O_DIRECT)
        self._add("open", slot=slot, path=path, flags=flags)
        for _ in range(self._random.randrange(1, 4)):
            off, size = self._random.randrange(MIB), self._some(1, 512, 4096, 200_000)
            off = off // 4096 * 4096 if self._chance(0.5) else off
            if self._chance(0.5):
                mode = self._some(FALLOC_PUNCH, FALLOC_ZERO_RANGE | 1)
                self._add("fallocate", slot=slot, mode=mode, off=off, size=size)
            else:
                self._add("write", slot=slot, **self._mark(), off=off, size=size)
            self._add("read", slot=slot, off=max(0, off - 5000), size=size + 10_000)
        self._add("close", slot=slot)
        self._looked_at(path)

    # Names and snapshots.

    def snapshots(self) -> None:
        path = self._path()
        snap = f"{path}@{self._some('s', 't')}"
        self._add("link", path=path, to=snap)
        if self._chance(0.6):
            self._add("read_all", path=snap, how=self._some("read", "direct", "seek"))
        if self._chance(0.6):
            slot = self._slot()
            self._add("open", slot=slot, path=path, flags=os.O_RDWR)
            self._add("write", slot=slot, **self._mark(), off=0, size=self._some(1, 4096, 65536))
            self._add("close", slot=slot)
            self._add("read_all", path=snap, how=self._some("read", "direct", "seek"))
        if self._chance(0.5):
            self._add("unlink", path=snap)
            self._add("stat", path=snap)

    def renamed(self) -> None:
        path = self._path()
        others = [name for name in self._names if name[0] == path[0] and name != path]
        to = self._random.choice(others)
        self._add("rename", path=path, to=to)
        if self._chance(0.3):
            self._add("link", path=to, to=f"{to}@{self._some('s', 't')}")
        self._looked_at(to)
        self._add("stat", path=path)

    def moved(self) -> None:
        """mv to the other pool."""
        path = self._path()
        others = [name for name in self._names if name[0] != path[0]]
        to = self._random.choice(others)
        self._add("rename", path=path, to=to)
        self._looked_at(to)

    def removed(self) -> None:
        path = self._path()
        self._add("unlink", path=path)
        self._add("stat", path=path)
        if self._chance(0.5):
            self._add("open", slot=(slot := self._slot()), path=path, flags=NEW)
            self._written(slot, self._some(6, 4096, 100_000))
            self._add("close", slot=slot)
            self._looked_at(path)

    def namespaces(self) -> None:
        """Directories, which are namespaces: made, made again, removed."""
        path = f"{self._some('a', 'b')}/u{self._user}d"
        for kind in self._some(("mkdir", "rmdir"), ("mkdir", "mkdir", "rmdir", "rmdir")):
            self._add(kind, path=path)
            if self._chance(0.3):
                self._add("listing", path=path[0])

    # Past the mount.

    def outside(self) -> None:
        """`rbd` makes, resizes, renames and removes an image; the mount shows it within 2 s."""
        path = f"{self._some('a', 'b')}/u{self._user}o{len(self._done)}"
        size = self._some(4096, MIB, 5 * MIB)
        wait = {"seconds": LONGEST_WAIT_S}
        self._add("rbd", arguments=["create", f"--size={size}B", f":{path}"])
        self._add("wait_for", path=path, size=size, **wait)
        if self._chance(0.5):
            size += self._some(MIB, -4096 if size > 4096 else MIB)
            resize = ["resize", "--no-progress", "--allow-shrink", f"--size={size}B", f":{path}"]
            self._add("rbd", arguments=resize)
            self._add("wait_for", path=path, size=size, **wait)
            self._add("read_all", path=path, how="read")
        self._add("rbd", arguments=["rm", "--no-progress", f":{path}"])
        self._add("wait_for", path=path, size=None, **wait)

    def cloned(self) -> None:
        """A snapshot is cloned; the clone is read and written."""
        path = self._path()
        snap, clone = f"{path}@c{len(self._done)}", f"{path[0]}/u{self._user}c{len(self._done)}"
        size = self._some(4097, 100_000, 3 * MIB)
        self._add("copy_in", path=path, **self._mark(), size=size, command=["cp"])
        self._add("link", path=path, to=snap)
        self._add("rbd", arguments=["snap", "protect", f":{snap}"])
        self._add("rbd", arguments=["clone", f":{snap}", f":{clone}"])
        self._add("wait_for", path=clone, size=size, seconds=LONGEST_WAIT_S)
        self._add("read_all", path=clone, how=self._some("read", "direct", "seek"))
        self._add("open", slot=(slot := self._slot()), path=clone, flags=os.O_RDWR)
        self._add("write", slot=slot, **self._mark(), off=4000, size=self._some(1, 96, 4096))
        self._add("close", slot=slot)
        self._add("read_all", path=clone, how=self._some("read", "direct", "seek"))
        self._add("read_all", path=snap, how="read")
        if self._chance(0.3):
            self._add("rbd", arguments=["flatten", "--no-progress", f":{clone}"])
            self._add("read_all", path=clone, how="read")
