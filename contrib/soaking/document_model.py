"""What the files of one user are: their names, contents, snapshots and descriptors."""

from __future__ import annotations

import os
from dataclasses import dataclass, field


@dataclass
class Document:
    """A file, whatever it is called.

    Attributes:
        content: its bytes; of no meaning once *doubtful*.
        snapshots: the content of each, by name.
        growing: it was made, or emptied, by a descriptor that is open for writing: until the last
            of these is closed, writes past the end make it longer.
        writers: the slots that are open for writing.
        doubtful: an operation failed as a fault allows it; what the file holds is not known.
        protected: snapshots that have clones, and so cannot be removed.
        related: a clone, or the parent of one.
        seen_from: when its path shows what a descriptor of a mount before has changed last.
    """

    content: bytearray = field(default_factory=bytearray)
    snapshots: dict[str, bytes] = field(default_factory=dict)
    growing: bool = False
    writers: set[str] = field(default_factory=set)
    doubtful: bool = False
    protected: set[str] = field(default_factory=set)
    related: bool = False
    seen_from: float = 0.0

    def put(self, off: int, data: bytes) -> None:
        if off > len(self.content):
            self.content.extend(bytes(off - len(self.content)))
        self.content[off : off + len(data)] = data

    def resize(self, size: int) -> None:
        del self.content[size:]
        self.content.extend(bytes(size - len(self.content)))


@dataclass
class Descriptor:
    """A slot: what it is open on, and since when. One that *failed* is closed for good."""

    document: Document
    flags: int
    opened: float
    snapshot: str | None = None

    @property
    def writable(self) -> bool:
        return self.flags & os.O_ACCMODE != os.O_RDONLY


@dataclass
class Folder:
    """All that is known of one user's files.

    Attributes:
        directories: the namespaces.
        unknown: paths of which nobody can tell whether they are there.
    """

    documents: dict[str, Document] = field(default_factory=dict)
    slots: dict[str, Descriptor] = field(default_factory=dict)
    directories: set[str] = field(default_factory=set)
    unknown: set[str] = field(default_factory=set)

    def of(self, path: str) -> tuple[Document | None, str | None]:
        """The document of a path, and the name of its snapshot if it is one that is there."""
        image, at, snap = path.partition("@")
        document = self.documents.get(image)
        if not at or document is None:
            return document, None
        return (document, snap) if snap in document.snapshots else (None, None)

    def is_unknown(self, *paths: str) -> bool:
        return any(path in self.unknown or path.partition("@")[0] in self.unknown for path in paths)

    def doubt(self, *paths: str) -> None:
        """Forget what is known of these paths."""
        for path in paths:
            image = path.partition("@")[0]
            self.unknown.update((path, image))
            document = self.documents.pop(image, None)
            if document is not None:
                document.doubtful = True
