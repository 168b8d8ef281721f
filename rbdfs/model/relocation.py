"""Where an image has gone: its entries at the place that it was in, and at the one it is in now."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from rbdfs.errors import ImageGone

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rbdfs.model.entry import Entry, Key


@dataclass(frozen=True, slots=True)
class Relocation:
    """One image that has moved, with its snapshots and partitions.

    Attributes:
        source: key of the image where it was.
        target: the image where it is.
        snap_ids: of its snapshots, there by those here.
    """

    source: Key
    target: Entry
    snap_ids: Mapping[int, int]

    def covers(self, entry: Entry) -> bool:
        """Tell whether *entry* is the image where it was, or something in it."""
        return entry.image_key == self.source

    def follow(self, entry: Entry) -> Entry:
        """Return what *entry* is now; raise OSError ESTALE for a snapshot that is not there."""
        if not self.covers(entry):
            return entry
        target, snap_id = self.target, entry.key.snap_id
        if snap_id and snap_id not in self.snap_ids:
            raise ImageGone(f"{entry.spec} did not move along to {target.spec}")
        key = target.key._replace(
            snap_id=self.snap_ids.get(snap_id, 0), partition=entry.key.partition
        )
        return replace(
            entry, key=key, pool=target.pool, namespace=target.namespace, image=target.image
        )
