"""Directories that are open for reading, by file handle."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rbdfs.errors import NotOpen
from rbdfs.files.keeping import fresh_numbers

if TYPE_CHECKING:
    from rbdfs.files.keeping import Keeping
    from rbdfs.model.entry import Entry
    from rbdfs.names.catalog import Catalog
    from rbdfs.names.listing import Listing


class OpenDirectories:
    """One reading each. The keeper remembers them, so that they go on after a server's end."""

    def __init__(self, catalog: Catalog, keeping: Keeping) -> None:
        self._catalog = catalog
        self._keeping = keeping
        self._directories: dict[int, Listing] = {}
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
        self._add(fh, inode, entry, request)
        return fh

    def restore(self, fh: int, inode: int, entry: Entry, request: int = 0) -> None:
        """Open again what another server had open, under its number; reading begins anew."""
        self._add(fh, inode, entry, request)

    def _add(self, fh: int, inode: int, entry: Entry, request: int) -> None:
        self._directories[fh] = self._catalog.listing(entry)
        if request:
            self._opened_by[request] = fh
        self._keeping.opened_directory(fh, inode, entry, request)

    def listing(self, fh: int) -> Listing:
        """Return the reading of open directory *fh*; raise OSError EBADF where there is none."""
        try:
            return self._directories[fh]
        except KeyError:
            raise NotOpen(f"directory handle {fh} is not open") from None

    def release(self, fh: int) -> None:
        """Close directory *fh*."""
        self._directories.pop(fh, None)
        self._opened_by = {by: opened for by, opened in self._opened_by.items() if opened != fh}
        self._keeping.released_directory(fh)
