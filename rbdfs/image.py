"""One open image or snapshot: its data, through librbd's aio requests."""

from __future__ import annotations

import errno
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import rbd
import trio

from rbdfs.ceph_errors import from_ceph

if TYPE_CHECKING:
    from collections.abc import Callable

    import rados

    from rbdfs.aio import AioBridge


class Binding(Protocol):
    """What this module uses of an open ``rbd.Image``; a fake for the tests has the same."""

    def size(self) -> int: ...
    def resize(self, size: int) -> None: ...
    def aio_read(self, offset: int, length: int, oncomplete: Callable[..., None]) -> object: ...
    def aio_write(self, data: bytes, offset: int, oncomplete: Callable[..., None]) -> object: ...
    def aio_flush(self, oncomplete: Callable[..., None]) -> object: ...
    def aio_close(self, oncomplete: Callable[..., None]) -> object: ...


class Image:
    """An open image or snapshot.

    Attributes:
        spec: ``POOL/[NAMESPACE/]IMAGE[@SNAP]``, for messages.
        read_only: whether it was opened so; librbd refuses writes to it then.
        size: bytes, as of the opening or the last refresh().
    """

    def __init__(self, bridge: AioBridge, binding: Binding, spec: str, *, read_only: bool) -> None:
        self.spec = spec
        self.read_only = read_only
        self.size = binding.size()
        self._bridge = bridge
        self._binding = binding
        self._in_flight = 0
        self._idle = trio.Event()
        self._idle.set()
        # A stuck image holds its own threads only.
        self._limiter = trio.CapacityLimiter(1)

    async def read(self, off: int, length: int) -> bytes:
        """Return *length* bytes at *off*, fewer only at the end of the image.

        Raises OSError: librbd's error, or EIO where it returned fewer bytes without one.
        """
        # librbd refuses a range that leaves the image (EINVAL), and an empty one is no request.
        length = min(length, self.size - off)
        if length <= 0:
            return b""
        submit = partial(self._binding.aio_read, off, length)
        ret, data = await self._call(f"read {off}~{length}", submit)
        if ret != length:
            raise OSError(errno.EIO, f"{self.spec}: read {off}~{length} returned {ret} bytes")
        return bytes(data)

    async def write(self, off: int, data: bytes) -> int:
        """Write *data* at *off*, as far as it lies inside the image; return the bytes written.

        Raises OSError: ENOSPC at or past the end, as a block device does. librbd itself would
        report success for a write that straddles the end, and drop the tail.
        """
        room = self.size - off
        if room <= 0:
            raise OSError(errno.ENOSPC, f"{self.spec}: write {off}~{len(data)} is past the end")
        data = data[:room]
        if data:
            submit = partial(self._binding.aio_write, data, off)
            await self._call(f"write {off}~{len(data)}", submit)
        return len(data)

    async def flush(self) -> None:
        """Return when everything acknowledged so far is on the OSDs; raise OSError if not."""
        await self._call("flush", self._binding.aio_flush)

    async def refresh(self) -> None:
        """Learn the size anew: librbd may have to read the header for it."""
        with from_ceph(f"{self.spec}: size"):
            self.size = await trio.to_thread.run_sync(self._binding.size, limiter=self._limiter)

    async def resize(self, size: int) -> None:
        """Resize to *size* bytes, which librbd hands to the lock's owner where that is another.

        Raises OSError. Shrinking is the caller's decision: what lies beyond is gone.
        """
        with from_ceph(f"{self.spec}: resize to {size}"):
            await trio.to_thread.run_sync(self._binding.resize, size, limiter=self._limiter)
        await self.refresh()

    async def close(self) -> None:
        """Close, after the requests in flight are complete; raise OSError if librbd cannot."""
        await self._idle.wait()
        with from_ceph(f"{self.spec}: close"):
            await self._bridge.call(f"{self.spec}: close", self._binding.aio_close)

    async def _call(self, action: str, submit: Callable[..., object]) -> tuple[int, Any]:
        if self._in_flight == 0:
            self._idle = trio.Event()
        self._in_flight += 1
        message = f"{self.spec}: {action}"
        try:
            with from_ceph(message):
                return await self._bridge.call(message, submit)
        finally:
            self._in_flight -= 1
            if self._in_flight == 0:
                self._idle.set()


async def open_image(
    bridge: AioBridge,
    ioctx: rados.Ioctx,
    spec: str,
    *,
    name: str | None = None,
    image_id: str | None = None,
    snap: str | None = None,
    read_only: bool,
) -> Image:
    """Open an image, by id where it has one (format 2), or a snapshot of it.

    A read-only image has no watcher and takes no lock; librbd does not follow later changes
    of its header. Raises OSError with librbd's errno.
    """
    submit = partial(_submit_open, ioctx, name, image_id, snap, read_only or snap is not None)
    with from_ceph(f"{spec}: open"):
        _, binding = await bridge.call(f"{spec}: open", submit)
    return Image(bridge, binding, spec, read_only=read_only or snap is not None)


def _submit_open(
    ioctx: rados.Ioctx,
    name: str | None,
    image_id: str | None,
    snap: str | None,
    read_only: bool,
    on_complete: Callable[..., None],
) -> None:
    rbd.RBD().aio_open_image(on_complete, ioctx, name, snap, read_only, image_id)
