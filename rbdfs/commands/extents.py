"""Where a file has data and where it has holes, as lseek(2) tells."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rbdfs.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True, slots=True)
class Extent:
    """``start~length`` of a file, in bytes: data, or a hole, which reads as zeros."""

    start: int
    length: int
    data: bool


def extents(descriptor: int, size: int) -> Iterator[Extent]:
    """Yield the extents of the first *size* bytes of an open file, which leave no gap.

    Two that follow each other differ. One is known at a time, however many there are. Raises
    OSError, and UserError where the file changes so that there is no end.
    """
    last: Extent | None = None
    for extent in _sought(descriptor, size):
        if last is None or last.data != extent.data:
            if last is not None:
                yield last
            last = extent
        else:
            last = Extent(last.start, last.length + extent.length, last.data)
    if last is not None:
        yield last


def _sought(descriptor: int, size: int) -> Iterator[Extent]:
    offset = 0
    while offset < size:
        data = min(_seek(descriptor, offset, os.SEEK_DATA, size), size)
        if data > offset:
            yield Extent(offset, data - offset, data=False)
        if data == size:
            return
        offset = min(_seek(descriptor, data, os.SEEK_HOLE, size), size)
        if offset <= data:
            raise UserError("it changes while it is looked at")
        yield Extent(data, offset - data, data=True)


def _seek(descriptor: int, offset: int, whence: int, size: int) -> int:
    try:
        found = os.lseek(descriptor, offset, whence)
    except OSError as exc:
        # There is no data behind it; or the file is shorter by now, and nothing is there either.
        if exc.errno == errno.ENXIO:
            return size
        raise
    if found < offset:
        raise UserError("it changes while it is looked at")
    return found
