"""What serves the reads and writes of open files, and stands between the kernel and pyfuse3."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from contextlib import AbstractAsyncContextManager, AbstractContextManager

    from rbdfs.ceph.opener import Opener
    from rbdfs.files.handle import Handle


class DataPath(Protocol):
    """A way from the kernel to librbd."""

    @property
    def opener(self) -> Opener:
        """What opens the images that it serves."""

    def serve(self, handle: Handle) -> None:
        """Take over *handle* as it is now: new, or with another image, length or error.

        Raises nothing: the files beside it, on the same image, have to hear of it as well.
        """

    def forget(self, handle: Handle) -> None:
        """Serve *handle* no longer; requests under way go on."""

    def connected(
        self, descriptor: int, operations: Any, init_request: bytes
    ) -> AbstractAsyncContextManager[str]:
        """Serve the kernel at *descriptor*; yield the device for pyfuse3, as ``/dev/fd/N``.

        With *init_request* the connection goes on that a server before this one had.
        """

    def init_request(self) -> bytes:
        """Return how the kernel introduced itself, for the next server."""

    def take_request(self, opcode: int, inode: int, pid: int) -> int:
        """Return the kernel's number of the request that thread *pid* waits for at *inode*.

        Each is told once, and 0 where there is none; bit 63 marks one that is sent again. Of
        requests that must not run twice and those that change nothing: see fuse/begun_requests.py.
        """

    def interruptible(self, number: int) -> AbstractContextManager[None]:
        """Carry out the request of this *number*, or of 0, within the context.

        If its caller is not to wait for it any longer, the context is cancelled, and raises
        Interrupted; only requests that change nothing are.
        """

    def acquit(self) -> None:
        """Forget that requests are suspect, under which servers have ended. On any thread."""

    def stats(self) -> dict[str, int]:
        """Return counters of requests, by name."""

    def waiting(self, seconds: float) -> tuple[float, dict[int, float]]:
        """Return for how long the oldest request in librbd waits, in seconds (0.0 without one).

        And the same for each file handle with one that has waited for *seconds*. Those that come
        through Python are not among them.
        """

    async def drain(self, timeout_s: float) -> None:
        """Read no more from the kernel, and wait until every request is answered.

        Raises OSError ETIMEDOUT.
        """


class PythonDataPath:
    """libfuse talks to the kernel, and every request comes through pyfuse3."""

    def __init__(self, opener: Opener) -> None:
        self.opener = opener

    def serve(self, handle: Handle) -> None:
        """Nothing to do."""

    def forget(self, handle: Handle) -> None:
        """Nothing to do."""

    @contextlib.asynccontextmanager
    async def connected(
        self, descriptor: int, operations: Any, init_request: bytes
    ) -> AsyncIterator[str]:
        """Serve the kernel; nothing stands in between, and so no connection can go on."""
        # A duplicate, because libfuse closes what it is given.
        yield f"/dev/fd/{os.dup(descriptor)}"

    def init_request(self) -> bytes:
        """Return nothing: libfuse keeps it to itself."""
        return b""

    def take_request(self, opcode: int, inode: int, pid: int) -> int:
        """Return 0: there is no keeper, and so no server that requests are sent to again."""
        return 0

    def interruptible(self, number: int) -> AbstractContextManager[None]:
        """Never cancel: libfuse would have to tell of the end of callers, and does not."""
        return contextlib.nullcontext()

    def acquit(self) -> None:
        """Nothing to do: see take_request()."""

    def stats(self) -> dict[str, int]:
        """Return nothing: libfuse does not count."""
        return {}

    def waiting(self, seconds: float) -> tuple[float, dict[int, float]]:
        """Return nothing: every request comes through Python."""
        return 0.0, {}

    async def drain(self, timeout_s: float) -> None:
        """Refuse: there is no keeper, for whose sake a mount would be drained."""
        raise NotImplementedError
