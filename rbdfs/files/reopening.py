"""Images that another server had open, until they are open here: each by itself."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import trio

from rbdfs.errors import Failure, ImageGone, Missing

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from rbdfs.files.handle import Handle
    from rbdfs.files.keeping import OpenFile
    from rbdfs.files.shared_image import SharedImage
    from rbdfs.model.entry import Entry


log = logging.getLogger(__name__)


class Failed(NamedTuple):
    """Files that are lost by themselves, of an image that is open, and why."""

    handles: list[Handle]
    error: OSError


class Checks(NamedTuple):
    """What an image has to pass, or its files are lost: each raises an OSError.

    Attributes:
        before: called before it is opened.
        after: called with the files when it is open, before a request to them is let go on;
            returns those that cannot go on where the others can.
    """

    before: Callable[[Entry], Awaitable[None]]
    after: Callable[[list[Handle]], Awaitable[list[Failed]]]


@dataclass(slots=True)
class _Reopening:
    handles: list[Handle] = field(default_factory=list)
    over: trio.Event = field(default_factory=trio.Event)
    length: int | None = None
    begun: bool = False


class Latecomers:
    """Files that another server had open, of which this one cannot tell yet where they are."""

    def __init__(self) -> None:
        self._arrivals: dict[int, trio.Event] = {}
        self._opened_by: dict[int, int] = {}

    def expect(self, files: Iterable[OpenFile]) -> None:
        """Have those who use *files* wait, until they have arrived."""
        for file in files:
            self._arrivals[file.fh] = trio.Event()
            if file.request and not file.abandoned:
                self._opened_by[file.request] = file.fh

    def arrived(self, fhs: Iterable[int]) -> None:
        """Let those go on who use *fhs*: they are in the table of open files, or lost."""
        for fh in fhs:
            self._arrivals.pop(fh).set()

    async def wait(self, fh: int) -> None:
        """Return when file *fh*, if it is expected, has arrived."""
        if fh in self._arrivals:
            await self._arrivals[fh].wait()

    async def wait_for_opened(self, request: int) -> None:
        """Return when the file that *request* has opened, if it is expected, has arrived.

        Not when the caller is cancelled: that file would be there later, and nobody close it.
        """
        if (fh := self._opened_by.get(request)) is not None:
            with trio.CancelScope(shield=True):
                await self.wait(fh)


class Reopenings:
    """What there is to open; *opened* is called with each image, and with what of it is lost.

    That is all of it, by an error, or some of its files.

    One that does not answer keeps those waiting who use it, and nobody else.
    """

    def __init__(
        self, opened: Callable[[SharedImage, OSError | None, list[Failed]], Awaitable[None]]
    ) -> None:
        self._opened = opened
        self._reopenings: dict[SharedImage, _Reopening] = {}

    def __contains__(self, shared: SharedImage) -> bool:
        return shared in self._reopenings

    def add(self, handle: Handle, length: int | None) -> None:
        """Have the image of *handle* opened by run().

        Its file grows, if it has a *length*, and is so long.
        """
        reopening = self._reopenings.setdefault(handle.shared, _Reopening())
        reopening.handles.append(handle)
        # Each file handle knows how far it has written itself.
        lengths = [known for known in (reopening.length, length) if known is not None]
        reopening.length = max(lengths, default=None)

    def length(self, shared: SharedImage) -> int | None:
        """Return how long the file on *shared* is; None where only the header can tell."""
        reopening = self._reopenings.get(shared)
        return shared.known_length if reopening is None else reopening.length

    async def over(self, shared: SharedImage) -> None:
        """Return when *shared* is open, or known to be lost."""
        if shared in self._reopenings:
            await self._reopenings[shared].over.wait()

    async def run(self, nursery: trio.Nursery, checks: Checks) -> None:
        """Have *nursery* open them all. Nobody else changes one from when this returns.

        What does not pass the *checks* is lost.
        """
        for shared, reopening in list(self._reopenings.items()):
            if not reopening.begun:
                reopening.begun = True
                await nursery.start(self._reopen, shared, checks)

    async def _reopen(
        self,
        shared: SharedImage,
        checks: Checks,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        reopening = self._reopenings[shared]
        error: OSError | None = None
        failed: list[Failed] = []
        task_status.started()
        try:
            await shared.take_over(reopening.length, checks.before)
            failed = await checks.after(reopening.handles)
        except Missing:
            error = ImageGone(f"{shared.entry.spec} was removed")
        except OSError as exc:
            error = exc
        except Exception as exc:
            # One file that nobody expected must not take all others along.
            log.exception("%s cannot be taken over", shared.entry.spec)
            error = Failure(f"{type(exc).__name__}: {exc}")
        del self._reopenings[shared]
        with trio.CancelScope(shield=True):
            await self._opened(shared, error, failed)
        reopening.over.set()
