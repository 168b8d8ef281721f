"""Keeping: what remembers open files, and all else that a server after this one would need.

The server's link to the keeper implements it, and Unkept where there is no keeper. What a call has
told is safe once it returns: it is there when this process dies in the next instruction. Only where
the keeper stands still it may not have room for that. An operation that has told something waits
for that, by delivered(), before its answer, and whoever changes something in the cluster before
that change.
"""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from rbdfs.model.entry import Entry
from rbdfs.model.record import known_fields

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rbdfs.files.handle import Handle


@dataclass(frozen=True, slots=True)
class OpenFile:
    """An open file, as it is left to the next server.

    Attributes:
        fh: the number that the kernel knows it by.
        inode: the inode that it was opened by.
        sync: whether each write is flushed.
        length: how long a file that grows has grown, in bytes; None for all others.
        error: the errno of why it is lost, if it is.
        volatile: whether librbd may keep acknowledged writes in memory; None where nobody asked.
        request: the kernel's number of the OPEN or CREATE that it was opened by, or 0.
        direct_io: whether the kernel uses no page cache for it; None where that is not known.
        abandoned: whether its caller never heard of it, so that nobody will ask for its end.
    """

    fh: int
    inode: int
    entry: Entry
    writable: bool
    sync: bool = False
    length: int | None = None
    error: int | None = None
    volatile: bool | None = None
    request: int = 0
    direct_io: bool | None = None
    abandoned: bool = False

    def record(self) -> dict[str, Any]:
        """Return what is to be known beside its number, fit for JSON."""
        # asdict() copies what it finds, ten times as slowly.
        record = {name: getattr(self, name) for name in self.__slots__}
        del record["fh"]
        return record | {"entry": self.entry.record()}

    @classmethod
    def from_record(cls, fh: int, record: dict[str, Any]) -> OpenFile:
        """Return open file *fh* that record() has written, in this version or another one."""
        known = known_fields(cls, record)
        return cls(**known | {"fh": fh, "entry": Entry.from_record(record["entry"])})


def fresh_numbers() -> Iterator[int]:
    """Return numbers for file handles that no server of this mount has given before.

    The kernel sends the RELEASE of a file again that a dead server had closed; under a number that
    was given again it would close another one. Microseconds since the boot, which no mount
    outlives, are more than any server opens files.
    """
    return itertools.count(time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1000)


class Keeping(Protocol):
    """Who remembers what a new server would need."""

    @property
    def told(self) -> int:
        """How many times anything was told."""

    def rooted(self, root: Entry) -> None:
        """Remember what is mounted: its name may be another one when the next server starts."""

    def connected_as(self, addresses: list[str]) -> None:
        """Remember the addresses of this server's Ceph clients, to be fenced if it dies."""

    def fencing(self, addresses: list[str]) -> None:
        """Remember that it is this mount that fences *addresses*."""

    def locked(self, number: int, lock: dict[str, Any]) -> None:
        """Remember an exclusive lock of an image, as JSON, and whose of this mount's it may be."""

    def unlocked(self, number: int) -> None:
        """Forget a lock that is being given up."""

    def giving_up(self, addresses: list[str]) -> None:
        """Remember that the clients at *addresses* may have given up any lock from now on."""

    def inherited(self, files: list[OpenFile]) -> None:
        """Know that open *files* are remembered already, as another server has left them."""

    def opened(self, handle: Handle) -> None:
        """Remember an open file, as it is now: how long it has grown, and whether it is lost."""

    def grown(self, fh: int, length: int) -> None:
        """Remember how long an open file is: each write beyond its end sends this message."""

    def released(self, fh: int) -> None:
        """Forget a file that was closed."""

    def opened_directory(
        self, fh: int, inode: int, entry: Entry, request: int, last: dict[str, Any] | None
    ) -> None:
        """Remember an open directory; its numbers are other ones than those of files.

        *request* is the kernel's number of the request that opened it, or 0. *last* is, as JSON,
        what was read of it last, if anything was.
        """

    def released_directory(self, fh: int) -> None:
        """Forget a directory that was closed."""

    def begun(self, unique: int, request: dict[str, Any]) -> None:
        """Remember a request that must not run twice, as JSON, before it changes anything.

        *unique* is the kernel's number of it, without the mark of one that is sent again.
        """

    def answered(self, unique: int) -> None:
        """Forget a request once the kernel has its answer."""

    async def delivered(self) -> None:
        """Wait until all that was told so far is remembered: at once, unless the keeper hangs."""

    def moving(self, number: int, move: dict[str, Any]) -> None:
        """Remember a move of an image to another pool, as JSON, which a successor has to end."""

    def moved(self, number: int) -> None:
        """Forget a move that has come to its end."""


class Unremembered:
    """Keeping of nothing: where no server comes after this one."""

    told = 0

    def rooted(self, root: Entry) -> None: ...

    def connected_as(self, addresses: list[str]) -> None: ...

    def fencing(self, addresses: list[str]) -> None: ...

    def locked(self, number: int, lock: dict[str, Any]) -> None: ...

    def unlocked(self, number: int) -> None: ...

    def giving_up(self, addresses: list[str]) -> None: ...

    def inherited(self, files: list[OpenFile]) -> None: ...

    def opened(self, handle: Handle) -> None: ...

    def grown(self, fh: int, length: int) -> None: ...

    def released(self, fh: int) -> None: ...

    def opened_directory(
        self, fh: int, inode: int, entry: Entry, request: int, last: dict[str, Any] | None
    ) -> None: ...

    def released_directory(self, fh: int) -> None: ...

    def begun(self, unique: int, request: dict[str, Any]) -> None: ...

    def answered(self, unique: int) -> None: ...

    async def delivered(self) -> None: ...

    def moving(self, number: int, move: dict[str, Any]) -> None: ...

    def moved(self, number: int) -> None: ...
