"""What dead clients have left half-made or half-renamed, in the way of who goes on."""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING

import trio

from rbdfs.ceph import unfinished_changes
from rbdfs.model.file_name import FileName
from rbdfs.names.new_names import parse_new

if TYPE_CHECKING:
    from collections.abc import Callable

    from rbdfs.ceph.cluster import Cluster, Ioctx
    from rbdfs.ceph.unfinished_changes import Half
    from rbdfs.model.entry import Entry
    from rbdfs.names.trash import Change

    Find = Callable[[Ioctx, str], Half | None]

log = logging.getLogger(__name__)

# What is as it was after so many looks, so many seconds apart, is nobody's any more. librbd takes
# milliseconds.
_LOOKS = 12
_LOOK_S = 0.25


class HalfMade:
    """Removes it."""

    def __init__(self, cluster: Cluster, change: Change) -> None:
        self._cluster = cluster
        self._change = change

    async def clear_made(self, parent: Entry, name: bytes, maker: str | None) -> None:
        """Remove what is left of an image *name* that client *maker*, who is dead, has not made.

        None: nobody knows who that was. Raises OSError.
        """
        await self._clear(parent, name, partial(unfinished_changes.half_made, maker=maker))

    async def clear_renamed(self, parent: Entry, name: bytes, image: Entry) -> None:
        """Take *name* from *image* where it has another one: who renamed it is dead."""
        if image.image_id is not None:
            find = partial(unfinished_changes.half_renamed, image_id=image.image_id)
            await self._clear(parent, name, find)

    async def _clear(self, parent: Entry, name: bytes, find: Find) -> None:
        wanted = parse_new(name)
        if parent.is_pool_list or wanted != FileName(wanted.image):
            return
        ioctx = await self._cluster.ioctx(parent.pool, parent.namespace)
        action = f"clearing {name!r} in {parent.spec}"
        look = partial(find, ioctx, wanted.image)
        half = await self._change(parent, action, look)
        if half is None:
            return
        for _ in range(_LOOKS):
            await trio.sleep(_LOOK_S)
            if await self._change(parent, action, look) != half:
                # Somebody is at it.
                return
        remove = partial(unfinished_changes.remove_half, ioctx, wanted.image, half)
        await self._change(parent, action, remove)
        log.info("%s: %s was left half-made, and is removed", action, half)
