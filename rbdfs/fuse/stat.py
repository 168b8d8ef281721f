"""Attributes of entries, as the kernel is told them."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING

import pyfuse3

if TYPE_CHECKING:
    from rbdfs.config.mount_options import MountOptions
    from rbdfs.model.entry import Entry

# How long the kernel may answer from what it was told, in seconds. With the time that the
# catalog keeps what it read, a change elsewhere is seen within two seconds.
VALID_S = 0.9
# cp and stdio read in units of this: a whole object of 4 MiB would make every small read large.
# It is librbd's discard granularity too, which a loop device takes from statfs.
BLOCK_BYTES = 64 * 1024


def entry_attributes(
    entry: Entry, inode: int, options: MountOptions, size: int | None = None
) -> pyfuse3.EntryAttributes:
    """Return the stat(2) of *entry*; *size* overrides its size, for a file that is open."""
    attr = pyfuse3.EntryAttributes()
    attr.st_ino = pyfuse3.InodeT(inode)
    attr.st_mode = pyfuse3.ModeT(file_mode(entry, options))
    attr.st_nlink = 2 if entry.is_directory else 1
    attr.st_uid = _first(entry.ownership.uid, options.uid, "uid" in options.dictated)
    attr.st_gid = _first(entry.ownership.gid, options.gid, "gid" in options.dictated)
    attr.st_size = entry.size if size is None else size
    attr.st_blksize = BLOCK_BYTES
    attr.st_blocks = _blocks(attr.st_size, entry.allocated)
    attr.st_atime_ns = entry.times.atime_ns
    attr.st_mtime_ns = entry.times.mtime_ns
    attr.st_ctime_ns = entry.times.ctime_ns
    # A name that goes with another one, when this mount renames, moves or removes an image.
    goes_along = options.manage and not (entry.is_image or entry.is_directory)
    attr.entry_timeout = 0.0 if goes_along else VALID_S
    attr.attr_timeout = VALID_S
    return attr


def _blocks(size: int, allocated: int | None) -> int:
    """Return st_blocks, in units of 512 bytes: all of the file, unless more is known."""
    blocks = -(-size // 512)
    if allocated is None:
        return blocks
    # GNU tar archives a file without blocks as one hole, and what was told may be a second old.
    return min(blocks, max(allocated // 512, BLOCK_BYTES // 512))


def file_mode(entry: Entry, options: MountOptions) -> int:
    """Return type and permissions: directories 0700, images 0600, snapshots 0400 by default.

    A snapshot has those of its image, but for writing.
    """
    if entry.is_directory:
        dmask = options.umask if options.dmask is None else options.dmask
        return stat.S_IFDIR | (0o777 & ~dmask)
    usual = 0o666 & ~options.umask
    mode = _first(entry.ownership.mode, usual, "umask" in options.dictated)
    return stat.S_IFREG | (mode & ~0o222 if entry.is_snapshot else mode)


def _first(asked_for: int | None, usual: int, dictated: bool) -> int:
    return usual if asked_for is None or dictated else asked_for
