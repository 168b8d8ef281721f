"""The files that one user alone changes: every answer, and every byte, is known beforehand."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from soaking import content
from soaking.document_model import Descriptor, Document, Folder
from soaking.operations import Finding, errno_name

if TYPE_CHECKING:
    from soaking.allowances import Allowances
    from soaking.names import Names
    from soaking.operations import Event


class Documents:
    """Follows one user's events, in their order; what is not as it has to be is a finding.

    Where an answer is wrong, what it was about is believed no more: one fault is one finding.
    """

    def __init__(self, user: int, allowances: Allowances, names: Names) -> None:
        self.folder = Folder()
        self.findings: list[Finding] = []
        self._allowances = allowances
        self._names = names
        self._user = user
        # An image that was moved is not moved again before its source has gone, nor shrunk while
        # it is copied.
        self._has_moved = False

    def follow(self, event: Event) -> None:
        method = getattr(self, f"_{event.operation.kind}", None)
        if method is not None:
            method(event, **event.operation.args)

    def exported(self, path: str, found: bytes | None) -> None:
        """Compare what the cluster holds at the end."""
        document, snap = self.folder.of(path)
        if document is None or document.doubtful or self.folder.is_unknown(path):
            return
        expected = bytes(document.content) if snap is None else document.snapshots[snap]
        if found is None:
            self._find(None, "lost file", f"{path} is not in the cluster")
        elif found != expected:
            what = content.describe_difference(expected, found)
            self._find(None, "wrong content", f"the cluster holds of {path}: {what}", "export")

    # What all have in common.

    def _find(self, event: Event | None, check: str, message: str, detail: str = "") -> None:
        if event is None:
            self.findings.append(Finding(check, message, "the end", detail, self._user))
            return
        self.findings.append(
            Finding(
                check,
                f"{event}: {message}",
                event.operation.story,
                detail or f"{event.operation.kind} {errno_name(event.errno)}",
                event.user,
                event.index,
            )
        )

    def _answers(self, event: Event, *expected: int | None, opened: float | None = None) -> bool:
        """Whether the event ended in one of the ways that are expected; None is success."""
        if event.errno in expected:
            return True
        if self._has_moved and event.errno == errno.EBUSY:
            return False
        if event.errno is None or not self._allowances.allows(event, opened):
            wanted = " or ".join(errno_name(number) for number in expected)
            self._find(event, "wrong answer", f"{event.value or 'success'}: expected {wanted}")
        return False

    def _succeeds(self, event: Event, opened: float | None = None) -> bool:
        return self._answers(event, None, opened=opened)

    def _slot(self, slot: str) -> Descriptor | None:
        """What a slot is open on; None where that is nothing, or nothing that is known."""
        return self.folder.slots.get(slot)

    def _compare(self, event: Event, expected: bytes, found: bytes) -> bool:
        if expected == found:
            return True
        self._find(event, "wrong content", content.describe_difference(expected, found))
        return False

    # Descriptors.

    def _open(self, event: Event, slot: str, path: str, flags: int) -> None:
        folder = self.folder
        if folder.is_unknown(path):
            return
        document, snap = folder.of(path)
        writable = flags & os.O_ACCMODE != os.O_RDONLY
        expected: int | None = None
        if document is None and not flags & os.O_CREAT:
            expected = errno.ENOENT
        elif document is not None and flags & os.O_CREAT and flags & os.O_EXCL:
            expected = errno.EEXIST
        elif snap is not None and writable:
            expected = errno.EROFS
        if not self._answers(event, expected):
            if writable:
                self._doubt(event, path)
            return
        if expected is not None:
            return
        made = document is None
        if document is None:
            document = folder.documents[path] = Document()
            self._names.change(path, True, event)
        if writable:
            document.writers.add(slot)
            document.growing |= made or bool(flags & os.O_TRUNC)
        if flags & os.O_TRUNC and writable:
            document.content.clear()
        folder.slots[slot] = Descriptor(document, flags, event.start, snap)

    def _doubt(self, event: Event, *paths: str) -> None:
        self.folder.doubt(*paths)
        for path in paths:
            self._names.doubt(path.partition("@")[0], event)

    def _close(self, event: Event, slot: str) -> None:
        open_file = self.folder.slots.pop(slot, None)
        if open_file is None:
            return
        document = open_file.document
        document.writers.discard(slot)
        if self._allowances.harms(event, open_file.opened) and open_file.writable:
            # Who trims it, and to what, is not known.
            document.doubtful |= document.growing
        elif not self._answers(event, None, opened=open_file.opened):
            document.doubtful = True
        document.growing &= bool(document.writers)
        self._changed_by(event, open_file)

    def _changed_by(self, event: Event, open_file: Descriptor) -> None:
        """Note what the path shows later: it is of another mount than the descriptor by now."""
        if open_file.writable and self._allowances.harms(event, open_file.opened):
            open_file.document.seen_from = event.end + self._allowances.seen_within(
                event.start, event.end
            )

    def _dup_close(self, event: Event, slot: str) -> None:
        open_file = self._slot(slot)
        if open_file is not None:
            self._succeeds(event, open_file.opened)

    _fork_close = _dup_close
    _fsync = _dup_close

    def _write(self, event: Event, slot: str, file: int, version: int, off: int, size: int) -> None:
        open_file = self._slot(slot)
        if open_file is None:
            return
        document, room = open_file.document, max(0, len(open_file.document.content) - off)
        full = not document.growing and room == 0
        if document.doubtful:
            return
        expected_answers: list[int | None] = [errno.ENOSPC if full else None]
        if full and not document.content:
            # Whether an empty file grows that was not emptied by this descriptor, is left open.
            expected_answers.append(None)
            document.growing = event.errno is None
        if not self._answers(event, *expected_answers, opened=open_file.opened):
            document.doubtful = True
        elif event.errno is None:
            expected = size if document.growing else min(size, room)
            if event.value != expected:
                self._find(event, "short write", f"expected {expected}", "write")
                document.doubtful = True
            data = content.pattern(file, self._user, version, off, size)
            document.put(off, data[:expected])
            self._changed_by(event, open_file)

    def _mmap_write(self, event: Event, slot: str, **args: int) -> None:
        self._write(event, slot, **args)

    def _read(self, event: Event, slot: str, off: int, size: int) -> None:
        open_file = self._slot(slot)
        if open_file is None or open_file.document.doubtful:
            return
        if self._succeeds(event, open_file.opened):
            document = open_file.document
            whole = document.content
            if open_file.snapshot is not None:
                whole = bytearray(document.snapshots.get(open_file.snapshot, b""))
            self._compare(event, bytes(whole[off : off + size]), event.value)

    def _fstat(self, event: Event, slot: str) -> None:
        open_file = self._slot(slot)
        if open_file is None or open_file.document.doubtful or open_file.snapshot is not None:
            return
        if self._succeeds(event, open_file.opened):
            self._check_size(event, open_file.document)

    def _check_size(self, event: Event, document: Document, snap: str | None = None) -> None:
        size = len(document.content if snap is None else document.snapshots[snap])
        if snap is None and event.operation.kind == "stat" and event.start < document.seen_from:
            return
        if event.value != size:
            self._find(event, "wrong size", f"expected {size}", event.operation.kind)

    def _ftruncate(self, event: Event, slot: str, size: int) -> None:
        open_file = self._slot(slot)
        if open_file is None or open_file.document.doubtful:
            return
        document = open_file.document
        if self._succeeds(event, open_file.opened):
            document.resize(size)
            # Emptied as by O_TRUNC.
            document.growing |= size == 0
            self._changed_by(event, open_file)
        else:
            document.doubtful = True

    def _fallocate(self, event: Event, slot: str, mode: int, off: int, size: int) -> None:
        open_file = self._slot(slot)
        if open_file is None or open_file.document.doubtful:
            return
        document = open_file.document
        if self._succeeds(event, open_file.opened):
            end = min(off + size, len(document.content))
            document.content[off:end] = bytes(max(0, end - off))
            self._changed_by(event, open_file)
        else:
            document.doubtful = True
