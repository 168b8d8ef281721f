"""One image that files are open on: opened once, in the mode that its users need together."""

from __future__ import annotations

import contextlib
import copy
import logging
from functools import partial
from typing import TYPE_CHECKING

import trio

from rbdfs.errors import InUse, NotOpen
from rbdfs.files.claim import lost
from rbdfs.files.gate import Gate
from rbdfs.files.growth import Growth, unmarked
from rbdfs.files.handle import Use

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from rbdfs.ceph.image import Image
    from rbdfs.files.claim import Claims
    from rbdfs.files.growth import Mark
    from rbdfs.metadata.lineage import Lineage, Lineages
    from rbdfs.model.entry import Entry

log = logging.getLogger(__name__)


class SharedImage:
    """An image or snapshot that is open while it has users, for writing while one of them writes.

    *changed* is called when what serves it has to know: another image, length or error, and before
    an image that was replaced is closed.

    Attributes:
        entry: what is open, as it was at the first open.
        image: the open librbd image; requests that run on one that was replaced finish there.
        lineage: where its data was before it was opened; None where nobody knows.
        growth: how long the file really is, while it is being grown.
        error: why every request is refused, if it is: the image or snapshot is gone.
        told: whether the log says that its files are lost.
        gate: what requests pass.
        leaving: how many wait for their turn to see whether they were the last.
    """

    def __init__(
        self,
        claims: Claims,
        entry: Entry,
        lineages: Lineages | None = None,
        mark: Mark = unmarked,
        *,
        changed: Callable[[SharedImage], None],
    ) -> None:
        self.entry = entry
        self.image: Image | None = None
        self.lineage: Lineage | None = None
        self.growth: Growth | None = None
        self.error: OSError | None = None
        self.told, self.gate, self.leaving = False, Gate(), 0
        self._claims, self._changed = claims, changed
        self._lineages, self._mark = lineages, mark
        self._last_length: int | None = None
        self._users = dict.fromkeys(Use, 0)
        # Taken while `image` is opened, replaced or closed, and by nobody else. It is no trio.Lock,
        # because at the end of the mount another task thaws what one task has quiesced.
        self._changing = trio.Semaphore(1)

    @property
    def unused(self) -> bool:
        return not any(self._users.values())

    @property
    def writers(self) -> int:
        return self._users[Use.WRITE_WHOLE] + self._users[Use.WRITE_PARTITION]

    @property
    def length(self) -> int:
        """Bytes that reads are clamped to."""
        return self.known_length or 0

    @property
    def known_length(self) -> int | None:
        """How long the file is, or was when its image was closed; None before it was opened."""
        if self.growth is not None:
            return self.growth.length
        return self._last_length if self.image is None else self.image.size

    @property
    def exact(self) -> bool:
        """Whether the image is known to be exactly as long as the file."""
        return self.growth is None or self.image is None or self.growth.fits(self.image)

    @contextlib.asynccontextmanager
    async def using(self) -> AsyncIterator[Image]:
        """Yield the image for one request, which keeps it open; raise OSError as usable().

        Waits while the gate is frozen, and so must not be nested.
        """
        async with self.gate.passed():
            yield self.usable()

    def usable(self) -> Image:
        """Return the open image; raise OSError where it is gone or closed."""
        if self.error is not None:
            raise copy.copy(self.error)
        if self.image is None:
            raise NotOpen(f"{self.entry.spec}: file is closed")
        return self.image

    async def acquire(self, use: Use) -> None:
        """Become a user, with the image open as that needs; raise OSError as HandleTable.open()."""
        if (use is Use.WRITE_WHOLE and self._users[Use.WRITE_PARTITION]) or (
            use is Use.WRITE_PARTITION and self._users[Use.WRITE_WHOLE]
        ):
            raise InUse(f"{self.entry.spec}: partition and whole, both for writing")
        self._users[use] += 1
        try:
            async with self._changing:
                if self.error is not None:
                    self.usable()
                # A writer that waits for its turn must not make this reader fail for it.
                if self.image is None or (use is not Use.READ and self.image.read_only):
                    await self._reopen(read_only=use is Use.READ)
            # Who was interrupted hears of nothing that is opened from now on.
            await trio.lowlevel.checkpoint_if_cancelled()
        except BaseException:
            self._users[use] -= 1
            # Who waits to leave does it for all: there may be thousands, in a pool that is stuck.
            if not self.leaving:
                with trio.CancelScope(shield=True):
                    await self.put()
            raise

    async def put(self, *uses: Use) -> None:
        """Stop being users; the last one closes the image, the last writer makes it read-only."""
        for use in uses:
            self._users[use] -= 1
        self.leaving += 1
        async with self._changing:
            self.leaving -= 1
            if self.growth is not None and not self.writers:
                # What is lost, others may have written to.
                if self.image is not None and self.error is None:
                    await self.growth.finish(self.image)
                # Not before: until it is trimmed it says how long the file is.
                self.growth = None
                self._changed(self)
            if self.unused:
                self._last_length = self.known_length
                image, self.image = self.image, None
                self.error, self.told = None, False
                if image is not None:
                    await self._claims.close(image)
            elif self.image is not None and not self.writers and not self.image.read_only:
                # Readers remain: give up the watch and the lock, which `rbd status` shows.
                await self._reopen_for_readers(self.image)

    @contextlib.asynccontextmanager
    async def quiesced(self) -> AsyncIterator[None]:
        """Keep the image quiesced for the time of the context.

        Nothing is opened or closed meanwhile and no request begins. Those that had begun have been
        drained, but for the data path's own, which close() waits for.
        """
        async with self._changing:
            try:
                with self.gate.frozen():
                    self._changed(self)
                    await self.gate.drained()
                    yield
            finally:
                self._changed(self)

    async def close(self) -> None:
        """Close a quiesced image; raise OSError where what was written may be lost by that."""
        image = self.usable()
        if not image.read_only:
            await image.flush()
        self.image, self._last_length = None, image.size
        try:
            await self._claims.close_or_fail(image)
        except OSError as exc:
            self.fail(exc)
            raise

    async def reopen(self, entry: Entry) -> None:
        """Open what close() has closed, as *entry*; raise OSError as acquire() does."""
        await self._reopen(entry=entry, read_only=not self.writers)
        self.entry = entry

    async def renew(self, *, writable: bool = False) -> bool:
        """Open the image anew, so that librbd looks where the data is now; requests wait.

        They would read zeros where a parent is gone, and copy them up into the image. One that is
        open for writing stays as it is unless *writable*; so does a file that grows: it has no
        parent. Returns whether it was opened anew. Raises OSError, having failed what is closed.
        """
        async with self.quiesced():
            image = self.image
            if image is None or self.error is not None or self.growth is not None:
                return False
            if not (image.read_only or writable):
                return False
            if not image.read_only:
                # Of one client's two openings only one has the lock.
                await self.close()
            try:
                await self._reopen(read_only=not self.writers)
            except OSError as exc:
                if self.image is None:
                    self.fail(lost(self.entry, exc))
                raise
            return True

    async def unchanging(self) -> None:
        """Wait until no opening or closing is under way."""
        async with self._changing:
            pass

    async def follow(self, size: int) -> bool:
        """Take over that the image has *size* bytes now; return whether that is news here."""
        async with self._changing:
            if self.image is None or self.growth is not None or self.image.size == size:
                return False
            if self.image.read_only and not self.entry.is_snapshot:
                # librbd keeps what it read at the opening, until the image is opened anew.
                await self._reopen(read_only=True)
            else:
                await self.image.refresh()
                self._changed(self)
            return True

    def fail(self, error: OSError) -> None:
        """Refuse every request from now on, with the errno of *error*."""
        self.error = error
        self._changed(self)

    async def resize(self, length: int, *, shrink: bool) -> None:
        """Give the file *length* bytes, as ftruncate(2); raise OSError as Image.resize()."""
        async with self.using() as image:
            if self.growth is not None:
                await self.growth.truncate(image, length)
            else:
                await image.resize(length, shrink=shrink)
                self._changed(self)

    async def trim(self) -> None:
        """Give the image its file's length, if that has one writer, who writes nothing now."""
        if (growth := self.growth) is not None and self.writers == 1 and not growth.being_written:
            async with self.using() as image:
                await growth.trim(image)

    def start_growth(self, length: int | None = None) -> None:
        """Let the file, of *length* if not of its image's, grow until its last writer has left."""
        if self.growth is None:
            callbacks = partial(self._changed, self), partial(self._mark, self.entry)
            self.growth = Growth(self.usable().size, length, *callbacks)
            self._changed(self)

    def expect(self, use: Use) -> None:
        """Have one user, for whom take_over() opens the image."""
        self._users[use] += 1

    async def take_over(
        self, length: int | None, check: Callable[[Entry], Awaitable[None]]
    ) -> None:
        """Open the image for the users that were expected, if *check* lets it; raise OSError.

        With *length* the file grows, and is so long already.
        """
        async with self._changing:
            await check(self.entry)
            if self.image is None or (self.writers and self.image.read_only):
                await self._reopen(read_only=not self.writers, taking_over=True)
            if length is not None and self.writers:
                self.start_growth(length)

    async def _reopen_for_readers(self, written: Image) -> None:
        try:
            # What librbd still holds of acknowledged writes, the next one would not read.
            await written.flush()
            await self._reopen(read_only=True)
        except OSError as exc:
            # The readers go on with the writable one.
            log.warning("%s stays open for writing: %s", self.entry.spec, exc)

    async def _reopen(
        self, *, read_only: bool, entry: Entry | None = None, taking_over: bool = False
    ) -> None:
        old, entry = self.image, entry or self.entry
        # Before the open: if it changes in between, the next look opens once too often.
        lineage = await self._lineages.known(entry) if self._lineages is not None else None
        self.image = await self._claims.open(entry, read_only=read_only, taking_over=taking_over)
        self.lineage = lineage
        self._changed(self)
        if old is not None:
            await self._claims.close(old)
