"""Files that grew when their host crashed: their images are given the length of the file again."""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING

import trio

from rbdfs.ceph.blocking_image import (
    changing,
    check_left_alone,
    lockers,
    opened,
    opened_for_change,
    trimmed_to_data,
)
from rbdfs.ceph.pool_threads import PoolThreads
from rbdfs.errors import InUse, Missing
from rbdfs.files.interplay import quiesced
from rbdfs.files.lost_images import failure_of
from rbdfs.metadata.stamps import GROWING
from rbdfs.model.entry import image_entry

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from rbdfs.ceph.cluster import Cluster
    from rbdfs.files.table import HandleTable
    from rbdfs.metadata.cache import MetadataCache
    from rbdfs.model.entry import Entry
    from rbdfs.names.catalog import Catalog

log = logging.getLogger(__name__)

# A pool is looked through beside what is asked of it meanwhile.
_PARALLEL = 8
_THREADS_A_POOL = 2
# The watch of a client that died lasts 30 s: so long nobody can tell it from one that lives.
_AGAIN_S = 40.0


class UnfinishedFiles:
    """Looks for the marks that files leave which grow, and trims the images that are left alone.

    A mark that says nothing of its image as it is goes, too: some day it might.
    """

    def __init__(
        self,
        cluster: Cluster,
        catalog: Catalog,
        cache: MetadataCache,
        handles: HandleTable,
        invalidate: Callable[[Entry], Awaitable[None]],
        *,
        exclusive: bool,
    ) -> None:
        """*invalidate* makes the kernel forget the size of an image.

        With *exclusive* others are kept out of what this mount writes to.
        """
        self._handles, self._exclusive = handles, exclusive
        self._invalidate = invalidate
        self._cluster = cluster
        self._catalog = catalog
        self._cache = cache
        self._threads = PoolThreads(_THREADS_A_POOL)
        # Those to be looked at again, by directory, name and id: who had the lock of one that was
        # left alone, and None for one that somebody has open.
        self._again: dict[tuple[Entry, str, str], frozenset[str] | None] = {}

    async def finish_one(self, entry: Entry) -> None:
        """Trim the image of *entry* if it is marked, before it is opened here for writing.

        Nobody shall come to want a size that it has by chance, nor a file that grows have the mark
        of before. Raises OSError: EBUSY where others write to it who are to be kept out.
        """
        if entry.is_snapshot or self._written_here(entry) or not await self._marked(entry):
            return
        # What has failed nobody trims here any more, and whoever opens it has another: see below.
        await self._handles.close_lost(entry)
        # Its last writer here may have left a moment ago: then it is trimmed, and closed.
        if (shared := self._handles.shared(entry)) is not None:
            await shared.unchanging()
        image = await self._handles.relocations.where(entry.whole)
        if self._written_here(image) or not await self._marked(image):
            return
        try:
            await self._left_by(image)
            await self._finish(image)
        except Missing as exc:
            log.debug("%s", exc)
        except InUse as exc:
            # What is open here for writing has its mark from here.
            if self._exclusive and not self._written_here(image):
                log.info("%s", exc.strerror)
                raise

    async def _marked(self, entry: Entry) -> bool:
        return (await self._catalog.attributes(entry)).marked

    def _written_here(self, entry: Entry) -> bool:
        shared = self._handles.shared(entry)
        return shared is not None and shared.writers > 0 and failure_of(shared) is None

    async def finish(self, root: Entry) -> None:
        """Trim every image below *root* that is marked, once nobody has it open."""
        await self.look(root)
        while self._again:
            await trio.sleep(_AGAIN_S)
            await self.look_again()

    async def look(self, root: Entry) -> None:
        """Trim every image below *root* that is marked and left alone; remember the others."""
        try:
            pools = [root.pool] if root.pool else await self._cluster.pools()
        except OSError as exc:
            log.warning("cannot tell which files grew when their host crashed: %s", exc)
            return
        # Each by itself: one that may not be read keeps no other from being looked through.
        async with trio.open_nursery() as nursery:
            for pool in pools:
                nursery.start_soon(self._look_into, pool, root)

    async def look_again(self) -> None:
        """Look at those that are remembered."""
        for which in list(self._again):
            await self._look(*which)

    async def _look_into(self, pool: str, root: Entry) -> None:
        try:
            directory = await self._catalog.directory(pool, root.namespace)
            for _, namespace in await self._catalog.places(directory):
                await self._look_through(await self._catalog.directory(pool, namespace))
        except OSError as exc:
            log.warning("cannot tell which files of %s grew when their host crashed: %s", pool, exc)

    async def _look_through(self, directory: Entry) -> None:
        slots = trio.CapacityLimiter(_PARALLEL)
        names = await self._cache.image_names(directory.pool, directory.namespace)

        async def look(name: str, image_id: str) -> None:
            async with slots:
                await self._look(directory, name, image_id)

        async with trio.open_nursery() as nursery:
            for name, image_id in names.items():
                if image_id:
                    nursery.start_soon(look, name, image_id)

    async def _look(self, directory: Entry, name: str, image_id: str) -> None:
        which = (directory, name, image_id)
        last = self._again.pop(which, frozenset())
        try:
            attributes = await self._cache.attributes(directory, name, image_id)
            if attributes.marked:
                image = image_entry(directory, name, attributes)
                self._again[which] = owners = await self._left_by(image)
                own = owners and owners <= self._handles.claims.addresses
                if owners != last and not own:
                    raise InUse(f"{image.spec} has just been left, or is being taken over")
                await self._finish(image)
                del self._again[which]
        except Missing as exc:
            self._again.pop(which, None)
            log.debug("image %a is gone, or trimmed already: %s", name, exc)
        except InUse as exc:
            self._again.setdefault(which, None)
            log.debug("image %a grows, or did half a minute ago: %s", name, exc)
        except OSError as exc:
            self._again.pop(which, None)
            log.warning("image %a keeps room beyond its end: %s", name, exc)
        except Exception:
            self._again.pop(which, None)
            # Nobody awaits this task: what it raised would take the mount down.
            log.exception("image %a keeps room beyond its end", name)

    async def _left_by(self, image: Entry) -> frozenset[str]:
        """Return who had the lock of an image that nobody has open any more, if somebody had.

        Raises InUse where somebody has it open. A server that died has left its lock, and no watch
        when it is fenced, and its successor takes it over: in that moment it is not to be taken.
        Nor is it when one has just closed what another one is about to open.
        """
        if self._written_here(image):
            raise InUse(f"{image.spec} is open here for writing")
        # Anybody may have marked anything.
        await self._catalog.check_openable(image)
        look = partial(_left_by, await self._cluster.ioctx_of(image), image, self._cluster.address)
        return await self._threads.run(image.pool, look)

    async def _finish(self, image: Entry) -> None:
        finish = partial(_finish, await self._cluster.ioctx_of(image), image, self._cluster.address)
        # Another task may be about it: this one finds nothing to do then.
        where = await self._handles.relocations.where(image)
        if where.image_key != image.image_key:
            raise Missing(f"{image.spec} has moved")
        changing = False
        try:
            # Whoever opens it here meanwhile waits.
            async with quiesced(self._handles, image.image_key) as opened:
                if any(shared.writers for shared in opened):
                    raise InUse(f"{image.spec} is open here for writing")
                await self._catalog.check_openable(image)
                changing = True
                try:
                    size = await self._threads.run(image.pool, finish)
                finally:
                    self._catalog.changed(image)
        finally:
            if changing:
                # It would append where the end was, also where who waited for it has given up, or a
                # failure came after the change: nobody finds a mark again.
                with trio.CancelScope(shield=True):
                    await self._invalidate(image)
        if size is None:
            log.info("%s keeps its size: it had a mark of another growth", image.spec)
        else:
            log.info("%s grew when its host crashed: it has %d bytes", image.spec, size)


def _left_by(ioctx: object, image: Entry, own: str) -> frozenset[str]:
    """Return the addresses of those who have a lock of *image*. Blocks.

    Raises as check_left_alone() does.
    """
    action = f"looking at {image.spec}"
    # Who has it open for writing is not disturbed.
    with changing(action), opened(ioctx, image) as seen:
        check_left_alone(seen, own, action)
        return frozenset(address for _client, _cookie, address in lockers(seen))


def _finish(ioctx: object, image: Entry, own: str) -> int | None:
    """Trim one image, if nobody but *own* has it open, as trimmed_to_data() does. Blocks."""
    action = f"trimming {image.spec}"
    with changing(action), opened_for_change(ioctx, image, action) as changed:
        return trimmed_to_data(changed, GROWING, own, action)
