"""The clients that copy: what each does can be stopped, and is told of in the log."""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING, Any, ClassVar

import trio

from rbdfs.ceph.cluster import Cluster
from rbdfs.errors import Failure, UserError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    from rbdfs.ceph.opener import Opener
    from rbdfs.config.mount_options import MountOptions
    from rbdfs.files.keeping import Keeping
    from rbdfs.moves.migration import Migration

log = logging.getLogger(__name__)

_REPORT_PERCENT = 10


class Copiers:
    """Makes the clients that copy, and sees to it that they are known as this mount's own."""

    def __init__(
        self, cluster: Cluster, opener: Opener, keeping: Keeping, options: MountOptions
    ) -> None:
        self._cluster = cluster
        self._opener = opener
        self._keeping = keeping
        self._options = options
        self._addresses = {cluster.address, opener.address}
        self._fenced: set[str] = set()

    @contextlib.asynccontextmanager
    async def copier(self) -> AsyncIterator[Copier]:
        """Yield a client of its own for one move; raise OSError EIO where it cannot connect."""
        settings, timeout_s = self._options.ceph_settings, self._options.connect_timeout_s
        try:
            async with Cluster.connect(settings, self._cluster.bridge, timeout_s) as cluster:
                with self._known(cluster.address):
                    yield Copier(cluster, self._fence)
        except UserError as exc:
            raise Failure(f"a client to copy with: {exc}") from exc

    @contextlib.contextmanager
    def _known(self, address: str) -> Iterator[None]:
        # While it copies it watches the image, which writers take for somebody else.
        self._opener.addresses |= {address}
        self._addresses.add(address)
        self._keeping.connected_as(sorted(self._addresses))
        try:
            yield
        finally:
            self._addresses.remove(address)
            self._keeping.connected_as(sorted(self._addresses))
            # The watch of one that was fenced may stay for a while.
            self._opener.addresses -= {address} - self._fenced

    async def _fence(self, address: str) -> None:
        # A server that comes after this one must not take it for somebody else's doing.
        self._fenced.add(address)
        self._keeping.fencing(sorted(self._fenced))
        await self._keeping.delivered()
        await self._cluster.fence(address)


class Copier:
    """A client of its own for one move.

    librbd 16.2.15 uses memory after it has freed it where an image that it opens is the target of a
    migration, and its client is fenced before the source is open as well: measured, one process of
    thirty whose copy is fenced as it begins dies of it, or the copy never ends.

    Attributes:
        object_s: how long who is to be fenced may take to get to the next object.
        end_s: how long his call may take to end when he is.
    """

    object_s: ClassVar[float] = 5.0
    end_s: ClassVar[float] = 2.0

    def __init__(self, cluster: Cluster, fence: Callable[[str], Awaitable[None]]) -> None:
        self.cluster = cluster
        self._fence = fence

    async def stoppable(self, step: Callable[[], Awaitable[None]]) -> None:
        """Carry out what librbd would not let be cancelled; fence the client if it is cancelled.

        Nothing of ours but the fenced client may write to the image then: what another of our
        clients copies, as the owner of the lock, this one would wait for. A call that does not end
        even so is left behind, and its client with it, to the end of the process. Raises OSError.
        """
        done = trio.Event()
        failure: OSError | None = None
        self.cluster.steps.abandons = True
        async with trio.open_nursery() as nursery:
            # Only whoever stops it cancels it.
            with trio.CancelScope(shield=True) as scope:
                nursery.start_soon(self._stop_when_cancelled, done, scope)
                try:
                    await step()
                except OSError as exc:
                    failure = exc
            done.set()
        await trio.lowlevel.checkpoint_if_cancelled()
        if failure is not None:
            raise failure

    async def _stop_when_cancelled(self, done: trio.Event, scope: trio.CancelScope) -> None:
        try:
            await done.wait()
        except trio.Cancelled:
            with trio.CancelScope(shield=True):
                await self._stop(done)
            scope.cancel()
            raise

    async def _stop(self, done: trio.Event) -> None:
        with trio.move_on_after(self.object_s):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_cancel_after, self.cluster.steps.next_object, nursery)
                nursery.start_soon(_cancel_after, done.wait, nursery)
        if done.is_set():
            return
        await self._fence(self.cluster.address)
        with trio.move_on_after(self.end_s):
            await done.wait()


async def _cancel_after(wait: Callable[[], Awaitable[None]], nursery: trio.Nursery) -> None:
    await wait()
    nursery.cancel_scope.cancel()


class Progress:
    """Says in the log how far a copy is, and to who asks for it.

    Attributes:
        percent: of the objects, how many are copied.
    """

    def __init__(self, migration: Migration) -> None:
        self.percent = 0
        self._migration = migration
        self._next = _REPORT_PERCENT

    def __call__(self, done: int, total: int) -> None:
        percent = self.percent = 100 * done // max(total, 1)
        if percent >= self._next:
            log.info("%s: %d %%, %d of %d objects", self._migration, percent, done, total)
            self._next = percent - percent % _REPORT_PERCENT + _REPORT_PERCENT

    def report(self) -> dict[str, Any]:
        """Return what a status tells of it."""
        return {
            "image": str(self._migration.source),
            "to": str(self._migration.target),
            "percent": self.percent,
        }
