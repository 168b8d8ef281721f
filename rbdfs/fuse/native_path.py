"""Open files handed to the native data path, and the requests that come back from it."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
from typing import TYPE_CHECKING, NamedTuple

import pyfuse3
import trio

from rbdfs.ceph.pool_threads import in_own_thread
from rbdfs.datapath import native
from rbdfs.errors import Failure, Interrupted
from rbdfs.fuse.extra_operations import carry_out
from rbdfs.fuse.interruption import Interruptions
from rbdfs.fuse.traced_requests import Specs, tell_rest, tell_traced
from rbdfs.kernel import connection, extra_requests
from rbdfs.model.metering import Metering

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from contextlib import AbstractContextManager

    from rbdfs.ceph.native_opener import NativeOpener
    from rbdfs.files.handle import Handle
    from rbdfs.fuse.operations import Operations

log = logging.getLogger(__name__)


class _Registration(NamedTuple):
    image: native.Image
    length: int


class NativePath:
    """The files that the data path serves: those whose image is there and does not grow.

    It is made before the kernel connection, which start() brings.
    """

    def __init__(
        self,
        opener: NativeOpener,
        *,
        ignore_sync: bool,
        ledger: int | None = None,
        killed: bool = False,
        meters: int | None = None,
        metering: Metering | None = None,
    ) -> None:
        """*ledger* has what the kernel sends again, over servers, of which the last was *killed*.

        native.Mux has more of it. In the memory *meters* is counted, which *metering* writes too.
        """
        self.opener = opener
        self._ledger, self._killed = ledger, killed
        self._meters, self._metering = meters, metering or Metering.unread()
        self._ignore_sync = ignore_sync
        self._mux: native.Mux | None = None
        self._stopping = False
        self._registered: dict[int, _Registration] = {}
        # What was to be served before there was a connection.
        self._early: dict[int, Handle] = {}
        self._specs = Specs()
        self._interruptions = Interruptions()

    def serve(self, handle: Handle) -> None:
        """Register *handle* as it is now; what is not for the data path goes through pyfuse3.

        That is also where a file goes that the data path does not take, so nothing is raised.
        """
        if self._stopping:
            return
        if self._mux is None:
            self._early[handle.fh] = handle
            return
        wanted, known = _wanted(handle), self._registered.get(handle.fh)
        if wanted == known:
            return
        try:
            if wanted is not None and known is not None and wanted.image is known.image:
                self._mux.set_length(handle.fh, wanted.length)
            else:
                self.forget(handle)
                if wanted is not None:
                    self._register(handle, wanted)
        except FileNotFoundError:
            # Its RELEASE has been read, and is on its way to pyfuse3.
            self.forget(handle)
        except OSError as exc:
            log.warning("%s is served by Python: %s", handle.entry.spec, exc)
            self.forget(handle)
        else:
            if wanted is not None:
                self._registered[handle.fh] = wanted

    def forget(self, handle: Handle) -> None:
        """Serve *handle* no longer; requests under way go on."""
        self._early.pop(handle.fh, None)
        if self._mux is None or self._registered.pop(handle.fh, None) is None:
            return
        self._mux.unregister(handle.fh)
        # Whether the data path has written since the last flush goes with its registration.
        handle.dirty = handle.writable

    def _register(self, handle: Handle, wanted: _Registration) -> None:
        assert self._mux is not None
        self._mux.register(
            handle.fh,
            wanted.image,
            handle.entry.offset,
            wanted.length,
            readable=True,
            writable=handle.writable,
            open_flags=native.FOPEN_PARALLEL_DIRECT_WRITES if handle.writable else 0,
            ignore_sync=self._ignore_sync,
            dirty=handle.dirty,
            # What is not known is taken for a page fault, which EINTR would kill.
            direct=bool(handle.direct_io),
            meter=self._metering.number(handle.entry.image_spec),
        )
        handle.dirty = False
        self._specs.add(handle.fh, handle.entry)

    @contextlib.asynccontextmanager
    async def connected(
        self, descriptor: int, operations: Operations, init_request: bytes
    ) -> AsyncIterator[str]:
        """Stand between the kernel, at *descriptor*, and pyfuse3, which gets the yielded path.

        At the end all requests are complete, which are waited for as long as it takes.
        With *init_request* the connection goes on that a server before this one had.
        """
        pair, extra_pair = connection.socket_pair(), connection.socket_pair()
        extra = trio.socket.from_stdlib_socket(extra_pair.theirs)
        with pair.ours, pair.theirs, extra, extra_pair.ours:
            self._mux = native.Mux(
                descriptor,
                pair.ours,
                extra_pair.ours,
                max_write=pair.max_request,
                init_set=native.INIT_FLAGS | _HANDLE_KILLPRIV_V2,
                init_clear=_AUTO_INVAL_DATA,
                ledger=self._ledger,
                killed=self._killed,
                meters=self._meters,
                trace=log.isEnabledFor(logging.DEBUG),
            )
            extra_pair.ours.close()
            # Those of another server; before the kernel can ask for them. Not all that are open:
            # of some it may not be known yet whether they can go on.
            for handle in list(self._early.values()):
                self.serve(handle)
            self._early.clear()
            self._mux.start(init_request)
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(_end_with, self._mux)
                    nursery.start_soon(self._answer_extra, extra, operations)
                    nursery.start_soon(tell_traced, self._mux, self._specs)
                    # A duplicate, because libfuse closes what it is given.
                    yield f"/dev/fd/{os.dup(pair.theirs.fileno())}"
                    nursery.cancel_scope.cancel()
            finally:
                self._stopping = True
                with trio.CancelScope(shield=True):
                    await _stop(self._mux)
                tell_rest(self._mux, self._specs)
                self._mux = None

    def init_request(self) -> bytes:
        """Return how the kernel introduced itself, for the next server."""
        return (self._mux and self._mux.init_request) or b""

    async def drain(self, timeout_s: float) -> None:
        """Read no more from the kernel, and wait until every request is answered.

        Raises OSError ETIMEDOUT.
        """
        assert self._mux is not None
        await in_own_thread(self._mux.drain, timeout_s)

    def take_request(self, opcode: int, inode: int, pid: int) -> int:
        """Return the kernel's number of the request that thread *pid* waits for at *inode*."""
        return self._mux.take_request(opcode, inode, pid) if self._mux is not None else 0

    def interruptible(self, number: int) -> AbstractContextManager[None]:
        """Carry out a request, as DataPath.interruptible() says."""
        if not number or self._mux is None:
            return contextlib.nullcontext()
        # Perhaps it was given up before it has begun.
        return self._interruptions.scope(number, given_up=self._mux.is_taken_over(number))

    async def _give_up(self, number: int, operations: Operations) -> None:
        """Answer a request with EINTR, and have nobody work for it any longer."""
        mux = self._mux
        if mux is None or not mux.take_over(number):
            return
        self._interruptions.give_up(number)
        try:
            await operations.abandon(number)
        finally:
            mux.interrupt(number)

    def acquit(self) -> None:
        """Forget that requests are suspect, under which servers have ended. On any thread."""
        if (mux := self._mux) is not None:
            mux.acquit()

    def stats(self) -> dict[str, int]:
        """Return the counters of the data path."""
        return self._mux.stats() if self._mux is not None else {}

    def waiting(self, seconds: float) -> tuple[float, dict[int, float]]:
        """Return what waits in librbd, as DataPath.waiting() says."""
        return self._mux.waiting(seconds) if self._mux is not None else (0.0, {})

    async def _answer_extra(self, extra: trio.socket.SocketType, operations: Operations) -> None:
        """Carry out what pyfuse3 does not get, all at once."""
        async with trio.open_nursery() as nursery:
            buffer = bytearray(_MESSAGE_BYTES)
            while length := await extra.recv_into(buffer):
                nursery.start_soon(self._answer, bytes(buffer[:length]), operations)

    async def _answer(self, message: bytes, operations: Operations) -> None:
        try:
            request = extra_requests.parse(message)
            if isinstance(request, extra_requests.Abandoned):
                await self._give_up(request.unique, operations)
                return
            reply: bytes | None
            try:
                with self.interruptible(request.unique):
                    reply = await carry_out(request, operations)
            except Interrupted:
                # The caller has had it already.
                reply = extra_requests.error_reply(request.unique, errno.EINTR)
        except extra_requests.MalformedRequestError as exc:
            log.error("the kernel sent what makes no sense: %s", exc)
            reply = extra_requests.error_reply(exc.unique, errno.EINVAL) if exc.unique else None
        if reply is not None and self._mux is not None:
            try:
                self._mux.reply(reply)
            except OSError as exc:
                log.warning("a reply was not taken: %s", exc)


# linux/fuse.h. Pages are used only where nobody else can write, or nobody at all; with this flag
# the kernel would drop them whenever the timestamp changes, which librbd does once a minute.
_AUTO_INVAL_DATA = 1 << 12
# No file has set-user-ID bits or capabilities to lose: the kernel need not ask before each write.
_HANDLE_KILLPRIV_V2 = 1 << 28
# How long requests may take at the end before the log tells of them, in seconds.
_STOP_S = 30.0
# A durable write is the longest request: its data and what stands before them.
_MESSAGE_BYTES = native.MAX_WRITE + 4096


def _wanted(handle: Handle) -> _Registration | None:
    shared = handle.shared
    if shared.error is not None or shared.image is None or shared.gate.is_frozen:
        return None
    if not shared.exact:
        return None
    binding = shared.image.binding
    assert isinstance(binding, native.Image)
    return _Registration(binding, handle.length)


async def _stop(mux: native.Mux) -> None:
    """Return when librbd has no request any more.

    Nobody may want the answer: but until then the image cannot be closed, nor what was acknowledged
    be flushed. Whoever ends the mount by a signal, or replaces the server, waits for so long only.
    """
    told = False
    while True:
        try:
            return await in_own_thread(mux.stop, _STOP_S)
        except TimeoutError as exc:
            if not told:
                log.warning("the cluster does not answer what is under way: %s", exc.strerror)
            told = True


async def _end_with(mux: native.Mux) -> None:
    """End pyfuse3 with the connection; raise Failure where there is one, but it cannot be read.

    Then this server ends with an error, and the keeper lets another one go on.
    """
    await trio.lowlevel.wait_readable(mux.fileno())
    if mux.ended != errno.ENODEV:
        reason = os.strerror(mux.ended)
        raise Failure(f"the kernel's requests cannot be read: {reason}", mux.ended)
    # libfuse cannot be told by its socket, on which it would take the end for an error.
    pyfuse3.terminate()
