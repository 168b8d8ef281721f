"""Changes made elsewhere to what is open here: noticed by looking, within two seconds.

librbd tells an image that is open for writing of changes, but not Python of them, and a read-only
image nothing: it would go on with the old size, and answer reads of a removed snapshot with zeros.
"""

from __future__ import annotations

import copy
import logging
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary, WeakSet

import trio

from rbdfs.config.logging_setup import repeats
from rbdfs.errors import Fenced, Gone, ImageGone, NotOpen, TimedOut
from rbdfs.files.gate import Gate
from rbdfs.files.lost_images import failure_of
from rbdfs.files.rota import Rota

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from rbdfs.ceph.image import Image
    from rbdfs.files.handle import Handle
    from rbdfs.files.shared_image import SharedImage
    from rbdfs.files.table import HandleTable
    from rbdfs.files.timestamps import Timestamps
    from rbdfs.metadata.lineage import Lineage, Lineages
    from rbdfs.model.entry import Entry
    from rbdfs.names.catalog import Catalog

log = logging.getLogger(__name__)

# 0.9 s, and the 0.9 s that metadata.name_cache keeps what it knows (TTL_S), are below two seconds.
_PERIOD_S = 0.9
# How long a close(2) waits for a cluster that does not answer, in seconds: a look that waits for it
# since before counts, so that who has waited for long, and is killed, ends.
_CONFIRM_S = 5.0
_LEAST_CONFIRM_S = 0.5
# When the cluster is said to be slow, in seconds.
_SLOW_S = 2.0
# More than answer at once; those that do not answer must not be all of them.
_LOOKS_A_POOL = 64
# Removed, fenced: no open file gets over that. A look that has timed out says nothing of the file.
_FINAL = (Gone, Fenced)


class Freshness:
    """Looks after everything that is open."""

    def __init__(
        self,
        catalog: Catalog,
        lineages: Lineages,
        handles: HandleTable,
        invalidate: Callable[[Entry], Awaitable[None]],
        timestamps: Timestamps,
    ) -> None:
        self._catalog = catalog
        self._lineages = lineages
        self._handles = handles
        self._invalidate = invalidate
        self._timestamps = timestamps
        self._rota: Rota[SharedImage] = Rota(_PERIOD_S)
        # Since when.
        self._looking: dict[SharedImage, float] = {}
        # Since when, of those whose looks have timed out.
        self._silent: WeakKeyDictionary[SharedImage, float] = WeakKeyDictionary()
        self._slots: dict[str, trio.Semaphore] = {}
        # Where the data was of what is being opened anew.
        self._before: dict[SharedImage, Lineage] = {}
        # What changes here, and is not told to the kernel yet, passes it.
        self._changes = Gate()
        # What was locked, and cannot be any more.
        self._unguarded: WeakSet[Image | None] = WeakSet()

    async def run(self) -> None:
        """Look at every open image once a period, until cancelled."""
        async with trio.open_nursery() as nursery:
            while True:
                for entry in self._handles.lost.take_cached():
                    nursery.start_soon(self._drop_pages, entry)
                await trio.sleep(self._rota.pause_s)
                # One that does not answer is not asked again, and keeps nobody else waiting.
                images = [
                    shared
                    for shared in self._handles.images()
                    if shared not in self._looking and shared.error is None
                ]
                now = trio.current_time()
                for shared in self._rota.due(images, now):
                    self._looking[shared] = now
                    nursery.start_soon(self._look, shared)

    async def quiesce(self) -> None:
        """Change nothing any more; return when the kernel knows of all that was changed.

        What is found from then on, the next server finds.
        """
        await self._changes.close()

    def waits_s(self, shared: SharedImage) -> float:
        """Return for how long the cluster has not answered what was asked of *shared*, in seconds.

        0 where that is less than what a look takes.
        """
        now = trio.current_time()
        waits = now - self._silent.get(shared, self._looking.get(shared, now))
        return waits if waits > _SLOW_S else 0.0

    def waiting(self) -> list[tuple[SharedImage, float]]:
        """Return the images that have waits_s()."""
        looked_at = {*self._looking, *self._silent}
        waits = [(shared, self.waits_s(shared)) for shared in looked_at if shared.error is None]
        return [(shared, seconds) for shared, seconds in waits if seconds]

    async def _drop_pages(self, entry: Entry) -> None:
        try:
            async with self._changes.passed():
                await self._invalidate(entry)
        except OSError as exc:
            log.warning("pages of %s may be old: %s", entry.spec, exc)

    async def confirm(self, handle: Handle) -> None:
        """Raise OSError where what *handle* has read until now may be zeros, for that is gone.

        librbd answers reads of a removed snapshot so, be it the one that is open or one that its
        image was cloned from. What our lock guards is not asked for. A cluster that does not answer
        in time is an error too: nobody could tell.
        """
        shared = handle.shared
        if handle.doubt is not None:
            raise copy.copy(handle.doubt)
        if shared.error is None and shared.image is None:
            # Another server had it open; what it was lost for, if it is, the opening tells.
            return
        moves = shared.gate.is_frozen and shared not in self._before
        if shared.usable().lock_held or moves:
            return
        # As it was read: a look may open it anew meanwhile.
        before = self._before.get(shared, shared.lineage)
        patience_s = max(_LEAST_CONFIRM_S, _CONFIRM_S - self.waits_s(shared))
        with trio.move_on_after(patience_s) as scope:
            try:
                await self._catalog.size(shared.entry, newer=True)
            except Gone as exc:
                await self._lose(shared, exc)
                shared.usable()
            await self._confirm_parents(shared, before)
        if scope.cancelled_caught:
            raise TimedOut(f"{shared.entry.spec}: the cluster does not say whether it is there")

    async def _confirm_parents(self, shared: SharedImage, before: Lineage | None) -> None:
        if before is None or len(before.images) == 1:
            return
        lineage = await self._lineages.of(shared.entry, newer=True)
        if lineage.outdates(before) and not await self._lineages.is_there(before):
            raise _doubt(shared)

    async def _look(self, shared: SharedImage) -> None:
        try:
            # So many threads and requests a pool, however many are open.
            async with self._slots.setdefault(shared.entry.pool, trio.Semaphore(_LOOKS_A_POOL)):
                await self._timestamps.catch_up(shared)
                await self._compare(shared)
            self._silent.pop(shared, None)
        except TimedOut as exc:
            # With -o timeout it is the next look that may be answered.
            self._silent.setdefault(shared, self._looking[shared])
            log.debug("cannot tell yet whether %s has changed: %s", shared.entry.spec, exc)
        except OSError as exc:
            self._silent.pop(shared, None)
            spec = shared.entry.spec
            log.warning("cannot tell whether %s has changed: %s", spec, exc, extra=repeats(exc))
        except Exception:
            # Nobody awaits this task: what it raised would take the mount down.
            log.exception("looking at %s failed", shared.entry.spec)
        finally:
            del self._looking[shared]

    async def _compare(self, shared: SharedImage) -> None:
        known = shared.entry
        try:
            if shared.image is not None:
                shared.image.check()
                # An idle writer would hear of a fence with its next request only, and go on with
                # the pages that the kernel has, which others may have written to since.
                await self._check_lock(shared, shared.image)
            size = await self._catalog.size(known)
            lineage = await self._lineages.of(known)
            if lineage.moved_away:
                raise ImageGone(f"{known.spec} is being moved elsewhere")
            if shared.gate.is_frozen or shared.entry is not known:
                return
        except OSError as exc:
            reason = _reason_to_fail(shared, exc)
            if reason is None:
                raise
            # This mount moves it: the files follow.
            if shared.gate.is_frozen or shared.entry is not known:
                return
            async with self._changes.passed():
                await self._lose(shared, reason)
        else:
            async with self._changes.passed():
                opened_anew = await self._open_anew(shared, lineage)
                resized = await shared.follow(size)
                if resized:
                    log.info("%s has %d bytes now", known.spec, size)
                if opened_anew or resized or shared.image in self._unguarded:
                    # What was read since the change may be zeros, or beyond the end, or old.
                    await self._invalidate(shared.entry)

    async def _check_lock(self, shared: SharedImage, image: Image) -> None:
        held = image.lock_held
        try:
            await image.check_lock()
        except OSError as exc:
            # Closed meanwhile: whatever is opened in its place is looked at next time. Debian's
            # binding has no errno for that.
            if isinstance(exc, NotOpen) or shared.image is not image:
                return
            raise
        if held and not image.lock_held:
            # Buffered files were promised that nobody else writes: their pages live for a look.
            self._unguarded.add(image)
            log.warning("%s: its exclusive-lock feature is off: others may write", image.spec)

    async def _lose(self, shared: SharedImage, reason: OSError) -> None:
        """Refuse all that is asked of *shared* from now on, unless this mount moves the image."""
        if shared.gate.is_frozen or shared.error is not None:
            return
        self._handles.lose(shared, reason)
        # What was read since it was gone is zeros.
        await self._invalidate(shared.entry)

    async def _open_anew(self, shared: SharedImage, lineage: Lineage) -> bool:
        """Have librbd look where the data is, if that has changed; return whether it had to.

        Whoever moves an image that others were cloned from waits with the commit for a while.
        """
        if shared.image is None or not lineage.outdates(shared.lineage):
            return False
        if (before := shared.lineage) is not None:
            self._before[shared] = before
        try:
            return await self._renew(shared, lineage, before)
        finally:
            self._before.pop(shared, None)

    async def _renew(self, shared: SharedImage, lineage: Lineage, before: Lineage | None) -> bool:
        # With no parent left, librbd has nothing to look for; a writer it has told so itself.
        if not await shared.renew(writable=len(lineage.images) > 1):
            shared.lineage = lineage
            return False
        log.info("%s is opened anew: its data is elsewhere now", shared.entry.spec)
        if before is not None and not await self._lineages.is_there(before):
            await self._have_doubts(shared)
        return True

    async def _have_doubts(self, shared: SharedImage) -> None:
        """Have those told who may have read zeros of *shared*.

        A writer may have had them copied up, into the image.
        """
        doubt = _doubt(shared)
        if shared.writers:
            await self._lose(shared, doubt)
            return
        log.warning("%s", doubt.strerror)
        for handle in self._handles.sharing(shared):
            handle.doubt = doubt


def _doubt(shared: SharedImage) -> ImageGone:
    return ImageGone(
        f"{shared.entry.spec}: what it was cloned from was removed at once after it was flattened:"
        " what was read since may be zeros"
    )


def _reason_to_fail(shared: SharedImage, found: OSError) -> OSError | None:
    """Return why the files of *shared* are lost, if they are, when a look *found* an error."""
    return failure_of(shared) or (found if isinstance(found, _FINAL) else None)
