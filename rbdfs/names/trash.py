"""The RBD trash: what is removed or replaced goes there, and can be brought back."""

from __future__ import annotations

import contextlib
import logging
import time
from functools import partial
from typing import TYPE_CHECKING, Protocol, TypeVar

import trio

from rbdfs.ceph import directory_changes, trash_changes
from rbdfs.model.file_name import ImageSpec

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from rbdfs.ceph.cluster import Cluster
    from rbdfs.model.entry import Entry

T = TypeVar("T")

log = logging.getLogger(__name__)

# How long, in seconds, `rbd trash purge` leaves what is moved to the trash.
_EXPIRY = "rbd_move_to_trash_on_remove_expire_seconds"
# The last time that a record of the trash holds, in seconds since 1970 (utime_t of librbd): it has
# this instead of what would be later.
_LAST_S = (1 << 32) - 1


def _until(expire_s: int) -> str:
    """Return how long what is moved to the trash now can be had back at least."""
    if not expire_s:
        return "until it is purged"
    until = time.localtime(min(time.time() + expire_s, _LAST_S))
    return f"at least until {time.strftime('%Y-%m-%d %H:%M:%S', until)}"


class Change(Protocol):
    """What has something changed where an entry is, as an action: Management.change()."""

    async def __call__(self, where: Entry, action: str, change: Callable[[], T]) -> T: ...


class Trash:
    """Moves images to the trash."""

    def __init__(self, cluster: Cluster, change: Change) -> None:
        self._cluster = cluster
        self._change = change

    async def move(self, entry: Entry, action: str) -> None:
        """Move the image of *entry* to the trash; the log says how to bring it back.

        Raises OSError: EBUSY where somebody watches or has locked it.
        """
        ioctx = await self._cluster.ioctx_of(entry)
        expire_s = int(self._cluster.setting(_EXPIRY) or 0)
        # One of ours may have died while it moved this very image.
        dead = self._cluster.dead
        move = partial(trash_changes.move_to_trash, ioctx, entry, action, expire_s, dead)
        await self._change(entry, action, move)
        trashed = ImageSpec(entry.pool, entry.namespace, entry.image_id or entry.image)
        log.info(
            "%s is in the trash %s: rbd trash restore %s", entry.spec, _until(expire_s), trashed
        )

    @contextlib.asynccontextmanager
    async def replaced(self, entry: Entry | None, by: Entry, action: str) -> AsyncIterator[None]:
        """Move the image of *entry* to the trash, and back if what the context does fails.

        That is to give its name to *by*. None: nothing has the name. Raises OSError: EBUSY as
        move() does, and where *by* has a lock with which it cannot be renamed.
        """
        if entry is None:
            yield
            return
        ioctx = await self._cluster.ioctx_of(by)
        check = partial(directory_changes.refuse_locked, ioctx, by, action)
        await self._change(by, action, check)
        await self.move(entry, action)
        async with self.left(entry):
            yield

    @contextlib.asynccontextmanager
    async def left(self, entry: Entry | None) -> AsyncIterator[None]:
        """Bring the image of *entry* back if what the context does fails, and it is in the trash.

        A server that is gone may have moved it there. None: there is none.
        """
        try:
            yield
        except BaseException:
            if entry is not None:
                with trio.CancelScope(shield=True):
                    await self._restore(entry)
            raise

    async def _restore(self, entry: Entry) -> None:
        try:
            restore = partial(
                trash_changes.restore_from_trash, await self._cluster.ioctx_of(entry), entry
            )
            if await self._change(entry, f"restoring {entry.spec}", restore):
                log.info("%s is out of the trash again", entry.spec)
        except OSError as exc:
            log.error("%s stays in the trash: %s", entry.spec, exc)
