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
        self._inodes = {ROOT_INODE: Inode(root, nlookup=1)}
        self._numbers = {root.key: ROOT_INODE}

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

    def numbers_of(self, whole: Key) -> list[int]:
        """Return the inodes of an image or a snapshot and of its partitions, as far as known."""
        return [number for number, inode in self._inodes.items() if inode.entry.whole_key == whole]

    def remember(self, entry: Entry) -> int:
        """Count a lookup of *entry*, which the kernel is about to be told of; return its inode."""
        number = self.refresh(entry)
        inode = self._inodes.setdefault(number, Inode(entry))
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
        for number, inode in self._inodes.items():
            old = inode.entry
            if not relocation.covers(old):
                continue
            with contextlib.suppress(OSError):
                inode.entry = relocation.follow(old)
                self._numbers.pop(old.key, None)
                self._numbers.setdefault(inode.entry.key, number)

    def rename(self, image: Key, name: str) -> None:
        """Have the inodes of *image*, its snapshots and partitions tell its new *name*."""
        for inode in self._inodes.values():
            if inode.entry.image_key == image:
                inode.entry = replace(inode.entry, image=name)

    def refresh(self, entry: Entry) -> int:
        """Keep *entry* as the last seen state of its inode, if that is known; return the number."""
        number = self.number(entry.key)
        if number in self._inodes:
            self._inodes[number].entry = entry
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
        inode = self._inodes.setdefault(number, Inode(entry))
        self._numbers.setdefault(inode.entry.key, number)
        inode.open_count += 1

    def released(self, number: int) -> None:
        """Take back one opened()."""
        inode = self._inodes[number]
        inode.open_count -= 1
        self._drop_unused(number, inode)

    def _drop_unused(self, number: int, inode: Inode) -> None:
        if inode.nlookup == 0 and inode.open_count == 0 and number != ROOT_INODE:
            del self._inodes[number]
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
