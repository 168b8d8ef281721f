"""The partitions of images and snapshots, read when somebody asks for them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from rbdfs.ceph.single_flight import Lane, SingleFlight
from rbdfs.errors import Gone
from rbdfs.model.partition_table import read_partitions_async

if TYPE_CHECKING:
    from rbdfs.ceph.image import Image
    from rbdfs.ceph.opener import Opener
    from rbdfs.metadata.lineage import Lineages
    from rbdfs.model.entry import Entry
    from rbdfs.model.partition_table import Partition

# A partition table seldom changes, and reading it means opening the image: kept for seconds.
_IMAGE_TTL_S = 5.0
# A snapshot never changes.
_SNAP_TTL_S = 86400.0
_KEPT = 4096


class PartitionTables:
    """Partitions by image and snapshot.

    *sector* is the sector size, in bytes, of an MBR that does not tell it.
    """

    def __init__(
        self, opener: Opener, lineages: Lineages, sector: int, nursery: trio.Nursery | None = None
    ) -> None:
        self._opener = opener
        self._lineages = lineages
        self._sector = sector
        self._of_images: SingleFlight[list[Partition]] = SingleFlight(
            _IMAGE_TTL_S, _KEPT, nursery=nursery
        )
        self._of_snaps: SingleFlight[list[Partition]] = SingleFlight(
            _SNAP_TTL_S, _KEPT, nursery=nursery
        )

    async def partitions(self, whole: Entry, lane: Lane | None = None) -> list[Partition]:
        """Return the partitions of an image or snapshot, none where the table is not sound.

        With *lane*, those known last will do where its pool does not answer in time. Raises OSError
        where the image cannot be read.
        """
        tables = self._of_snaps if whole.is_snapshot else self._of_images
        return await tables.get(whole.key, lambda: self._read(whole), lane)

    def changed(self, entry: Entry) -> None:
        """Forget the table of the image of *entry*, which somebody has written to."""
        self._of_images.invalidate(entry.whole_key)

    async def check_place(self, entry: Entry, image: Image) -> None:
        """Raise OSError ESTALE unless partition *entry* is where its table has it; *image* is open.

        What was known may be seconds old, and whoever is to write has the image by now. Then the
        table is forgotten, and whoever looks for the partition finds it where it is.
        """
        if not entry.key.partition or entry.is_snapshot:
            return
        place = (entry.key.partition, entry.offset, entry.size)
        for table in await self._tables_now(entry.whole, image):
            if place not in [(found.number, found.offset, found.length) for found in table]:
                self.changed(entry)
                raise Gone(f"{entry.spec} is not at {entry.offset}~{entry.size} any more")

    async def _tables_now(self, whole: Entry, image: Image) -> list[list[Partition]]:
        """Return the table of *whole*, which is open as *image*, by every way that can tell it."""
        tables = []
        if not image.read_only:
            # librbd may not have sent yet what was written here.
            tables.append(await read_partitions_async(image.size, image.read, self._sector))
        if not image.lock_held:
            # Others may write, which neither librbd's cache nor the size that it knows tells of.
            tables.append(await self._of_images.get_newer(whole.key, lambda: self._read(whole)))
        return tables

    async def _read(self, whole: Entry) -> list[Partition]:
        await self._lineages.check(whole)
        image = await self._opener.open(whole, read_only=True)
        try:
            return await read_partitions_async(image.size, image.read, self._sector)
        finally:
            with trio.CancelScope(shield=True):
                await image.close()
