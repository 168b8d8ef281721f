"""Directories that are open for reading, by file handle."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from rbdfs.errors import Failure, NotOpen
from rbdfs.files.keeping import fresh_numbers
from rbdfs.model.record import known_fields

if TYPE_CHECKING:
    from rbdfs.files.keeping import Keeping
    from rbdfs.model.entry import Entry
    from rbdfs.names.catalog import Catalog
    from rbdfs.names.listing import Listing

# The kernel's offset is the index of an item in one reading, and above it which reading that is:
# each server reads anew. All of it fits into the 31 bits of a program that knows no more.
_INDEX_BITS = 26
_READINGS = 32
# The last names of one answer that fit into a message beside the rest of it, in bytes.
_NAMES_BYTES = 60_000
# Names of the answer before that are kept: the last one may not have come to the kernel.
_EARLIER = 16


@dataclass(frozen=True, slots=True)
class Answer:
    """The last answer to READDIR: the kernel goes on from somewhere in it.

    Attributes:
        reading: in which reading it was given.
        first: the index of the first of *names* there.
        asked, place: the kernel's offset that it was asked with, of whichever reading, and the
            index that this was in *reading*. It is asked again if the answer does not arrive.
    """

    reading: int = 0
    first: int = 0
    names: tuple[str, ...] = ()
    asked: int = 0
    place: int = 0

    def record(self) -> dict[str, Any]:
        """Return it fit for JSON."""
        return asdict(self)

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> Answer:
        """Return the answer that record() has written, in this version or another one."""
        known = known_fields(cls, record)
        return cls(**known | {"names": tuple(known.get("names", ()))})

    def before(self, offset: int) -> list[bytes]:
        """Return the names that stood before the kernel's *offset*, the last one first."""
        reading, index = divmod(offset, 1 << _INDEX_BITS)
        if offset == self.asked:
            index = self.place
        elif reading != self.reading or offset == 0:
            return []
        names = self.names[: max(0, index - self.first)]
        return [name.encode("utf-8", "surrogateescape") for name in reversed(names)]


@dataclass(slots=True)
class OpenDirectory:
    """One open directory, which is read from the beginning to the end, or anew.

    Attributes:
        inode, entry: what was opened, and by which number.
        request: the kernel's number of the request that opened it, or 0.
        listing: what this server reads.
        reading: which reading of the directory that is, counted over servers.
        last: what was answered last, by this server or the one before.
    """

    inode: int
    entry: Entry
    request: int
    listing: Listing
    reading: int = 0
    last: Answer = field(default_factory=Answer)

    async def index(self, offset: int) -> int:
        """Return the index of the item that the kernel wants at *offset*.

        Raises OSError EIO where nobody can tell: a mirror takes for deleted what is skipped.
        """
        if offset == 0:
            self.listing.rewind()
            return 0
        reading, index = divmod(offset, 1 << _INDEX_BITS)
        if reading == self.reading:
            return index
        if before := self.last.before(offset):
            places: dict[bytes, int] = {}
            item = await self.listing.item(0)
            while item is not None:
                places[item[0]] = len(places)
                item = await self.listing.item(len(places))
            # The one that it has got last may have been removed since.
            for name in before:
                if name in places:
                    return places[name] + 1
        raise Failure(f"{self.entry.spec}: nobody knows where the reading was")

    def offset(self, index: int) -> int:
        """Return the kernel's offset for what comes at *index*."""
        return self.reading << _INDEX_BITS | index


class OpenDirectories:
    """One reading each. The keeper remembers them, so that they go on after a server's end."""

    def __init__(self, catalog: Catalog, keeping: Keeping) -> None:
        self._catalog = catalog
        self._keeping = keeping
        self._directories: dict[int, OpenDirectory] = {}
        # By the kernel's number of the request that opened it.
        self._opened_by: dict[int, int] = {}
        self._numbers = fresh_numbers()

    def open(self, inode: int, entry: Entry, request: int = 0) -> int:
        """Return a new file handle on *entry*; raise OSError ENOTDIR for a file.

        What *request*, the kernel's number of it, has opened already is not opened again.
        """
        if request in self._opened_by:
            return self._opened_by[request]
        fh = next(self._numbers)
        self._add(fh, OpenDirectory(inode, entry, request, self._catalog.listing(entry)))
        return fh

    def opened_by(self, request: int) -> int | None:
        """Return the handle of what *request*, by the kernel's number of it, has opened."""
        return self._opened_by.get(request)

    def restore(
        self,
        fh: int,
        inode: int,
        entry: Entry,
        request: int = 0,
        last: dict[str, Any] | None = None,
    ) -> None:
        """Open again what another server had open, under its number; reading begins anew.

        *last* is the record of its last answer.
        """
        directory = OpenDirectory(inode, entry, request, self._catalog.listing(entry))
        directory.last = Answer.from_record(last or {})
        directory.reading = (directory.last.reading + 1) % _READINGS
        self._add(fh, directory)

    def _add(self, fh: int, directory: OpenDirectory) -> None:
        self._directories[fh] = directory
        if directory.request:
            self._opened_by[directory.request] = fh
        self._tell(fh, directory)

    def _tell(self, fh: int, directory: OpenDirectory) -> None:
        last = directory.last.record() if directory.last.names else None
        self._keeping.opened_directory(
            fh, directory.inode, directory.entry, directory.request, last
        )

    def directory(self, fh: int) -> OpenDirectory:
        """Return open directory *fh*; raise OSError EBADF where there is none."""
        try:
            return self._directories[fh]
        except KeyError:
            raise NotOpen(f"directory handle {fh} is not open") from None

    def answered(self, fh: int, asked: int, first: int, names: list[bytes]) -> None:
        """Remember that the kernel is given *names*, the first of which is item *first*.

        *asked* is its offset for that, which may be of a reading before, or within the last answer.
        """
        directory = self._directories.get(fh)
        if directory is None or not names:
            return
        earlier = directory.last.before(asked)[:_EARLIER]
        answer = [name.decode("utf-8", "surrogateescape") for name in (*earlier[::-1], *names)]
        place, first = first, first - len(earlier)
        room, kept = _NAMES_BYTES, 0
        for name in reversed(answer):
            room -= len(json.dumps(name)) + 2
            kept += room >= 0
        first, answer = first + len(answer) - kept, answer[len(answer) - kept :]
        directory.last = Answer(directory.reading, first, tuple(answer), asked, place)
        self._tell(fh, directory)

    def release(self, fh: int) -> None:
        """Close directory *fh*."""
        self._directories.pop(fh, None)
        self._opened_by = {by: opened for by, opened in self._opened_by.items() if opened != fh}
        self._keeping.released_directory(fh)
