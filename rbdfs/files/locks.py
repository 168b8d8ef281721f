"""Which images' exclusive locks this mount has: on record, for the server after this one.

A server that died has left its locks behind: fencing it leaves them in place, until the next owner
breaks them. So where one is not there any more, or another's, when its image is opened again,
somebody wrote in the gap, and may have closed the image since.

A lock is on record from when it was taken until just before it is given up. A server that makes way
for another gives up all of them, when the keeper takes in nothing more: it says so before.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

from rbdfs.errors import Fenced
from rbdfs.model.entry import Key

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rbdfs.ceph.image import Image
    from rbdfs.files.keeping import Keeping
    from rbdfs.model.entry import Entry


class Locks:
    """The locks of this server, and those that the one before it has left."""

    def __init__(self, keeping: Keeping) -> None:
        self._keeping = keeping
        self._fresh = itertools.count(1)
        # By these numbers they are on record.
        self._numbers: dict[Key, int] = {}
        # Clients of this mount, of which one had the lock when its server died.
        self._left: dict[Key, frozenset[str]] = {}
        self._held: dict[Image, Key] = {}
        self._kept: set[Image] = set()

    def inherit(
        self, locks: dict[int, dict[str, Any]], given_up: Iterable[str], addresses: Iterable[str]
    ) -> None:
        """Take over the records of other servers: *addresses* are the clients of the last one.

        Those at the addresses *given_up* have given up theirs, as far as they got.
        """
        for number, record in locks.items():
            key, holders = Key(*record["image"]), frozenset(record["holders"])
            self._numbers[key] = number
            if not holders & set(given_up):
                # A server of an older version, after that of the record, has told nothing.
                self._left[key] = holders | frozenset(addresses)
        self._fresh = itertools.count(max(locks, default=0) + 1)

    async def check(self, image: Image, entry: Entry, own: str) -> None:
        """Make sure that nobody had the lock of *image* since the server before had it, if it had.

        To be called before the client *own* takes it. Raises OSError ESHUTDOWN.
        """
        holders = self._left.pop(entry.image_key, None)
        if holders is None:
            return
        owners = await image.lock_owners()
        if owners is None:
            # The feature was switched off: there is no lock, and nobody has trusted in it since.
            return
        if not owners or not holders.issuperset(owners):
            by = ", ".join(owners) or "somebody who is gone"
            raise Fenced(f"{entry.spec}: after the crash its lock was taken by {by}")
        self._kept.add(image)
        # Before it happens: the next server may find the lock of either.
        self._tell(entry.image_key, sorted({*owners, own}))
        await self._keeping.delivered()

    def took(self, image: Image, entry: Entry, own: str) -> None:
        """Have it on record that client *own* has the lock of *image*."""
        self._held[image] = entry.image_key
        if image not in self._kept:
            self._tell(entry.image_key, [own])

    def giving_up(self, image: Image) -> None:
        """Have no lock of *image* on record any more: it is about to be closed."""
        self._kept.discard(image)
        key = self._held.pop(image, None)
        if key in self._numbers:
            self._keeping.unlocked(self._numbers.pop(key))

    def kept(self, image: Image | None) -> bool:
        """Tell whether nobody had the lock of *image* between this server and the one before."""
        return image in self._kept

    def _tell(self, key: Key, holders: list[str]) -> None:
        number = self._numbers.setdefault(key, next(self._fresh))
        self._keeping.locked(number, {"image": list(key), "holders": holders})
