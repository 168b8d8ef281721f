"""Images that all write and read: each block is a register, each snapshot a fixed content."""

from __future__ import annotations

import errno
import math
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from soaking import content
from soaking.operations import Finding, errno_name
from soaking.register import Register

if TYPE_CHECKING:
    from soaking.allowances import Allowances
    from soaking.operations import Event


@dataclass(frozen=True)
class Disk:
    """An image of fixed size that is there from the beginning.

    Attributes:
        part: the name of its partition, or "": then the whole disk is used.
        first, blocks: the blocks that are used; in the partition, block 0 is *first*.
    """

    path: str
    file: int
    first: int
    blocks: int
    part: str = ""

    @property
    def size(self) -> int:
        return (self.first + self.blocks) * content.BLOCK


@dataclass
class _Snapshot:
    event: Event
    content: dict[int, frozenset[content.Value]] = field(default_factory=dict)


class Disks:
    """Judges reads of the disks. One user writes each block, one version after the other."""

    def __init__(self, disks: tuple[Disk, ...], allowances: Allowances) -> None:
        self._disks = {path: disk for disk in disks for path in (disk.path, disk.part) if path}
        self._allowances = allowances
        self._registers: dict[tuple[str, int], Register] = {}
        self._reads: list[tuple[Event | None, Disk, int, bytes, float, float]] = []
        self._snapshots: dict[str, _Snapshot] = {}
        self._slots: dict[tuple[int, str], tuple[Disk, str, float]] = {}
        self.findings: list[Finding] = []

    def concerns(self, event: Event) -> bool:
        """Whether an event is about a disk or a descriptor of one."""
        args = event.operation.args
        if "slot" in args and event.operation.kind != "open":
            return (event.user, args["slot"]) in self._slots
        return any(self.disk_of(args[name]) for name in ("path", "to") if name in args)

    def disk_of(self, path: str) -> Disk | None:
        return self._disks.get(path) or self._disks.get(path.partition("@")[0])

    def follow(self, event: Event) -> None:
        method = getattr(self, f"_{event.operation.kind}", None)
        if event.errno is not None:
            self._failed(event)
        elif method is not None:
            method(event, **event.operation.args)

    def exported(self, path: str, found: bytes | None, end: float) -> None:
        disk = self._disks[path]
        if found is None:
            self._find(None, "lost file", f"{path} is not in the cluster")
            return
        self._note(None, disk, disk.first, found[disk.first * content.BLOCK : disk.size], end, end)

    def _find(self, event: Event | None, check: str, message: str, detail: str = "") -> None:
        if event is None:
            self.findings.append(Finding(check, message, "the end", detail))
            return
        detail = detail or f"{event.operation.kind} {errno_name(event.errno)}"
        story, text = event.operation.story, f"{event}: {message}"
        self.findings.append(Finding(check, text, story, detail, event.user, event.index))

    def _failed(self, event: Event) -> None:
        kind, args = event.operation.kind, event.operation.args
        slot = self._slots.get((event.user, args.get("slot", "")))
        if kind in ("write", "mmap_write") and slot is not None:
            self._write(event, **args, end=math.inf)
        if kind == "fallocate" and slot is not None:
            self._fallocate(event, **args, end=math.inf)
        if kind == "close":
            self._slots.pop((event.user, args["slot"]), None)
        writes = kind == "open" and args["flags"] & os.O_ACCMODE != os.O_RDONLY
        if event.mount == 1 and event.errno == errno.EBUSY and writes:
            # The lock is the first mount's.
            return
        if not self._allowances.allows(event, slot and slot[2]):
            self._find(event, "wrong answer", f"{event.value}: expected success")

    def _open(self, event: Event, slot: str, path: str, flags: int) -> None:
        disk = self.disk_of(path)
        assert disk is not None
        self._slots[event.user, slot] = (disk, path, event.start)

    def _close(self, event: Event, slot: str) -> None:
        del self._slots[event.user, slot]

    def _blocks(self, event: Event, slot: str, off: int, size: int) -> tuple[Disk, int, range]:
        disk, path, _ = self._slots[event.user, slot]
        base = disk.first if path == disk.part else 0
        first = base + off // content.BLOCK
        return disk, first, range(first, first + size // content.BLOCK)

    def _write(
        self,
        event: Event,
        slot: str,
        file: int,
        version: int,
        off: int,
        size: int,
        end: float | None = None,
    ) -> None:
        disk, _, blocks = self._blocks(event, slot, off, size)
        if end is None and event.value != size:
            self._find(event, "short write", f"expected {size}", "write")
        for block in blocks:
            mark = content.Mark(file, block - disk.first, event.user, version)
            self._register(disk, block).write(mark, event.start, end or event.end)

    def _mmap_write(self, event: Event, slot: str, **args: Any) -> None:
        self._write(event, slot, **args)

    def _fallocate(
        self, event: Event, slot: str, mode: int, off: int, size: int, end: float | None = None
    ) -> None:
        disk, _, blocks = self._blocks(event, slot, off, size)
        for block in blocks:
            self._register(disk, block).write(None, event.start, end or event.end)

    def _register(self, disk: Disk, block: int) -> Register:
        return self._registers.setdefault((disk.path, block), Register(None))

    def _read(self, event: Event, slot: str, off: int, size: int) -> None:
        disk, first, _ = self._blocks(event, slot, off, size)
        if len(event.value) != size:
            self._find(event, "short read", f"{len(event.value)} bytes", "read")
        self._note(event, disk, first, event.value, event.start, event.end)

    def _mmap_read(self, event: Event, slot: str, off: int, size: int) -> None:
        self._read(event, slot, off, size)

    def _fstat(self, event: Event, slot: str) -> None:
        disk, path, _ = self._slots[event.user, slot]
        expected = disk.blocks * content.BLOCK if path == disk.part else disk.size
        if path == disk.path and event.value != expected:
            self._find(event, "wrong size", f"expected {expected}", "fstat")

    def _read_all(self, event: Event, path: str, how: str) -> None:
        disk = self.disk_of(path)
        assert disk is not None
        part = path == disk.part
        wanted = event.value if part else event.value[disk.first * content.BLOCK :]
        wanted = wanted[: disk.blocks * content.BLOCK]
        if len(wanted) != disk.blocks * content.BLOCK:
            self._find(event, "wrong size", f"{len(event.value)} bytes", f"read_all {how}")
            return
        if "@" in path:
            self._read_snapshot(event, disk, path, wanted)
        else:
            self._note(event, disk, disk.first, wanted, event.start, event.end)

    def _export(self, event: Event, path: str) -> None:
        self._read_all(event, path, "export")

    def _link(self, event: Event, path: str, to: str) -> None:
        self._snapshots[to] = _Snapshot(event)

    def _unlink(self, event: Event, path: str) -> None:
        self._snapshots.pop(path, None)

    def _read_snapshot(self, event: Event, disk: Disk, path: str, data: bytes) -> None:
        snapshot = self._snapshots.get(path)
        if snapshot is None:
            return
        found = dict(_decoded(disk, disk.first, data))
        if not snapshot.content:
            snapshot.content = found
            taken = snapshot.event
            self._note(event, disk, disk.first, data, taken.start, taken.end)
        changed = [block for block in found if found[block] != snapshot.content[block]]
        if changed:
            block = changed[0]
            was, now = _words(snapshot.content[block]), _words(found[block])
            message = f"{len(changed)} blocks of a snapshot changed, {block} from {was} to {now}"
            self._find(event, "snapshot changed", message, "read")

    def _note(
        self, event: Event | None, disk: Disk, first: int, data: bytes, start: float, end: float
    ) -> None:
        """A read from *start* to *end*: judged when all writes are known."""
        self._reads.append((event, disk, first, data, start, end))

    def judge(self) -> list[Finding]:
        """All findings, now that every event was followed."""
        decoded = [
            (event, disk, block, values, start, end)
            for event, disk, first, data, start, end in self._reads
            for block, values in _decoded(disk, first, data)
            if disk.first <= block < disk.first + disk.blocks
        ]
        for event, disk, block, values, _, end in decoded:
            # A snapshot tells of its own time.
            if len(values) == 1 and event is not None and end == event.end:
                self._register(disk, block).read(next(iter(values)), end)
        for event, disk, block, values, start, end in decoded:
            self._judge(event, disk, block, values, start, end)
        return self.findings

    def _judge(
        self,
        event: Event | None,
        disk: Disk,
        block: int,
        values: frozenset[content.Value],
        start: float,
        end: float,
    ) -> None:
        register = self._register(disk, block)
        wrong = [value for value in values if not register.explains(value, start, end)]
        torn = len(values) > 1 and not register.busy(start, end)
        if wrong or torn:
            possible = _words(register.possible(start, end))
            message = f"block {block} of {disk.path} is {_words(values)}: expected {possible}"
            self._find(event, "wrong content", message, event.operation.kind if event else "export")


def _decoded(disk: Disk, first: int, data: bytes) -> list[tuple[int, frozenset[content.Value]]]:
    found = []
    for off in range(0, len(data) - content.BLOCK + 1, content.BLOCK):
        block = first + off // content.BLOCK
        values = content.values(data[off : off + content.BLOCK], disk.file, block - disk.first)
        found.append((block, frozenset(values)))
    return found


def _words(values: Any) -> str:
    return " or ".join(sorted("zeros" if value is None else str(value) for value in values))
