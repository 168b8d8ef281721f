"""Contents of one user's files, by their paths: read, cut, copied, written in a storm."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any

from soaking import content
from soaking.document_model import Document
from soaking.documents import Documents

if TYPE_CHECKING:
    from soaking.operations import Event


class DocumentContents(Documents):
    """What is done to whole files."""

    def _stat(self, event: Event, path: str) -> None:
        if self.folder.is_unknown(path):
            return
        document, snap = self.folder.of(path)
        if document is None:
            self._answers(event, errno.ENOENT)
        elif self._succeeds(event) and not document.doubtful:
            self._check_size(event, document, snap)

    def _utime(self, event: Event, path: str) -> None:
        if not self.folder.is_unknown(path):
            document, _ = self.folder.of(path)
            self._answers(event, None if document else errno.ENOENT)

    def _truncate(self, event: Event, path: str, size: int) -> None:
        if self.folder.is_unknown(path):
            return
        document, _ = self.folder.of(path)
        if not self._answers(event, None if document else errno.ENOENT):
            self._doubt(event, path)
        elif document is not None:
            document.resize(size)

    def _read_all(self, event: Event, path: str, how: str) -> None:
        if self.folder.is_unknown(path):
            return
        document, snap = self.folder.of(path)
        if document is None:
            self._answers(event, errno.ENOENT)
        elif self._succeeds(event) and not document.doubtful:
            self._check_whole(event, document, snap)

    def _check_whole(self, event: Event, document: Document, snap: str | None) -> None:
        if snap is None and event.start < document.seen_from:
            return
        expected = bytes(document.content) if snap is None else document.snapshots[snap]
        if not self._compare(event, expected, event.value) and snap is None:
            document.doubtful = True

    def _export(self, event: Event, path: str) -> None:
        document, snap = self.folder.of(path)
        if document is None or document.doubtful or document.writers:
            return
        if self._succeeds(event):
            self._check_whole(event, document, snap)

    def _copy_in(
        self, event: Event, path: str, file: int, version: int, size: int, command: list[str]
    ) -> None:
        data = content.pattern(file, self._user, version, 0, size)
        self._copied(event, path, bytearray(data))

    def _copy(self, event: Event, path: str, to: str, command: list[str]) -> None:
        if self.folder.is_unknown(path):
            self._doubt(event, to)
            return
        document, snap = self.folder.of(path)
        if document is None:
            if not event.value:
                self._find(event, "wrong answer", "copied what is not there")
            return
        data = document.content if snap is None else document.snapshots[snap]
        doubtful = document.doubtful or (snap is None and event.start < document.seen_from)
        self._copied(event, to, bytearray(data), doubtful=doubtful)

    def _copied(self, event: Event, path: str, data: bytearray, *, doubtful: bool = False) -> None:
        """A command has made *path*, or written over it; its complaint is the event's value."""
        if self.folder.is_unknown(path):
            return
        if event.errno is not None or event.value:
            # A command does not tell errno; that a fault has to be there is told by this.
            moved = self._has_moved and "resource busy" in str(event.value)
            late = "timed out" in str(event.value) and self._allowances.stood_still(event)
            if not moved and not late and not self._allowances.harms(event, event.start):
                self._find(event, "wrong answer", "expected success", event.value[-30:])
            self._doubt(event, path)
            return
        document = self.folder.documents.get(path)
        if document is None:
            document = self.folder.documents[path] = Document()
            self._names.change(path, True, event)
        document.content = data
        document.doubtful |= doubtful

    def _storm(self, event: Event, path: str, file: int, version: int, **shape: Any) -> None:
        if self.folder.is_unknown(path):
            return
        exists = path in self.folder.documents
        if not self._answers(event, errno.EEXIST if exists else None):
            self._doubt(event, path)
        elif not exists:
            errors = event.value["errors"]
            if errors and self._allowances.harms(event, event.start):
                self._doubt(event, path)
                return
            if errors:
                self._find(event, "wrong answer", errors[0], errors[0].rpartition(": ")[2])
            size = shape["writers"] * shape["chunks"] * shape["chunk"]
            data = content.pattern(file, self._user, version, 0, size)
            self.folder.documents[path] = Document(bytearray(data), doubtful=bool(errors))
            self._names.change(path, True, event)
