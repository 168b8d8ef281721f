"""Who opens images, and the one that does it by Debian's binding of librbd."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Protocol

import rbd
import trio

from rbdfs.ceph.blocking_image import encoded, is_utf8
from rbdfs.ceph.errors import from_ceph
from rbdfs.ceph.image import Image
from rbdfs.ceph.pool_threads import PoolThreads
from rbdfs.errors import Missing

if TYPE_CHECKING:
    from collections.abc import Callable

    from rbdfs.ceph.cluster import Cluster
    from rbdfs.model.entry import Entry

# Images whose snapshot is set at once in one pool.
_OPENING_A_POOL = 16


class Opener(Protocol):
    """Opens images.

    Attributes:
        address: of its client.
        addresses: of the clients that are this process, or one that it succeeds, as watchers and
            the blocklist name them: ``IP:0/NONCE``.
    """

    address: str
    addresses: frozenset[str]

    async def open(self, entry: Entry, *, read_only: bool) -> Image:
        """Open the image or snapshot of *entry*: by id, so that a rename does no harm.

        Snapshots always are read-only. A read-only image has no watcher and takes no lock; librbd
        does not follow later changes of its header. Raises OSError with librbd's errno.
        """


class PythonOpener:
    """Images of ``rbd.Image``, on the cluster's own client."""

    def __init__(self, cluster: Cluster) -> None:
        self.address = cluster.address
        self.addresses = frozenset({cluster.address})
        self._cluster = cluster
        self._threads = PoolThreads(_OPENING_A_POOL)

    async def open(self, entry: Entry, *, read_only: bool) -> Image:
        """Open, as Opener.open() says, by librbd's asynchronous call."""
        ioctx = await self._cluster.ioctx_of(entry)
        image_id, name = entry.image_id, encoded(entry.image)
        # The binding asks an image that was opened by id for its name, and where that is not
        # UTF-8 the error is lost, and with it the answer: such an image is opened by name.
        by_name = image_id is None or not is_utf8(name)
        read_only = read_only or entry.is_snapshot

        def submit(on_complete: Callable[..., None]) -> None:
            which = (name, None) if by_name else (None, image_id)
            rbd.RBD().aio_open_image(on_complete, ioctx, which[0], None, read_only, which[1])

        action = f"{entry.spec}: open"
        with from_ceph(action):
            _, binding = await self._cluster.bridge.call(action, submit)
            try:
                # An image of format 1 cannot be asked for an id.
                if by_name and image_id is not None and binding.id() != image_id:
                    raise Missing(f"{entry.spec}: another image has this name now")
                if entry.is_snapshot:
                    # By id: a name may have been given to another snapshot meanwhile.
                    set_snap = partial(binding.set_snap_by_id, entry.key.snap_id)
                    await self._threads.run(entry.pool, set_snap)
                # librbd may have to read the header for it.
                size = await self._threads.run(entry.pool, binding.size)
            except BaseException:
                with trio.CancelScope(shield=True):
                    await self._threads.run(entry.pool, binding.close)
                raise
        return Image(self._cluster.bridge, binding, entry.spec, size=size, read_only=read_only)
