"""Names of one user's files: renamed, moved, removed, snapshotted, and changed past the mount."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from soaking.document_contents import DocumentContents
from soaking.document_model import Document

if TYPE_CHECKING:
    from soaking.operations import Event


def pool_of(path: str) -> str:
    return path.partition("/")[0]


class NamedDocuments(DocumentContents):
    """All that one user does to files of its own."""

    def _rename(self, event: Event, path: str, to: str) -> None:
        folder = self.folder
        if folder.is_unknown(path, to):
            self._doubt(event, path, to)
            return
        document, taken = folder.documents.get(path), folder.documents.get(to)
        expected: list[int | None] = [None]
        if document is None:
            expected = [errno.ENOENT]
        elif taken is not None and pool_of(path) == pool_of(to):
            # The one that is replaced goes to the trash, as _unlink() has it.
            if taken.related or taken.protected:
                expected = [None, errno.EBUSY]
        elif taken is not None:
            expected = [errno.EEXIST]
        elif pool_of(path) != pool_of(to):
            if document.growing:
                expected = [errno.EBUSY]
            elif document.related or document.protected:
                expected = [None, errno.EBUSY]
        if not self._answers(event, *expected):
            self._doubt(event, path, to)
        elif event.errno is None and document is not None:
            self._has_moved |= pool_of(path) != pool_of(to)
            folder.documents[to] = folder.documents.pop(path)
            self._names.change(path, False, event)
            if taken is not None:
                # For a moment nothing has the name.
                self._names.change(to, False, event)
            self._names.change(to, True, event)

    def _unlink(self, event: Event, path: str) -> None:
        folder = self.folder
        if folder.is_unknown(path):
            self._doubt(event, path)
            return
        document, snap = folder.of(path)
        expected: list[int | None] = [None]
        if document is None:
            expected = [errno.ENOENT]
        elif snap is not None:
            expected = [errno.EBUSY if snap in document.protected else None]
        elif document.writers:
            expected = [errno.EBUSY]
        elif document.related or document.protected:
            expected = [None, errno.EBUSY]
        if not self._answers(event, *expected):
            self._doubt(event, path)
        elif event.errno is None and document is not None:
            if snap is not None:
                del document.snapshots[snap]
            else:
                del folder.documents[path]
                self._names.change(path, False, event)

    def _mkdir(self, event: Event, path: str) -> None:
        directories = self.folder.directories
        if self.folder.is_unknown(path):
            return
        if not self._answers(event, errno.EEXIST if path in directories else None):
            self._doubt(event, path)
        elif event.errno is None:
            directories.add(path)
            self._names.change(path, True, event)

    def _rmdir(self, event: Event, path: str) -> None:
        directories = self.folder.directories
        if self.folder.is_unknown(path):
            return
        if not self._answers(event, None if path in directories else errno.ENOENT):
            self._doubt(event, path)
        elif event.errno is None:
            directories.discard(path)
            self._names.change(path, False, event)

    def _link(self, event: Event, path: str, to: str) -> None:
        folder = self.folder
        if folder.is_unknown(path):
            return
        document = folder.documents.get(path)
        snap = to.partition("@")[2]
        if document is None:
            self._answers(event, errno.ENOENT)
        elif not self._answers(event, errno.EEXIST if snap in document.snapshots else None):
            self._doubt(event, path)
        elif event.errno is None:
            document.snapshots[snap] = bytes(document.content)

    def _wait_for(self, event: Event, path: str, size: int | None, seconds: float) -> None:
        folder = self.folder
        document = folder.documents.get(path)
        if folder.is_unknown(path) or (document is not None and document.doubtful):
            return
        if (None if document is None else len(document.content)) != size:
            # Where an operation before this one was left out, it waits for something else.
            return
        if self._allowances.lost(event) or not self._succeeds(event):
            return
        bound = self._allowances.seen_within(event.start, event.end)
        took = event.end - event.start if event.value is None else event.value
        if event.value is None or took > bound:
            message = f"not seen within {took:.1f} s"
            self._find(event, "not seen", message, "there" if size is not None else "gone")

    # `rbd` beside the mount.

    def _rbd(self, event: Event, arguments: list[str]) -> None:
        verb, paths = arguments[0], [word[1:] for word in arguments if word.startswith(":")]
        if self.folder.is_unknown(*paths):
            self._doubt(event, *paths)
            return
        if event.value:
            # What it complains of is its own affair; nothing is known of the outcome.
            self._doubt(event, *paths)
            return
        if verb == "create":
            size = next(int(w[7:-1]) for w in arguments if w.startswith("--size="))
            self.folder.documents[paths[0]] = Document(bytearray(size))
            self._names.change_elsewhere(paths[0], True, event)
            return
        document = self.folder.documents.get(paths[0].partition("@")[0])
        if document is None:
            self._doubt(event, *paths)
            return
        self._changed_by_rbd(event, " ".join(arguments[:2]), document, paths, arguments)

    def _changed_by_rbd(
        self, event: Event, what: str, document: Document, paths: list[str], arguments: list[str]
    ) -> None:
        folder = self.folder
        snap = paths[0].partition("@")[2]
        if what.startswith("resize"):
            document.resize(next(int(w[7:-1]) for w in arguments if w.startswith("--size=")))
        elif what.startswith("rm"):
            del folder.documents[paths[0]]
            self._names.change_elsewhere(paths[0], False, event)
        elif what.startswith("rename"):
            folder.documents[paths[1]] = folder.documents.pop(paths[0])
            self._names.change_elsewhere(paths[0], False, event)
            self._names.change_elsewhere(paths[1], True, event)
        elif what == "snap create":
            document.snapshots[snap] = bytes(document.content)
        elif what == "snap protect":
            document.protected.add(snap)
        elif what.startswith("clone"):
            data = bytearray(document.snapshots.get(snap, b""))
            known = snap in document.snapshots and not document.doubtful
            document.related = True
            folder.documents[paths[1]] = Document(data, related=True, doubtful=not known)
            self._names.change_elsewhere(paths[1], True, event)
