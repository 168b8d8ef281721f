"""What the kernel has of images in its page cache, and is made to write back and to forget."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from rbdfs.ceph.pool_threads import PoolThreads
from rbdfs.files.gate import Gate
from rbdfs.kernel.raw_requests import invalidate_inode

if TYPE_CHECKING:
    from rbdfs.model.entry import Entry
    from rbdfs.model.inode_table import InodeTable

_THREADS_A_POOL = 8


class PageCache:
    """The kernel's page cache, as far as it is of one mount.

    Attributes:
        device: the kernel's descriptor, once there is one.
    """

    def __init__(self, inodes: InodeTable) -> None:
        self._inodes = inodes
        # In which the kernel drops pages, and waits for those that are dirty.
        self._threads = PoolThreads(_THREADS_A_POOL)
        self._gate = Gate()
        self.device = -1

    async def drop(self, entry: Entry) -> None:
        """Make the kernel forget pages and attributes of the image or snapshot of *entry*.

        As write_back() does, whatever comes of it.
        """
        await self.write_back(entry)

    async def write_back(self, entry: Entry) -> bool:
        """Make the kernel write back, and forget, the pages of the image or snapshot of *entry*.

        Of its partitions too, which have pages of their own. Waits until that is done; returns
        False where it is not, because of quiesce().
        """
        if self._gate.is_frozen:
            return False
        async with self._gate.passed():
            for number in self._inodes.numbers_of(entry.whole_key):
                # The kernel does not know every inode, and then has nothing to forget.
                with contextlib.suppress(FileNotFoundError):
                    await self._threads.run(entry.pool, invalidate_inode, self.device, number)
        return True

    async def quiesce(self) -> None:
        """Ask nothing of the kernel any more; return when it has done what it was asked.

        That may be a WRITE of a dirty page, or wait for a READ of another: so somebody has to
        read its requests for so long.
        """
        await self._gate.close()
