"""What open files do for those who change names: close, trim, or stand aside for a moment."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rbdfs.files.table import HandleTable
    from rbdfs.model.entry import Entry


async def closed(handles: HandleTable, entry: Entry) -> None:
    """Wait until an image that nobody uses any more is closed.

    The kernel does not wait for RELEASE, and so what follows a close(2) may be quicker.
    """
    shared = handles.shared(entry)
    if shared is not None and shared.unused:
        await shared.unchanging()
