"""What a user of an open image may do with it."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rbdfs.model.entry import Entry


class Use(enum.Enum):
    """What a user of an image may do with it."""

    READ = enum.auto()
    WRITE_WHOLE = enum.auto()
    WRITE_PARTITION = enum.auto()

    @classmethod
    def of(cls, entry: Entry, *, writable: bool) -> Use:
        """Return how a file on *entry* uses the image."""
        if not writable:
            return cls.READ
        return cls.WRITE_PARTITION if entry.key.partition else cls.WRITE_WHOLE
