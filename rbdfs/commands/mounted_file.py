"""A file that a command is about, on a mount of rbdfs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rbdfs.errors import UserError
from rbdfs.kernel.mountpoint import rbdfs_entry

if TYPE_CHECKING:
    from rbdfs.kernel.mount import Entry


def mount_of(path: str) -> Entry:
    """Return the mount of rbdfs that *path* is on; raise UserError where it is on none."""
    entry = rbdfs_entry(path)
    if entry is None:
        raise UserError(f"{path!a} is on no mount of rbdfs")
    return entry
