"""A file that a command is about, on a mount of rbdfs."""

from __future__ import annotations

from rbdfs.errors import UserError
from rbdfs.kernel.mount import FILE_SYSTEM, Entry, entry_of, place


def mount_of(path: str) -> Entry:
    """Return the mount of rbdfs that *path* is on; raise UserError where it is on none.

    No file system is asked, so that one that hangs does no harm here.
    """
    try:
        entry = entry_of(place(path, follow=True))
    except OSError as exc:
        raise UserError(f"{path!a}: {exc.strerror}") from exc
    if entry is None or entry.file_system != FILE_SYSTEM:
        raise UserError(f"{path!a} is on no mount of rbdfs")
    return entry
