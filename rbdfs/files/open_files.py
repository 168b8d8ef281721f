"""Open files by file handle, by the image under them, and by the request that opened them.

There may be tens of thousands on one image, or one on each of as many: nobody who asks for some of
them goes through all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rbdfs.errors import NotOpen

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from rbdfs.files.handle import Handle, Use
    from rbdfs.files.shared_image import SharedImage


class OpenFiles:
    """A set of handles. What a handle is found by stays as it is while it is in here."""

    def __init__(self) -> None:
        self._handles: dict[int, Handle] = {}
        self._sharing: dict[SharedImage, dict[int, Handle]] = {}
        self._opened_by: dict[int, Handle] = {}

    def __getitem__(self, fh: int) -> Handle:
        """Return the open file *fh*; raise OSError EBADF where there is none."""
        try:
            return self._handles[fh]
        except KeyError:
            raise NotOpen(f"file handle {fh} is not open") from None

    def __contains__(self, fh: int) -> bool:
        return fh in self._handles

    def __len__(self) -> int:
        return len(self._handles)

    def __iter__(self) -> Iterator[Handle]:
        return iter(list(self._handles.values()))

    def sharing(self, shared: SharedImage) -> list[Handle]:
        """Return the open files of *shared*."""
        return list(self._sharing.get(shared, {}).values())

    def images(self) -> list[SharedImage]:
        """Return the images that files are open on, lost ones too."""
        return list(self._sharing)

    def opened_by(self, request: int) -> Handle | None:
        """Return the file that this request, by the kernel's number of it, has opened."""
        return self._opened_by.get(request)

    def add(self, handle: Handle) -> None:
        """Take in an open file."""
        self._handles[handle.fh] = handle
        self._sharing.setdefault(handle.shared, {})[handle.fh] = handle
        if handle.request:
            self._opened_by[handle.request] = handle

    def remove(self, handle: Handle) -> None:
        """Forget a file that is being closed."""
        del self._handles[handle.fh]
        sharing = self._sharing[handle.shared]
        del sharing[handle.fh]
        if not sharing:
            del self._sharing[handle.shared]
        if self._opened_by.get(handle.request) is handle:
            del self._opened_by[handle.request]

    def move(self, handles: Iterable[Handle], shared: SharedImage) -> list[Use]:
        """Have those of *handles* that are open be files of *shared*; return how they use it."""
        moved = [handle for handle in handles if handle.fh in self._handles]
        for handle in moved:
            self.remove(handle)
            handle.shared = shared
            shared.expect(handle.use)
            self.add(handle)
        return [handle.use for handle in moved]
