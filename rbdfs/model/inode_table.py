"""The inode table: which inode number stands for which entry, and how often the kernel knows it."""

from __future__ import annotations

import contextlib
import hashlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from rbdfs.errors import Gone

if TYPE_CHECKING:
    from rbdfs.model.entry import Entry, Key
    from rbdfs.model.relocation import Relocation

ROOT_INODE = 1
# More lookups than a kernel will ever take back.
_FOR_GOOD = 1 << 48


@dataclass(slots=True)
class Inode:
    """One inode that the kernel knows.

    Attributes:
        entry: what it stands for, as last seen.
        nlookup: how many replies gave it to the kernel that no FORGET has taken back.
        open_count: file handles on it, which keep it known without a lookup.
    """

    entry: Entry
    nlookup: int = 0
    open_count: int = 0


class InodeTable:
    """Inodes by number. The number follows from the key, so it survives a remount."""

    def __init__(self, root: Entry) -> None:
        self._inodes: dict[int, Inode] = {}
        self._numbers = {root.key: ROOT_INODE}
        # The numbers of _inodes by image or snapshot, of which each seek for data asks for one; and
        # what snapshots of an image have some.
        self._of_wholes: dict[Key, tuple[int, ...]] = {}
        self._snaps: dict[Key, set[Key]] = {}
        self._known(ROOT_INODE, root).nlookup = 1

    def __len__(self) -> int:
        return len(self._inodes)

    def __contains__(self, number: int) -> bool:
        return number in self._inodes

    def number(self, key: Key) -> int:
        """Return the inode number of *key*, known to the kernel or not."""
        if key in self._numbers:
            return self._numbers[key]
        number = stable_number(key)
        while number in self._inodes:
            number = stable_number(key, number)
        return number

    def numbers_of(self, whole: Key) -> tuple[int, ...]:
        """Return the inodes of an image or a snapshot and of its partitions, as far as known."""
        return self._of_wholes.get(whole, ())

    def remember(self, entry: Entry) -> int:
        """Count a lookup of *entry*, which the kernel is about to be told of; return its inode."""
        number = self.refresh(entry)
        inode = self._known(number, entry)
        self._numbers[entry.key] = number
        inode.nlookup += 1
        return number

    def restore(self, entry: Entry, number: int | None = None) -> None:
        """Know *entry* for good: another server has told the kernel of it, who knows how often.

        *number* is what the kernel knows it by, if not by the number that follows from its key.
        """
        if number is not None:
            self._numbers[entry.key] = number
        self._inodes[self.remember(entry)].nlookup += _FOR_GOOD

    def relocate(self, relocation: Relocation) -> None:
        """Have the inodes of an image that has moved stand for it where it is now.

        They keep their numbers for as long as the kernel knows them: under two numbers it would
        keep the pages of one file twice, and not see what is written to the other ones.
        """
        for number in self._numbers_in(relocation.source):
            old = self._inodes[number].entry
            with contextlib.suppress(OSError):
                new = relocation.follow(old)
                self._see(number, new)
                self._numbers.pop(old.key, None)
                self._numbers.setdefault(new.key, number)

    def rename(self, image: Key, name: str) -> None:
        """Have the inodes of *image*, its snapshots and partitions tell its new *name*."""
        for number in self._numbers_in(image):
            self._see(number, replace(self._inodes[number].entry, image=name))

    def refresh(self, entry: Entry) -> int:
        """Keep *entry* as the last seen state of its inode, if that is known; return the number."""
        number = self.number(entry.key)
        if number in self._inodes:
            self._see(number, entry)
        return number

    def entry(self, number: int) -> Entry:
        """Return what *number* stands for; raise OSError ESTALE for a number not known."""
        try:
            return self._inodes[number].entry
        except KeyError:
            raise Gone(f"inode {number} is not known") from None

    def forget(self, number: int, count: int) -> None:
        """Take back *count* lookups, as the kernel's FORGET says."""
        inode = self._inodes.get(number)
        if inode is not None and number != ROOT_INODE:
            inode.nlookup = max(0, inode.nlookup - count)
            self._drop_unused(number, inode)

    def opened(self, number: int, entry: Entry) -> None:
        """Keep *number*, of *entry*, known until released() has been called as often as this."""
        inode = self._known(number, entry)
        self._numbers.setdefault(inode.entry.key, number)
        inode.open_count += 1

    def released(self, number: int) -> None:
        """Take back one opened()."""
        inode = self._inodes[number]
        inode.open_count -= 1
        self._drop_unused(number, inode)

    def _numbers_in(self, image: Key) -> list[int]:
        """Return the inodes of *image*, its snapshots and their partitions."""
        wholes = (image, *self._snaps.get(image, ()))
        return [number for whole in wholes for number in self.numbers_of(whole)]

    def _known(self, number: int, entry: Entry) -> Inode:
        """Return the inode of *number*, which stands for *entry* if it was not known."""
        if number not in self._inodes:
            self._inodes[number] = Inode(entry)
            self._index(number, entry)
        return self._inodes[number]

    def _see(self, number: int, entry: Entry) -> None:
        """Have the inode of *number* stand for *entry*."""
        inode = self._inodes[number]
        if inode.entry.key != entry.key:
            self._unindex(number, inode.entry)
            self._index(number, entry)
        inode.entry = entry

    def _index(self, number: int, entry: Entry) -> None:
        whole = entry.whole_key
        self._of_wholes[whole] = (*self.numbers_of(whole), number)
        if entry.is_snapshot:
            self._snaps.setdefault(entry.image_key, set()).add(whole)

    def _unindex(self, number: int, entry: Entry) -> None:
        whole = entry.whole_key
        left = tuple(each for each in self.numbers_of(whole) if each != number)
        if left:
            self._of_wholes[whole] = left
            return
        del self._of_wholes[whole]
        if entry.is_snapshot:
            snaps = self._snaps[entry.image_key]
            snaps.remove(whole)
            if not snaps:
                del self._snaps[entry.image_key]

    def _drop_unused(self, number: int, inode: Inode) -> None:
        if inode.nlookup == 0 and inode.open_count == 0 and number != ROOT_INODE:
            del self._inodes[number]
            self._unindex(number, inode.entry)
            if self._numbers.get(inode.entry.key) == number:
                del self._numbers[inode.entry.key]


def stable_number(key: Key, taken: int = 0) -> int:
    """Return a 63-bit inode number for *key*: the next candidate after *taken*.

    63 bits, because 32-bit programs and some archive formats stumble over the sign bit; never
    0, which means "no inode", nor 1, the root.
    """
    text = repr((tuple(key), taken)).encode("utf-8", "surrogateescape")
    number = int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") >> 1
    return number if number > ROOT_INODE else number + 2
